"""The broken power law: powers that change their exponent smoothly at a break.

With one break; of training FLOPs unless another input is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array, Frame, Law, Param, State

FLOOR, HEIGHT, C_0 = range(3)
"""Positions of a, b and c_0; each break adds c_i, d_i and f_i."""


@dataclass(frozen=True)
class Broken(Law):
    """The law in internal coordinates: ln a, ln b at the centre, c_i, ln d_i from it, ln f_i."""

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L and its power; keep each break's distance and what it has bent."""
        x = frame.logs[self.inputs[0]]
        log_power = phi[:, [HEIGHT]] - phi[:, [C_0]] * x
        breaks = []
        for c, d, f in self._breaks:
            width = np.exp(phi[:, [f]])
            past = (x - phi[:, [d]]) / width
            bent = np.logaddexp(0.0, past)
            log_power = log_power - phi[:, [c]] * width * bent
            breaks.append((past, bent, width))
        power = np.exp(log_power)
        total = np.exp(phi[:, [FLOOR]]) + power
        return State(np.log(total), phi, frame, (power, total, breaks))

    def jacobian(self, state: State) -> Array:
        """Differentiate log L."""
        power, total, breaks = state.parts
        x = state.frame.logs[self.inputs[0]]
        jac = np.empty((*state.phi.shape, len(x)))
        jac[:, FLOOR] = np.exp(state.phi[:, [FLOOR]])
        jac[:, HEIGHT], jac[:, C_0] = power, -x * power
        for (c, d, f), (past, bent, width) in zip(self._breaks, breaks, strict=True):
            share = np.exp(past - bent)
            jac[:, c] = -width * bent * power
            jac[:, d] = state.phi[:, [c]] * share * power
            jac[:, f] = -state.phi[:, [c]] * width * (bent - past * share) * power
        return jac / total[:, None, :]

    @property
    def _breaks(self) -> list[tuple[int, int, int]]:
        """The positions of each break's exponent, place and width."""
        return [(k, k + 1, k + 2) for k in range(C_0 + 1, len(self.params), 3)]

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and measure from the centre."""
        phi = np.array([float(theta[name]) for name in self.names])
        with np.errstate(divide="ignore"):
            phi[self._logs] = np.maximum(np.log(phi[self._logs]), -700.0)
        return phi - self._shift(phi, centre)

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.asarray(phi, dtype=float) + self._shift(phi, centre)
        theta[..., self._logs] = np.exp(theta[..., self._logs])
        return theta

    @property
    def _logs(self) -> list[int]:
        return [FLOOR, HEIGHT, *(k for _, d, f in self._breaks for k in (d, f))]

    def _shift(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Return what the published coordinates have more than the internal ones: (..., p)."""
        middle = centre[self.inputs[0]]
        found = np.zeros(np.shape(phi))
        found[..., HEIGHT] = phi[..., C_0] * middle
        for _, d, _ in self._breaks:
            found[..., d] = middle
        return found


def broken(symbol: str, n_breaks: int = 1) -> Broken:
    """Build the law of one input with some breaks.

    >>> broken("D", 2).names
    ('a', 'b', 'c_0', 'c_1', 'd_1', 'f_1', 'c_2', 'd_2', 'f_2')
    """
    params = [
        Param("a", "log", 1e-6, 1e3, "limit", (0.1, 3.0)),
        Param("b", "amplitude", 1e-8, 1e4, "amplitude", (0.05, 3.0)),
        Param("c_0", "linear", -3.0, 3.0, "exponent before the first break", (0.01, 0.6)),
    ]
    for i in range(1, n_breaks + 1):
        params += [
            Param(f"c_{i}", "linear", -3.0, 3.0, f"what break {i} adds to it", (-0.4, 0.6)),
            # From the geometric mean of the input.
            Param(f"d_{i}", "amplitude", 1e-4, 1e4, f"place of break {i}", (0.05, 20.0)),
            Param(f"f_{i}", "log", 0.02, 5.0, f"width of break {i}", (0.1, 1.5)),
        ]
    return Broken(
        name="bnsl",
        formula=f"L = a + b {symbol}^-c_0 prod_i (1 + ({symbol} / d_i)^(1 / f_i))^(-c_i f_i)",
        source="Caballero et al. 2022, arXiv:2210.14891",
        inputs=(symbol,),
        params=tuple(params),
        starts=40,
        condition_limit=1e9,
        asymptotes=("a",),
    )


LAW = broken("C")
