"""The multi-power law of a loss curve: every fall of the learning rate pays off as its own power.

Each change of the rate at step k, by d_k downwards to eta_k, is worth B d_k G(X) once S_k of
learning rate has been spent since, with X = C eta_k^-gamma S_k and G(X) = 1 - (1 + X)^-beta. The
warm-up's rises are changes of the other sign and belong to the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.laws._curves import CurveLaw, log_of
from scalekit.laws.base import Array, Frame, Param, State

L_0, A, ALPHA, B, C, BETA, GAMMA = range(7)
_LOGS = [L_0, A, B, C, BETA]

_RATIO = 1.2
"""Changes whose age in steps differs by less share one place, their middle."""

_RATE_RATIO = 1.5
"""And whose rates do: the same for the other factor of X."""

_LEAST_RATE = 1e-4
"""Share of the peak below which a rate counts as this share: eta^-gamma of nothing is endless."""

_SCREENED = 150


@dataclass(frozen=True)
class Changes:
    """What n rows see of their schedules: their S1 and m groups of changes.

    Attributes:
        s1: (n,).
        row: (m,), the row of each group, rising.
        first: (n',), where each row's groups begin; rows without any are left out.
        seen: (n',), the rows that have groups.
        fall: (m,), the summed change downwards.
        log_spent: (m,), ln S_k.
        log_rate: (m,), ln eta_k.
    """

    s1: Array
    row: Array
    first: Array
    seen: Array
    fall: Array
    log_spent: Array
    log_rate: Array

    def summed(self, values: Array) -> Array:
        """Sum values (..., m) over each row's groups: (..., n)."""
        found = np.zeros((*values.shape[:-1], len(self.s1)))
        if len(self.seen):
            found[..., self.seen] = np.add.reduceat(values, self.first, axis=-1)
        return found


@dataclass(frozen=True)
class MultiPower(CurveLaw):
    """The law with A at the centre of S1, B times the largest rate, and X at a central change."""

    def lay_out(self, schedule: Array, steps: Array) -> tuple[Array, ...]:
        """Return S1 (m,), and row, fall, ln S_k, ln eta_k of every group of changes."""
        return np.cumsum(schedule)[steps], *group_changes(schedule, steps)

    def gather(
        self, parts: Sequence[tuple[Array, tuple[Array, ...]]], centre: Mapping[str, float] | None
    ) -> tuple[Mapping[str, float], Any]:
        """Put the runs' changes in the order of the rows, and centre them."""
        n = sum(len(rows) for rows, _ in parts)
        s1 = np.empty(n)
        for rows, part in parts:
            s1[rows] = part[0]
        row = np.concatenate([rows[part[1]] for rows, part in parts])
        order = np.argsort(row, kind="stable")
        row = row[order]
        fall, spent, rate = (
            np.concatenate([part[k] for _, part in parts])[order] for k in (2, 3, 4)
        )
        if centre is None:
            peak = max(float(s.max()) for s in self.schedules)
            centre = {
                "S1": float(np.log(s1).mean()),
                "peak": float(np.log(peak)),
                "S": float(spent.mean()) if len(spent) else 0.0,
            }
        seen, first = np.unique(row, return_index=True)
        groups = Changes(
            s1, row, first, seen, fall / np.exp(centre["peak"]),
            spent - centre["S"], rate - centre["peak"],
        )  # fmt: skip
        return centre, (np.log(s1) - centre["S1"], groups)

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L, its terms and the powers of the changes."""
        x, groups = frame.extra
        floor = np.exp(phi[:, [L_0]])
        power = np.exp(phi[:, [A]] - phi[:, [ALPHA]] * x)
        log_x = phi[:, [C]] - phi[:, [GAMMA]] * groups.log_rate + groups.log_spent
        # ln (1 + X), and X / (1 + X)
        grown = np.logaddexp(0.0, log_x)
        share = np.exp(log_x - grown)
        left = np.exp(-np.exp(phi[:, [BETA]]) * grown)
        worth = np.exp(phi[:, [B]])
        paid = worth * groups.summed(groups.fall * (1.0 - left))
        log_loss, scale = log_of(floor + power - paid)
        return State(log_loss, phi, frame, (floor, power, paid, scale, grown, share, left, worth))

    def jacobian(self, state: State) -> Array:
        """Differentiate log L."""
        floor, power, paid, scale, grown, share, left, worth = state.parts
        x, groups = state.frame.extra
        each = worth * groups.fall * left * np.exp(state.phi[:, [BETA]])
        jac = np.empty((*state.phi.shape, len(x)))
        jac[:, L_0], jac[:, A], jac[:, ALPHA], jac[:, B] = floor, power, -x * power, -paid
        jac[:, C] = -groups.summed(each * share)
        jac[:, BETA] = -groups.summed(each * grown)
        jac[:, GAMMA] = groups.summed(each * share * groups.log_rate)
        return jac / scale[:, None, :]

    def curvature(self, state: State, g: Array) -> Array:
        """Sum g times the loss's second derivatives over the loss, in closed form.

        Where the loss is continued by a tangent this is not exact; no fit ends there.
        """
        floor, power, paid, scale, grown, share, left, worth = state.parts
        x, groups = state.frame.extra
        outer = g / scale
        found = np.zeros((*state.phi.shape, state.phi.shape[1]))
        found[:, L_0, L_0] = np.sum(outer * floor, axis=1)
        for i, j, factor in ((A, A, 1.0), (A, ALPHA, -x), (ALPHA, ALPHA, x**2)):
            found[:, i, j] = found[:, j, i] = np.sum(outer * power * factor, axis=1)
        # What is still unpaid is e^-v of each fall, v = beta ln (1 + X): its slopes by ln C, gamma
        # and ln beta, and the only second derivatives of v that are not slopes again.
        beta = np.exp(state.phi[:, [BETA]])
        each = outer[:, groups.row] * worth * groups.fall * left
        lean = {C: np.ones_like(groups.log_rate), GAMMA: -groups.log_rate}
        slope = {BETA: beta * grown, **{k: beta * share * h for k, h in lean.items()}}
        found[:, B, B] = -np.sum(outer * paid, axis=1)
        for i, one in slope.items():
            found[:, B, i] = found[:, i, B] = -np.sum(each * one, axis=1)
            for j, other in slope.items():
                bend = one if j == BETA else other
                if BETA not in (i, j):
                    bend = beta * share * (1.0 - share) * lean[i] * lean[j]
                found[:, i, j] = np.sum(each * (one * other - bend), axis=1)
        return found

    def grid(self, n: int, seed: int) -> Array:
        """Spread fewer starting points than other laws: each is thousands of powers."""
        return super().grid(min(n, _SCREENED), seed)

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and move the amplitudes to the centre."""
        phi = np.array([float(theta[name]) for name in self.names])
        with np.errstate(divide="ignore"):
            phi[_LOGS] = np.maximum(np.log(phi[_LOGS]), -700.0)
        return phi - self._shift(phi, centre)

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.asarray(phi, dtype=float) + self._shift(phi, centre)
        theta[..., _LOGS] = np.exp(theta[..., _LOGS])
        return theta

    def _shift(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Return what the published coordinates have more than the internal ones: (..., p)."""
        found = np.zeros(np.shape(phi))
        found[..., A] = phi[..., ALPHA] * centre["S1"]
        found[..., B] = -centre["peak"]
        found[..., C] = phi[..., GAMMA] * centre["peak"] - centre["S"]
        return found


def group_changes(schedule: Array, steps: Array) -> tuple[Array, Array, Array, Array]:
    """Group the changes of a schedule that each step has seen by their age.

    A curve of T steps that decays throughout has T changes in every row; ages within a fifth of
    each other are taken at their middle, falls and rises apart, which misses the law's published
    curves by less than 1e-5 nats.

    Returns:
        row, summed fall, ln S_k and ln eta_k, each (m,), by row.
    """
    oldest = int(steps.max()) + 1
    ages = np.unique(np.floor(_RATIO ** np.arange(np.log(oldest + 1) / np.log(_RATIO) + 1)))
    falls = -np.diff(schedule, prepend=schedule[0])
    spent = np.cumsum(schedule)
    rate = np.log(np.maximum(schedule, _LEAST_RATE * schedule.max()))
    found = []
    for side in (1.0, -1.0):
        changed = np.flatnonzero(side * falls > 0)
        size = side * falls[changed]
        # Sums up to each change of its size, of size times S1 before it, of size times ln eta.
        columns = (size, size * (spent - schedule)[changed], size * rate[changed])
        sums = [np.concatenate([[0.0], np.cumsum(column)]) for column in columns]
        # A group holds the changes of age ages[j] - 1 to ages[j + 1] - 2, counted from the row.
        place = np.searchsorted(changed, steps[:, None] + 2 - ages, side="left")
        level = np.floor(rate[changed] / np.log(_RATE_RATIO))
        turns = np.flatnonzero(np.diff(level)) + 1
        place = np.concatenate([place, np.minimum(turns, place[:, :1])], axis=1)
        place = -np.sort(-place, axis=1)
        newer, older = place[:, :-1], place[:, 1:]
        row, group = np.nonzero(newer > older)
        size, early, log_rate = (s[newer[row, group]] - s[older[row, group]] for s in sums)
        log_spent = np.log(spent[steps[row]] - early / size)
        found.append((row, side * size, log_spent, log_rate / size))
    row, fall, log_spent, log_rate = (np.concatenate(c) for c in zip(*found, strict=True))
    order = np.argsort(row, kind="stable")
    return row[order], fall[order], log_spent[order], log_rate[order]


LAW = MultiPower(
    name="multi_power",
    formula="L = L_0 + A S1^-alpha - B sum_k d_k (1 - (1 + C eta_k^-gamma S_k)^-beta)",
    source="Luo et al. 2025, arXiv:2503.12811",
    inputs=("t", "i"),
    params=(
        Param("L_0", "log", 1e-5, 1e3, "loss of endless training", (0.5, 3.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the power of S1", (0.05, 1.5)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of S1", (0.1, 1.0)),
        Param("B", "amplitude", 1e-6, 1e3, "what the whole decay is worth", (0.02, 0.3)),
        Param("C", "amplitude", 1e-6, 1e8, "how soon a change pays off", (1.0, 300.0)),
        Param("beta", "log", 0.01, 10.0, "exponent of what is still unpaid", (0.2, 1.0)),
        Param("gamma", "linear", 0.0, 3.0, "exponent of the rate in it", (0.2, 1.0)),
    ),
    coded=("i",),
    reads=("lr",),
    condition_limit=1e9,
)
