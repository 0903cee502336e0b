"""Kaplan's joint law of N and D, without an irreducible loss.

Inside it is the coupled law with E = 0 and beta = 1: alpha = alpha_N / alpha_D, k = alpha_D,
A = N_c^alpha and B = D_c. It is fitted there and published in Kaplan's own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Array, Param


@dataclass(frozen=True)
class Kaplan(PowerLaw):
    """The law in the coordinates of the coupled one, published in its own."""

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Return (ln A, ln B at the centre, alpha, k)."""
        alpha = theta["alpha_N"] / theta["alpha_D"]
        return np.array(
            [
                alpha * (np.log(theta["N_c"]) - centre["N"]),
                np.log(theta["D_c"]) - centre["D"],
                alpha,
                theta["alpha_D"],
            ]
        )

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        log_a, log_b, alpha, k = np.moveaxis(np.asarray(phi, dtype=float), -1, 0)
        found = [np.exp(log_a / alpha + centre["N"]), np.exp(log_b + centre["D"]), alpha * k, k]
        return np.stack(found, axis=-1)

    def published_jacobian(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Differentiate the published parameters by the internal coordinates: (4, 4)."""
        log_a, _, alpha, k = phi
        n_c, d_c, _, _ = self.to_published(phi, centre)
        return np.array(
            [
                [n_c / alpha, 0.0, -n_c * log_a / alpha**2, 0.0],
                [0.0, d_c, 0.0, 0.0],
                [0.0, 0.0, k, alpha],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )

    def allocation(self, theta: Mapping[str, float]) -> tuple[float, float, float, float]:
        """Return A, alpha, B, beta of the sum inside the power."""
        alpha = theta["alpha_N"] / theta["alpha_D"]
        return (float(theta["N_c"] ** alpha), float(alpha), float(theta["D_c"]), 1.0)


LAW = Kaplan(
    name="kaplan",
    formula="L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    source="Kaplan et al. 2020, arXiv:2001.08361, equation 1.5",
    inputs=("N", "D"),
    # Low and high are of the internal coordinates: the two terms inside the power at the centre,
    # alpha_N / alpha_D and alpha_D. The power turns a loss near 3 into 3^10 and more.
    params=(
        Param("N_c", "amplitude", 1e-8, 1e60, "size at which the model-size term is one", (1, 1e6)),
        Param("D_c", "amplitude", 1e-8, 1e60, "tokens at which the data term is one", (1, 1e6)),
        Param("alpha_N", "linear", 0.01, 5.0, "exponent of N (fitted over alpha_D)", (0.1, 2.0)),
        Param("alpha_D", "linear", 0.01, 2.0, "exponent of D", (0.05, 0.5)),
    ),
    held=("alpha_D",),
    # Nothing anchors the level of the sum but its power.
    condition_limit=1e9,
    terms=(Term("N_c", (("N", "alpha_N"),)), Term("D_c", (("D", 1.0),))),
    outer="alpha_D",
)
