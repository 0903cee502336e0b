"""From loss to accuracy: an exponential that falls to a floor, the accuracy of guessing.

In the error's terms, Err = epsilon - k e^(-gamma L) with epsilon = 1 - floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Array, Frame, Param


@dataclass(frozen=True)
class LinkExp(PowerLaw):
    """A sum of powers of e^L, whose logarithm is the loss itself."""

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre the loss on its mean."""
        loss = np.asarray(inputs["L"], dtype=float)
        if centre is None:
            centre = {"L": float(loss.mean())}
        return self.lay_out(Frame(centre, {"L": loss - centre["L"]}))


LAW = LinkExp(
    name="link_exp",
    formula="accuracy = floor + k e^(-gamma L)",
    source="Gadre et al. 2024, arXiv:2403.08540, with epsilon = 1 - floor",
    inputs=("L",),
    params=(
        Param("floor", "log", 1e-4, 1.0, "accuracy of guessing", (0.02, 0.6)),
        Param("k", "amplitude", 1e-6, 10.0, "amplitude of what is learned", (0.05, 0.5)),
        Param("gamma", "linear", 0.01, 20.0, "how fast accuracy falls with loss", (0.2, 3.0)),
    ),
    terms=(Term("k", (("L", "gamma"),)),),
    floor="floor",
    asymptotes=("floor",),
    response="accuracy",
)
