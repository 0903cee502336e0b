"""Farseer's law: exponent and amplitude of the data term both change with N."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array, Frame, Law, Param, State

SMALL_S, Q_EXP, S, BIG_B, B_EXP, Q, BIG_A, A_EXP, E_TERM = range(9)
_SCALED = {SMALL_S: Q_EXP, BIG_B: B_EXP, BIG_A: A_EXP}
"""Each coefficient of a power of N, with its exponent."""


@dataclass(frozen=True)
class Farseer(Law):
    """The law with each coefficient of a power of N taken at the centre."""

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L and its two terms."""
        x, y0 = frame.logs["N"], frame.centre["D"]
        log_d = frame.logs["D"] + y0
        powers = {c: phi[:, [c]] * np.exp(phi[:, [e]] * x) for c, e in _SCALED.items()}
        floor = np.exp(powers[SMALL_S] + phi[:, [S]])
        rate = np.exp(powers[BIG_A] + phi[:, [E_TERM]])
        data = np.exp(powers[BIG_B] + phi[:, [Q]] - rate * log_d)
        parts = (floor, data, rate * log_d, powers)
        return State(np.log(floor + data), phi, frame, parts)

    def jacobian(self, state: State) -> Array:
        """Differentiate log L."""
        floor, data, fall, powers = state.parts
        total = floor + data
        x = state.frame.logs["N"]
        weights = {SMALL_S: floor, BIG_B: data, BIG_A: -fall * data}
        jac = np.empty((*state.phi.shape, total.shape[1]))
        for c, e in _SCALED.items():
            jac[:, c] = weights[c] * np.exp(state.phi[:, [e]] * x)
            jac[:, e] = weights[c] * powers[c] * x
        jac[:, S], jac[:, Q], jac[:, E_TERM] = weights[SMALL_S], weights[BIG_B], weights[BIG_A]
        return jac / total[:, None, :]

    def curvature(self, state: State, g: Array) -> Array:
        """Sum g times the loss's second derivatives over the loss, in closed form."""
        floor, data, fall, powers = state.parts
        total = floor + data
        x = state.frame.logs["N"]
        count, p = state.phi.shape
        found = np.zeros((count, p, p))
        # Each group is the exponential of `c e^(e x) + constant`, the third inside the second.
        for c, constant, outer in (
            (SMALL_S, S, g * floor / total),
            (BIG_B, Q, g * data / total),
            (BIG_A, E_TERM, -g * data / total * fall),
        ):
            e = _SCALED[c]
            slope = _slopes(state.phi, c, constant, powers[c], x)
            found += (slope * outer[:, None, :]) @ slope.transpose(0, 2, 1)
            rise = np.exp(state.phi[:, [e]] * x)
            mixed = np.einsum("sn,sn->s", outer, rise * x)
            found[:, c, e] += mixed
            found[:, e, c] += mixed
            found[:, e, e] += np.einsum("sn,sn->s", outer, powers[c] * x**2)
        # The data term is e^(v - fall): the square of the fall's slope, and its product with v's.
        v = _slopes(state.phi, BIG_B, Q, powers[BIG_B], x)
        h = _slopes(state.phi, BIG_A, E_TERM, powers[BIG_A], x) * fall[:, None, :]
        outer = (g * data / total)[:, None, :]
        cross = (v * outer) @ h.transpose(0, 2, 1)
        return found + (h * outer) @ h.transpose(0, 2, 1) - cross - cross.transpose(0, 2, 1)

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Move the coefficients of powers of N to the centre."""
        phi = np.array([float(theta[name]) for name in self.names])
        for c, e in _SCALED.items():
            phi[c] *= np.exp(phi[e] * centre["N"])
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.array(phi, dtype=float)
        for c, e in _SCALED.items():
            theta[..., c] *= np.exp(-theta[..., e] * centre["N"])
        return theta


def _slopes(phi: Array, c: int, constant: int, power: Array, x: Array) -> Array:
    """Differentiate `c e^(e x) + constant` by the internal coordinates: (S, p, n)."""
    slope = np.zeros((*phi.shape, len(x)))
    slope[:, c] = np.exp(phi[:, [_SCALED[c]]] * x)
    slope[:, _SCALED[c]] = power * x
    slope[:, constant] = 1.0
    return slope


LAW = Farseer(
    name="farseer",
    formula="L = e^(s N^q + S) + e^(B N^b + Q) D^(-e^(A N^a + E))",
    source="Li et al. 2025, arXiv:2506.10972 (Predictable Scale II, Farseer)",
    inputs=("N", "D"),
    params=(
        Param("s", "linear", -30.0, 30.0, "coefficient of the size's floor", (-2.0, 0.0)),
        Param("q", "linear", -1.0, 1.0, "its exponent of N", (0.05, 0.3)),
        Param("S", "linear", -30.0, 30.0, "constant of the size's floor", (-0.5, 1.5)),
        Param("B", "linear", -60.0, 60.0, "coefficient of the data term's amplitude", (1.0, 15.0)),
        Param("b", "linear", -1.0, 1.0, "its exponent of N", (-0.3, -0.05)),
        Param("Q", "linear", -60.0, 60.0, "constant of that amplitude", (-3.0, 3.0)),
        Param("A", "linear", -60.0, 60.0, "coefficient of the data term's rate", (-6.0, -1.0)),
        Param("a", "linear", -1.0, 1.0, "its exponent of N", (0.02, 0.2)),
        Param("E", "linear", -60.0, 60.0, "constant of that rate", (0.0, 4.0)),
    ),
    held=("q", "S", "b", "Q", "a", "E"),
    condition_limit=1e14,
    # Of 40 random starts about four reach the optimum of noiseless runs.
    starts=40,
)
