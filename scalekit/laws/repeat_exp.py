"""Repeated data as tokens worth less and less: an exponential decay of their value.

Unique tokens U_D = min(U, D) and the size U_N that suits them count in full; what goes beyond,
R_D = D / U_D - 1 and R_N = N / U_N - 1 times over, saturates at R_D_star and R_N_star of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array, Frame, Law, Param, State

_ENDLESS = 300.0
"""Logarithm of repetitions beyond which they are all alike: the last ones are worth nothing."""

E, A, B, ALPHA, BETA, RD, RN = range(7)


@dataclass(frozen=True)
class RepeatExp(Law):
    """The law in internal coordinates (ln E, ln A and ln B at the centre, alpha, beta, ln R*)."""

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre N and D; keep the logarithms of unique tokens as they are."""
        logs = {s: np.log(np.asarray(inputs[s], dtype=float)) for s in ("N", "D", "U")}
        if centre is None:
            centre = {s: float(logs[s].mean()) for s in ("N", "D")}
        unique = np.minimum(logs["U"], logs["D"])
        centred = {s: logs[s] - centre[s] for s in ("N", "D")}
        return Frame(centre, {**centred, "U": logs["U"]}, (logs["N"], unique, logs["D"] - unique))

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L; keep effective sizes and their slopes."""
        log_n, log_u, log_epochs = frame.extra
        x0, y0 = frame.centre["N"], frame.centre["D"]
        p = [phi[:, [k]] for k in range(7)]
        share = p[ALPHA] + p[BETA]
        # ln G of Hoffmann et al.'s optimum, and its derivative by the exponents.
        gap = np.log(p[ALPHA] / p[BETA]) + (p[A] + p[ALPHA] * x0) - (p[B] + p[BETA] * y0)
        log_g = gap / share
        ratio = p[BETA] / p[ALPHA]
        suited = ratio * (log_u + log_g) + log_g
        is_small = suited >= log_n
        log_un = np.where(is_small, log_n, suited)
        eff_n, by_un, by_rn = _effective(log_un, log_n - log_un, np.exp(p[RN]))
        eff_d, _, by_rd = _effective(log_u, log_epochs, np.exp(p[RD]))
        term_a = np.exp(p[A] - p[ALPHA] * (eff_n - x0))
        term_b = np.exp(p[B] - p[BETA] * (eff_d - y0))
        total = np.exp(p[E]) + term_a + term_b
        slopes = (log_g, share, ratio, log_u, np.where(is_small, 0.0, by_un))
        parts = (term_a, term_b, total, eff_n - x0, eff_d - y0, by_rn, by_rd, slopes)
        return State(np.log(total), phi, frame, parts)

    def jacobian(self, state: State) -> Array:
        """Differentiate log L, through the suited size U_N as well."""
        term_a, term_b, total, x, y, by_rn, by_rd, slopes = state.parts
        log_g, share, ratio, log_u, by_un = slopes
        x0, y0 = state.frame.centre["N"], state.frame.centre["D"]
        alpha, beta = state.phi[:, [ALPHA]], state.phi[:, [BETA]]
        # ln U_N = ratio (ln U + ln G) + ln G
        by_g = ratio + 1.0
        g_a = 1.0 / share
        g_alpha = (1.0 / alpha + x0 - log_g) / share
        g_beta = (-1.0 / beta - y0 - log_g) / share
        un_alpha = by_g * g_alpha - ratio / alpha * (log_u + log_g)
        un_beta = by_g * g_beta + (log_u + log_g) / alpha
        through = -alpha * term_a * by_un
        jac = np.empty((*state.phi.shape, total.shape[1]))
        jac[:, E] = np.exp(state.phi[:, [E]])
        jac[:, A] = term_a + through * by_g * g_a
        jac[:, B] = term_b - through * by_g * g_a
        jac[:, ALPHA] = -x * term_a + through * un_alpha
        jac[:, BETA] = -y * term_b + through * un_beta
        jac[:, RD] = -beta * term_b * by_rd
        jac[:, RN] = -alpha * term_a * by_rn
        return jac / total[:, None, :]

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and move the amplitudes to the centre."""
        phi = np.array([float(theta[name]) for name in self.names])
        phi[[E, A, B, RD, RN]] = np.log(phi[[E, A, B, RD, RN]])
        phi[A] -= phi[ALPHA] * centre["N"]
        phi[B] -= phi[BETA] * centre["D"]
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.array(phi, dtype=float)
        theta[..., A] += theta[..., ALPHA] * centre["N"]
        theta[..., B] += theta[..., BETA] * centre["D"]
        for k in (E, A, B, RD, RN):
            theta[..., k] = np.exp(theta[..., k])
        return theta


def _effective(log_full: Array, log_over: Array, star: Array) -> tuple[Array, Array, Array]:
    """Return the logarithm of full (1 + R* (1 - e^(-R / R*))) and two derivatives.

    R = e^log_over - 1 repetitions. The derivatives are by log_full at a fixed product
    full (1 + R), and by ln R*.
    """
    repeats = np.expm1(np.clip(log_over, 0.0, _ENDLESS))
    decay = np.exp(-repeats / star)
    worth = 1.0 + star * (1.0 - decay)
    by_full = 1.0 - (1.0 + repeats) * decay / worth
    by_star = (star * (1.0 - decay) - repeats * decay) / worth
    return log_full + np.log(worth), by_full, by_star


LAW = RepeatExp(
    name="repeat_exp",
    formula="L = E + A N'^-alpha + B D'^-beta, D' = U_D (1 + R_D_star (1 - e^(-R_D / R_D_star)))",
    source="Muennighoff et al. 2023, arXiv:2305.16264, section 3 (N' likewise)",
    inputs=("N", "D", "U"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the model-size term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-8, 1e4, "amplitude of the data term", (0.05, 3.0)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of N", (0.1, 0.8)),
        Param("beta", "linear", 0.01, 3.0, "exponent of D", (0.1, 0.8)),
        Param("R_D_star", "log", 1e-2, 1e4, "repetitions of data worth having", (1.0, 100.0)),
        Param("R_N_star", "log", 1e-2, 1e4, "excess of size worth having", (1.0, 100.0)),
    ),
    condition_limit=1e9,
)
