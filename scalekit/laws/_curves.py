"""Laws of loss curves: the loss at a step from the learning rates of all steps before it.

A table holds step lines, a few hundred a curve: run, step, lr, loss. The law needs the rate of
every step from the first, so the lines are filled in between and before, and rows that a fit
leaves out still count as history.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalekit.errors import InputError
from scalekit.laws.base import Array, Frame, Law

WARMUP = "warmup_steps"
"""Column of the steps over which the rate rose from zero, where the first lines are missing."""

_BLOCKS = 5
"""Parts of a curve that are left out, and resampled, together.

They are too short for intervals: errors that correlate by .95 from line to line outlast them, and
intervals that took them as independent held the truth in 73 to 89 % for annealing and 61 to 74 %
for multi_power at nominal 90 % (three curves of 79 lines). Intervals measure the errors' memory.
"""

_GAP = 3.0
"""The first line may come this many spacings after the start before the warm-up must be told."""

CAUTION = (
    "intervals are of errors along these curves; another schedule can err by more, hold out whole "
    "runs to see"
)

_LEAST = 1e-2
"""Below this loss, in its own unit, the logarithm is continued by its tangent."""


@dataclass(frozen=True)
class CurveLaw(Law):
    """A law of the loss at step t of the run i.

    Attributes:
        schedules: The learning rate of every step from 0 on, an array a run.
    """

    schedules: tuple[Array, ...] = ()
    caution: str = CAUTION

    def on(self, *schedules: Array) -> CurveLaw:
        """Return the law of runs with these learning rates, by step from 0 on.

        >>> from scalekit.laws.annealing import LAW
        >>> flat = LAW.on(np.full(1001, 3e-4))
        >>> theta = {"L_0": 2.4, "A": 0.6, "alpha": 0.5, "C": 0.56}
        >>> flat.predict(theta, {"t": [1000], "i": [1]}).round(4)
        array([3.4949])
        """
        return replace(self, schedules=tuple(np.asarray(s, dtype=float) for s in schedules))

    def bind(
        self, columns: Mapping[str, Array], rows: Array, where: str
    ) -> tuple[Law, dict[str, Array]]:
        """Read each run's schedule from all its lines.

        Raises:
            InputError: Runs of several sizes, a run with one line or two at one step, rates that
                are no numbers, or a start that the lines do not show.
        """
        _check_one_size(columns, rows, where)
        n = len(columns["step"])
        words = columns["run"] if "run" in columns else np.full(n, "the curve", dtype=object)
        runs, codes = np.unique([str(w) for w in words], return_inverse=True)
        used = np.unique(codes[rows])
        schedules = [
            read_schedule(columns, np.flatnonzero(codes == k), f"{where}: run {str(runs[k])!r}")
            for k in used
        ]
        return self.on(*schedules), {"i": np.searchsorted(used, codes[rows]) + 1.0}

    def clusters(self, inputs: Mapping[str, Array]) -> Array:
        """Take each part of a curve together: neighbouring lines err alike."""
        found = np.zeros(len(inputs["t"]), dtype=int)
        for code in np.unique(inputs["i"]):
            mine = np.flatnonzero(inputs["i"] == code)
            place = np.argsort(np.argsort(inputs["t"][mine], kind="stable"), kind="stable")
            found[mine] = int(code) * _BLOCKS + place * _BLOCKS // len(mine)
        return np.unique(found, return_inverse=True)[1]

    def sequence(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the run and the step of each line."""
        return inputs["i"], inputs["t"]

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Lay out what the schedules mean for each row."""
        steps = np.asarray(inputs["t"]).astype(int)
        code = np.asarray(inputs["i"]).astype(int)
        parts = [
            (np.flatnonzero(code == k), self.lay_out(self.schedules[k - 1], steps[code == k]))
            for k in np.unique(code)
        ]
        middle, extra = self.gather(parts, centre)
        return Frame(middle, {"t": np.log(steps)}, extra)

    @abstractmethod
    def lay_out(self, schedule: Array, steps: Array) -> Any:
        """Return what one run's rows (m,) need of its schedule."""

    @abstractmethod
    def gather(
        self, parts: Sequence[tuple[Array, Any]], centre: Mapping[str, float] | None
    ) -> tuple[Mapping[str, float], Any]:
        """Put the runs' parts together: the centre, and what the frame holds."""


