"""The annealing law of a loss curve: a power of the summed learning rate, less what decay gave.

S1 is the sum of all learning rates so far. S2 is the area of the annealing momentum: each fall of
the rate pays off over the 1 / (1 - lambda) steps that follow it. Both include the warm-up, whose
rise is a fall of the other sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from scalekit.laws._curves import CurveLaw, log_of
from scalekit.laws.base import Array, Frame, Param, State

L_0, A, ALPHA, C = range(4)


@dataclass(frozen=True)
class Annealing(CurveLaw):
    """The law in internal coordinates: ln L_0, alpha, and ln A and ln C at the centre.

    Attributes:
        memory: How much of the annealing momentum is left after a step.
    """

    memory: float = 0.999

    def lay_out(self, schedule: Array, steps: Array) -> tuple[Array, Array]:
        """Return S1 and S2 at the steps."""
        s1, s2 = areas(schedule, self.memory)
        return s1[steps], s2[steps]

    def gather(
        self, parts: Sequence[tuple[Array, tuple[Array, Array]]], centre: Mapping[str, float] | None
    ) -> tuple[Mapping[str, float], tuple[Array, Array]]:
        """Centre ln S1 on its mean and S2 on its largest size."""
        n = sum(len(rows) for rows, _ in parts)
        s1, s2 = np.empty(n), np.empty(n)
        for rows, (one, two) in parts:
            s1[rows], s2[rows] = one, two
        if centre is None:
            largest = float(np.abs(s2).max()) or 1.0
            centre = {"S1": float(np.log(s1).mean()), "S2": float(np.log(largest))}
        return centre, (np.log(s1) - centre["S1"], s2 / np.exp(centre["S2"]))

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L and its terms."""
        x, fall = frame.extra
        floor = np.exp(phi[:, [L_0]])
        power = np.exp(phi[:, [A]] - phi[:, [ALPHA]] * x)
        paid = np.exp(phi[:, [C]]) * fall
        log_loss, scale = log_of(floor + power - paid)
        return State(log_loss, phi, frame, (floor, power, paid, scale))

    def jacobian(self, state: State) -> Array:
        """Differentiate log L."""
        floor, power, paid, scale = state.parts
        x, _ = state.frame.extra
        jac = np.stack([np.broadcast_to(floor, power.shape), power, -x * power, -paid], axis=1)
        return jac / scale[:, None, :]

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and move both amplitudes to the centre."""
        phi = np.array([float(theta[name]) for name in self.names])
        with np.errstate(divide="ignore"):
            phi[[L_0, A, C]] = np.maximum(np.log(phi[[L_0, A, C]]), -700.0)
        phi[A] -= phi[ALPHA] * centre["S1"]
        phi[C] += centre["S2"]
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.array(phi, dtype=float)
        theta[..., A] += theta[..., ALPHA] * centre["S1"]
        theta[..., C] -= centre["S2"]
        for k in (L_0, A, C):
            theta[..., k] = np.exp(theta[..., k])
        return theta


def areas(schedule: Array, memory: float) -> tuple[Array, Array]:
    """Return S1 and S2 by step, (T,), from the learning rate of every step, in O(T).

    >>> s1, s2 = areas(np.array([1.0, 1.0, 0.5, 0.5]), 0.5)
    >>> s1.tolist(), s2.tolist()
    ([1.0, 2.0, 2.5, 3.0], [0.0, 0.0, 0.5, 0.75])
    """
    falls = 0.0 - np.diff(schedule, prepend=schedule[0])  # no minus zero
    momentum = accumulate(falls.tolist(), lambda held, fall: memory * held + fall)
    return np.cumsum(schedule), np.cumsum(np.fromiter(momentum, float, len(falls)))


LAW = Annealing(
    name="annealing",
    formula="L = L_0 + A S1^-alpha - C S2",
    source="Tissue et al. 2024, arXiv:2408.11029",
    inputs=("t", "i"),
    params=(
        Param("L_0", "log", 1e-5, 1e3, "loss of endless training", (0.5, 3.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the power of S1", (0.05, 1.5)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of S1", (0.1, 1.0)),
        Param("C", "amplitude", 1e-8, 1e2, "what a unit of S2 is worth", (0.005, 0.3)),
    ),
    coded=("i",),
    reads=("lr",),
)
