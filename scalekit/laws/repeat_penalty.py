"""Repeated data as an added penalty: over-fitting grows with epochs and with size over data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Array, Frame, Param

_NEVER = -2000.0
"""Logarithm of the repetitions of a run without any: its penalty vanishes in every bound."""


@dataclass(frozen=True)
class RepeatPenalty(PowerLaw):
    """A sum of powers whose penalty is of R, the repetitions, and of N over unique tokens."""

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre N, D, R = D / U - 1 and N / U; runs without repetition do not move R's centre."""
        N, D, U = (np.asarray(inputs[s], dtype=float) for s in ("N", "D", "U"))
        repeats = np.maximum(D / np.minimum(U, D) - 1.0, 0.0)
        logs = {"N": np.log(N), "D": np.log(D), "NU": np.log(N / np.minimum(U, D))}
        seen = repeats > 0
        logs["R"] = np.log(np.where(seen, repeats, 1.0))
        if centre is None:
            centre = {s: float(v.mean()) for s, v in logs.items()}
            centre["R"] = float(logs["R"][seen].mean()) if seen.any() else 0.0
        centred = {s: v - centre[s] for s, v in logs.items()}
        centred["R"] = np.where(seen, centred["R"], _NEVER)
        return self.lay_out(Frame(centre, centred))


LAW = RepeatPenalty(
    name="repeat_penalty",
    formula="L = E + A N^-alpha + B D^-beta + P R^delta (N / U)^kappa, R = D / U - 1",
    source="Lovelace et al. 2026, arXiv:2605.01640",
    inputs=("N", "D", "U"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the model-size term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-8, 1e4, "amplitude of the data term", (0.05, 3.0)),
        Param("P", "amplitude", 1e-8, 1e4, "amplitude of the penalty", (1e-4, 1.0)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of N", (0.05, 1.0)),
        Param("beta", "linear", 0.01, 3.0, "exponent of D", (0.05, 1.0)),
        Param("delta", "linear", 0.05, 5.0, "exponent of R", (0.3, 2.0)),
        Param("kappa", "linear", 0.01, 5.0, "exponent of N / U", (0.1, 2.0)),
    ),
    condition_limit=1e8,
    terms=(
        Term("A", (("N", "alpha"),)),
        Term("B", (("D", "beta"),)),
        Term("P", (("R", "-delta"), ("NU", "-kappa"))),
    ),
    floor="E",
)
