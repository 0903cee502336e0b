"""What a fit minimises: a sum over runs of a loss of the residual.

The sum, never the mean: optimisers stop on absolute tolerances, and a mean of small numbers makes
them stop beside the start and report success (Besiroglu et al. 2024, arXiv:2404.10102).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalekit.errors import UsageError, did_you_mean
from scalekit.laws.base import Array, Law, State

HUBER_95 = 1.345
"""Huber's constant for 95 % efficiency on normal errors, in standard deviations."""


@dataclass(frozen=True)
class Objective:
    """A sum over runs of Huber's loss of the residual; without a delta, of half its square.

    Attributes:
        name: As asked for.
        scale: `log` for residuals of log loss, `linear` for residuals of the loss.
        delta: Where Huber's loss turns from quadratic to linear.
        adapts: Whether delta follows the spread of the residuals (`HUBER_95` of it).
    """

    name: str
    scale: str = "log"
    delta: float = np.inf
    adapts: bool = False

    def residual(self, log_observed: Array, log_loss: Array) -> Array:
        """Return observed minus predicted, on the objective's scale."""
        if self.scale == "log":
            return log_observed - log_loss
        return np.exp(log_observed) - np.exp(log_loss)

    def value(self, residual: Array, weights: Array | float = 1.0) -> Array:
        """Sum the loss over runs: (...)."""
        clipped = np.clip(residual, -self.delta, self.delta)
        return np.sum(weights * clipped * (residual - 0.5 * clipped), axis=-1)

    def derivatives(
        self, law: Law, state: State, residual: Array, weights: Array
    ) -> tuple[Array, Array]:
        """Return gradient (S, p) and second derivatives (S, p, p) by internal coordinates."""
        clipped = np.clip(residual, -self.delta, self.delta)
        psi = weights * clipped
        inside = weights * (np.abs(residual) < self.delta)
        if self.scale == "log":
            return _negated(law.sums(state, psi, inside + psi, -psi))
        loss = np.exp(state.log_loss)
        return _negated(law.sums(state, psi * loss, inside * loss**2, -psi * loss))

    def sensitivity(self, state: State) -> Array | float:
        """Return how the residual moves with log L: 1, or the loss itself."""
        return 1.0 if self.scale == "log" else np.exp(state.log_loss)

    def to_json(self, value: float) -> dict[str, Any]:
        """Say what was minimised, and the sum reached."""
        known = None if np.isinf(self.delta) else self.delta
        return {"name": self.name, "scale": self.scale, "delta": known, "value": float(value)}


def _negated(sums: tuple[Array, Array]) -> tuple[Array, Array]:
    return -sums[0], sums[1]


LAD_DELTA = 1e-9

OBJECTIVES: Mapping[str, Objective] = {
    # The default: least squares on log loss where the residuals look normal, and a bounded pull
    # where they do not. Delta follows the runs' own spread, so that a clean table of 25 runs and a
    # digitised one of 240 are both treated at 95 % efficiency.
    "robust": Objective("robust", adapts=True),
    "hoffmann": Objective("hoffmann", delta=1e-3),
    "huber": Objective("huber"),
    "huber_linear": Objective("huber_linear", scale="linear"),
    "lad": Objective("lad", delta=LAD_DELTA),
    "mse_log": Objective("mse_log"),
    "mse": Objective("mse", scale="linear"),
}


def find_objective(name: str, delta: float | None = None) -> Objective:
    """Return an objective by name.

    Raises:
        UsageError: No such name, or a delta where none belongs or none where one is needed.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"--objective {name}: unknown; {did_you_mean(name, OBJECTIVES)}")
    found = OBJECTIVES[name]
    if not name.startswith("huber"):
        if delta is not None:
            raise UsageError(f"--delta {delta:g}: {name} takes none; use --objective huber")
        return found
    if delta is None or not delta > 0:
        raise UsageError(f"--objective {name}: needs a positive --delta, found {delta!r}")
    return replace(found, delta=float(delta))


MEDIAN_OF_NORMAL = 0.6744897501960817
"""The median size of a normal number, in standard deviations."""


def spread(residual: Array, n_params: int) -> float:
    """Estimate the standard deviation of residuals (n,) by their median size.

    The factor sqrt(n / (n - p)) pays for the parameters that were fitted to the same runs.
    """
    n = len(residual)
    middle = float(np.median(np.abs(residual))) / MEDIAN_OF_NORMAL
    return middle * float(np.sqrt(n / max(n - n_params, 1)))
