"""What to do with a fit: the compute-optimal choice, the frontier, the loss of a planned run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit.errors import FitError, UsageError
from scalekit.fit import optimum as solver
from scalekit.fit.intervals import LEVEL
from scalekit.fit.optimum import SIX_N_D, Fitted, can_allocate
from scalekit.fit.prepare import law_of
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.uncertainty import METHOD
from scalekit.laws.base import Array


def fitted(fit: FitResult, theta: Mapping[str, float] | None = None) -> Fitted:
    """Return the fit's law with its numbers, or with another `theta` and no covariance.

    Raises:
        FitError: The fit is not of a law (approaches 1 and 2), or its runs do not identify one.
    """
    if fit.approach != "parametric":
        raise FitError(
            f"{fit.approach}: gives a frontier but no law; fit with --approach parametric"
        )
    if fit.status is FitStatus.UNIDENTIFIED:
        raise FitError(f"{fit.law}: {fit.message}")
    matrix = None
    if fit.covariance is not None and theta is None:
        matrix = np.array(fit.covariance, dtype=float)
    return Fitted(
        law_of(fit),
        dict(theta or fit.theta),
        fit.cost or SIX_N_D,
        matrix,
        float(fit.diagnostics.get("dof") or np.inf),
        float(fit.diagnostics.get("noise") or 0.0) ** 2,
        fit.diagnostics.get("given") or None,
    )


def largest_budget(fit: FitResult) -> float:
    """Return the largest training FLOPs among the fitted runs, NaN where unknown."""
    measured = fit.diagnostics.get("inputs", {}).get("C")
    return float(measured[1]) if measured else float("nan")


def optimum(fit: FitResult, flops: float) -> dict[str, Any]:
    """Return the optimum at a budget: params, tokens, loss, tokens_per_param, with intervals.

    Raises:
        FitError: The fit gives no optimum.
        UsageError: The law has no optimum over N and D.
    """
    one = _allocating(fit)
    return solver.optimum_entry(one, float(flops), largest_budget(fit), _method(fit))


def frontier(
    fit: FitResult, flops: Array, theta: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Return the compute-optimal path as arrays (k,).

    The names are flops, params, tokens, loss and tokens_per_param. Each has `_low` and `_high`
    beside it (NaN with a `theta` of one's own), the loss also `loss_prediction_low` and `_high`.
    """
    one = fitted(fit, theta)
    _check_allocates(fit, one)
    return solver.frontier(one, flops)


def predict(fit: FitResult, params: float, tokens: float) -> dict[str, Any]:
    """Predict the loss of a run, with a confidence interval and a prediction interval.

    The confidence interval is of the law; the prediction interval adds the noise of a single run.
    """
    one = fitted(fit)
    found = solver.predict_loss(one, np.array([float(params)]), np.array([float(tokens)]))
    values = {name: float(v[0]) for name, v in found.items()}
    flops = one.cost.factor * params**one.cost.power * tokens
    span = {"level": LEVEL, "method": _method(fit)}
    return {
        "params": float(params),
        "tokens": float(tokens),
        "flops": float(flops),
        "tokens_per_param": float(tokens) / float(params),
        "loss": values["loss"],
        "extrapolation": flops / largest_budget(fit),
        "intervals": {
            "loss": {"low": values["low"], "high": values["high"], **span},
            "loss_prediction": {
                "low": values["prediction_low"],
                "high": values["prediction_high"],
                **span,
            },
        },
    }


def _method(fit: FitResult) -> str:
    return str(fit.diagnostics.get("covariance") or METHOD)


def _allocating(fit: FitResult) -> Fitted:
    one = fitted(fit)
    _check_allocates(fit, one)
    return one


def _check_allocates(fit: FitResult, one: Fitted) -> None:
    if not can_allocate(one.law, one.given):
        inputs = ", ".join(one.law.inputs)
        raise UsageError(f"{fit.law}: a law of {inputs} has no optimum over params and tokens")
