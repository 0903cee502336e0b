"""From loss to accuracy: a logistic curve between a free floor and a free ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array, Frame, Law, Param, State

FLOOR, CEILING, SLOPE, MIDDLE = range(4)
_LOGS = [FLOOR, CEILING, SLOPE]


@dataclass(frozen=True)
class LinkLogistic(Law):
    """The law in internal coordinates (ln floor, ln ceiling, ln slope, middle less the mean loss).

    Accuracy is a mixture of floor and ceiling, so it is positive everywhere.
    """

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre the loss on its mean."""
        loss = np.asarray(inputs["L"], dtype=float)
        if centre is None:
            centre = {"L": float(loss.mean())}
        return Frame(centre, {"L": loss - centre["L"]})

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate the logarithm of accuracy."""
        slope = np.exp(phi[:, [SLOPE]])
        above = slope * (frame.logs["L"] - phi[:, [MIDDLE]])
        learned = 0.5 * (1.0 - np.tanh(above / 2))
        floor, ceiling = np.exp(phi[:, [FLOOR]]), np.exp(phi[:, [CEILING]])
        accuracy = floor + (ceiling - floor) * learned
        return State(np.log(accuracy), phi, frame, (accuracy, learned, above, floor, ceiling))

    def jacobian(self, state: State) -> Array:
        """Differentiate the logarithm of accuracy."""
        accuracy, learned, above, floor, ceiling = state.parts
        steep = (ceiling - floor) * learned * (1.0 - learned)
        jac = np.empty((*state.phi.shape, accuracy.shape[1]))
        jac[:, FLOOR] = floor * (1.0 - learned)
        jac[:, CEILING] = ceiling * learned
        jac[:, SLOPE] = -steep * above
        jac[:, MIDDLE] = steep * np.exp(state.phi[:, [SLOPE]])
        return jac / accuracy[:, None, :]

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and measure the middle from the mean loss."""
        phi = np.array([float(theta[name]) for name in self.names])
        phi[_LOGS] = np.log(phi[_LOGS])
        phi[MIDDLE] -= centre["L"]
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = np.array(phi, dtype=float)
        theta[..., _LOGS] = np.exp(theta[..., _LOGS])
        theta[..., MIDDLE] += centre["L"]
        return theta


LAW = LinkLogistic(
    name="link_logistic",
    formula="accuracy = floor + (ceiling - floor) / (1 + e^(slope (L - middle)))",
    source="Bhagia et al. 2024, arXiv:2412.04403, step 2",
    inputs=("L",),
    params=(
        Param("floor", "log", 1e-3, 1.0, "accuracy of guessing", (0.05, 0.6)),
        Param("ceiling", "log", 1e-2, 1.0, "accuracy at no loss", (0.6, 1.0)),
        Param("slope", "log", 1e-2, 1e3, "steepness", (0.5, 20.0)),
        # From the mean loss of the runs.
        Param("middle", "linear", -10.0, 10.0, "loss half-way", (-1.0, 1.0)),
    ),
    # `middle` is measured from a centre, so it cannot be held.
    held=("floor", "ceiling", "slope"),
    starts=24,
    condition_limit=1e8,
    asymptotes=("floor", "ceiling"),
    response="accuracy",
)