def log_of(total: Array) -> tuple[Array, Array]:
    """Return a logarithm that exists for what is not positive too, and its slope's inverse.

    A law that subtracts can fall below zero far from the fit; a tangent leads the solver back.
    """
    scale = np.maximum(total, _LEAST)
    return np.log(scale) + (total - scale) / scale, scale


def _check_one_size(columns: Mapping[str, Array], rows: Array, where: str) -> None:
    sizes = np.unique(columns["params"][rows]) if "params" in columns else np.empty(0)
    if len(sizes) > 1 and sizes.dtype != object:
        raise InputError(
            f"{where}: curves of {len(sizes)} sizes, params {sizes[0]:.6g} to {sizes[-1]:.6g}, but "
            f"the law holds for one; keep one with --drop 'params!={sizes[0]:.17g}'"
        )


def read_schedule(columns: Mapping[str, Array], lines: Array, where: str) -> Array:
    """Return a run's learning rate by step, (last step + 1,), from its lines.

    Between two lines the rate is interpolated, but a change between two flat stretches is a jump
    at the later line. Before the first it is constant, or rises in a straight line from zero over
    the steps that the column `warmup_steps` tells.
    """
    steps, rates = columns["step"][lines], np.asarray(columns["lr"][lines], dtype=float)
    if len(lines) < 2:
        raise InputError(
            f"{where} has one line, but a curve has many; name a table of step lines with the "
            "columns run, step, lr, loss"
        )
    if not np.isfinite(rates).all() or (rates < 0).any():
        row = int(lines[np.flatnonzero(~(rates >= 0))[0]]) + 1
        raise InputError(f"{where} has no learning rate in row {row}; a curve needs them all")
    order = np.argsort(steps, kind="stable")
    steps, rates = steps[order], rates[order]
    gaps = np.diff(steps)
    if (gaps == 0).any():
        step = steps[np.flatnonzero(gaps == 0)[0]]
        raise InputError(
            f"{where} has step {step:g} twice; say which column tells curves apart with --map "
            "run=COLUMN, or --map run=ONE+OTHER where two do"
        )
    warmup = _warmup(columns, lines, where)
    if warmup is None and steps[0] > _GAP * np.median(gaps):
        raise InputError(
            f"{where} begins at step {steps[0]:g}, and the rates before it are not in the table; "
            f"tell over how many steps they rose from zero with --map {WARMUP}=2000, 0 for none"
        )
    return _filled(steps, rates, warmup or 0.0)


def _warmup(columns: Mapping[str, Array], lines: Array, where: str) -> float | None:
    if WARMUP not in columns:
        return None
    told = np.unique(columns[WARMUP][lines])
    if len(told) != 1 or told.dtype == object or not told[0] >= 0:
        raise InputError(f"{where} tells {WARMUP} as {told.tolist()}; give one number of steps")
    return float(told[0])


def _filled(steps: Array, rates: Array, warmup: float) -> Array:
    every = np.arange(int(steps[-1]) + 1)
    found = np.interp(every, steps, rates)
    flat = np.concatenate([[True], np.diff(rates) == 0, [True]])
    for k in np.flatnonzero(~flat[1:-1] & flat[:-2] & flat[2:]):
        jump = (every > steps[k]) & (every < steps[k + 1])
        found[jump] = rates[k]
    rise = min(warmup, float(steps[0]))
    if rise > 0:
        early = every < rise
        found[early] = rates[0] * every[early] / rise
    return found
