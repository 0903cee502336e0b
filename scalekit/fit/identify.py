"""Whether a design can tell a law's parameters apart, looked at before anything is fitted.

More runs on one line never help: what counts is where they lie. Only inputs enter here, and for the
condition a starting point that resembles the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array, Frame, Law

RAY = 1e-3
"""Below this ratio of the variances of the inputs' logarithms, across their main direction over
along it, all runs lie on one line: 5 % scatter about D = kN gives 6e-5, two budgets a factor of two
apart 0.1."""

_NEGLIGIBLE = 1e-8
_ROUNDING = 1e-13
_HALF_PERCENT = 0.005


@dataclass(frozen=True)
class Design:
    """What the inputs alone say.

    Attributes:
        n_points: Different inputs.
        n_free: Free parameters.
        rank: Of the Jacobian at a starting point, its columns of equal length.
        condition: Of its normal matrix there.
        line: On which line all runs lie, in words, or None.
        across: Variance of the inputs' logarithms across their main direction over that along it;
            None for a law of other than two inputs.
        tokens_per_param: Smallest and largest, or None.
    """

    n_points: int
    n_free: int
    rank: int
    condition: float
    line: str | None
    across: float | None
    tokens_per_param: tuple[float, float] | None

    @property
    def is_identified(self) -> bool:
        """Whether these inputs can separate the parameters."""
        return self.line is None and self.rank == self.n_free


def survey(
    law: Law, frame: Frame, free: Array, start: Array, inputs: Mapping[str, Array]
) -> Design:
    """Look at a design.

    Args:
        law: What is to be fitted.
        frame: The inputs, centred.
        free: (p, m), how internal coordinates follow from free ones.
        start: (p,), internal coordinates that resemble the runs.
        inputs: By symbol, each (n,).
    """
    jacobian = free.T @ law.jacobian(law.state(start[None], frame))[0]
    points = np.stack([np.round(frame.logs.get(s, inputs[s]), 12) for s in law.inputs])
    ratio = None
    if {"N", "D"} <= set(inputs):
        per = inputs["D"] / inputs["N"]
        ratio = (float(per.min()), float(per.max()))
    return Design(
        count_distinct(points),
        free.shape[1],
        _rank(jacobian),
        condition_of(jacobian),
        line_of(law, frame, free.shape[1]),
        _across(law, frame),
        ratio,
    )


def count_distinct(points: Array) -> int:
    """Count the different columns of (k, n)."""
    return len(np.unique(keys_of(points)))


def keys_of(points: Array) -> Array:
    """Return a whole number (n,) a column of (k, n), equal for equal columns.

    A hash of the numbers' bits: two of a million columns share one by chance once in 4e7 tables,
    and sorting these is three times as fast as sorting columns.
    """
    # Adding zero turns -0 into 0, which it equals.
    bits = (np.ascontiguousarray(points, dtype=float) + 0.0).view(np.uint64)
    found = np.zeros(bits.shape[1], dtype=np.uint64)
    for row in bits:
        found = (found ^ row) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(31)
    return found


def condition_of(jacobian: Array) -> float:
    """Return the condition of the normal matrix of (m, n), its rows of equal length."""
    if not len(jacobian):
        return 1.0
    lengths = np.sqrt(np.sum(jacobian**2, axis=1))
    if not lengths.all():
        return float("inf")
    columns = jacobian / lengths[:, None]
    return float(np.linalg.cond(columns @ columns.T))


def line_of(law: Law, frame: Frame, n_free: int) -> str | None:
    """Say on which line all runs lie, if they do; no number of them then separates the terms."""
    inputs = _varied(law)
    logs = np.stack([frame.logs[s] for s in inputs])
    constant = [s for s, row in zip(inputs, logs, strict=True) if np.ptp(row) < 1e-9]
    if constant:
        return f"every run has the same {constant[0]}"
    across = _across(law, frame)
    if across is None or n_free <= 3 or across > RAY:
        return None
    slope = float(np.polyfit(logs[0], logs[1], 1)[0])
    one, other = inputs
    if abs(slope - 1) < 0.1:
        return f"all runs lie on one ray, {other} proportional to {one}"
    if abs(slope + 1) < 0.1:
        return f"all runs lie on one budget, {other} times {one} constant"
    return f"all runs lie on one line, {other} ~ {one}^{slope:.2f}"


def exponent_sd(
    law: Law,
    theta: Mapping[str, float],
    inputs: Mapping[str, Array],
    *,
    noise: float = _HALF_PERCENT,
    power: float = 1.0,
) -> float | None:
    """Return the standard deviation of the frontier's exponent that a design leaves.

    To first order, with even noise; infinite where the design does not identify it.

    Args:
        law: A law whose optimum has a closed form.
        theta: Its parameters.
        inputs: The design, by symbol, each (n,).
        noise: Standard deviation of log loss.
        power: Of N in the cost law.

    Returns:
        None where the exponent does not rest on two parameters.
    """
    named = exponent_names(law)
    if named is None:
        return None
    frame = law.frame(inputs)
    phi = law.to_internal(theta, frame.centre)
    jacobian = law.jacobian(law.state(phi[None], frame))[0]
    vectors, values, _ = np.linalg.svd(jacobian, full_matrices=False)
    a, b = (law.index(name) for name in named)
    share = phi[a] + power * phi[b]
    slope = np.zeros(len(phi))
    slope[[a, b]] = np.array([-phi[b], phi[a]]) / share**2
    seen = values > _ROUNDING * values[0]
    if len(values) < len(phi) or not seen.all():
        return float("inf")
    return noise * float(np.linalg.norm(vectors.T @ slope / values))


def exponent_names(law: Law) -> tuple[str, str] | None:
    """Name the exponents of N and D that the law's optimum rests on; None unless they are two."""
    marked = {name: float(k + 1) for k, name in enumerate(law.names)}
    found = law.allocation(marked)
    if found is None:
        return None
    _, a, _, b = (law.names[round(value) - 1] for value in found)
    return None if a == b else (a, b)


def _varied(law: Law) -> list[str]:
    # One source of data has one number of unique tokens, and that is no fault of the design.
    return [s for s in law.inputs if s not in ("U", *law.coded)]


def _across(law: Law, frame: Frame) -> float | None:
    inputs = _varied(law)
    if len(inputs) != 2:
        return None
    small, large = np.linalg.eigvalsh(np.cov(np.stack([frame.logs[s] for s in inputs])))
    return float(max(small, 0.0) / large) if large > 0 else 0.0


def _rank(jacobian: Array) -> int:
    lengths = np.sqrt(np.sum(jacobian**2, axis=1))
    rows = jacobian[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return 0
    return int(np.sum(np.linalg.svd(rows, compute_uv=False) > _NEGLIGIBLE))
