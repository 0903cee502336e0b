"""What a law of something else than the loss predicts: a learning rate, a batch, an accuracy.

An accuracy is predicted in two steps: one law gives a run's loss, a link turns the loss into the
accuracy. Both steps' errors are carried through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit.analysis.ask import fitted, fitted_ranges
from scalekit.errors import UsageError
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.optimum import Fitted, beyond, errors
from scalekit.fit.prepare import law_of
from scalekit.fit.result import FitResult
from scalekit.laws.base import COLUMN_OF, Array

_STEP = 1e-5


def response_of(fit: FitResult) -> str:
    """Return the column that a fit predicts."""
    return law_of(fit).response if fit.approach == "parametric" else "loss"


def respond(fit: FitResult, inputs: Mapping[str, float]) -> dict[str, Any]:
    """Predict a law's response at inputs by symbol.

    Returns:
        The inputs by column, the response, in `outside` how far beyond the fitted runs an input
        lies, as a ratio to the nearest of them, and in `intervals` the response's confidence
        interval and, as NAME_prediction, that of one more observation.

    Raises:
        UsageError: An input is missing.
        FitError: The fit is of no law, or its runs do not identify one.
    """
    one = fitted(fit)
    at = _arrays(one, inputs)
    error = float(errors(one, lambda theta: np.log(one.law.predict(theta, at)))[0])
    return _entry(fit, one, inputs, (error, one.noise, one.dof), at)


def respond_through(
    link: FitResult, loss: FitResult, inputs: Mapping[str, float]
) -> dict[str, Any]:
    """Predict an accuracy at a run's inputs: its loss by one fit, its accuracy by a link.

    The interval's variance is the link's own and that of the loss, its law's and one run's, times
    the link's slope; t has the fewer degrees of freedom of the two.

    Raises:
        UsageError: `link` is no law of the loss, `loss` is no law of the run, or an input is
            missing.
        FitError: A fit is of no law, or its runs do not identify one.
    """
    first, second = fitted(loss), fitted(link)
    if second.law.inputs != ("L",):
        raise UsageError(f"--through: {link.law} takes no loss; give a link, such as link_logistic")
    if not first.law.is_of_final_loss:
        raise UsageError(f"--through {loss.law}: predicts no loss of a run; give a law that does")
    at = _arrays(first, inputs)
    log_loss = np.log(first.law.predict(first.theta, at))
    spread = errors(first, lambda theta: np.log(first.law.predict(theta, at)))
    ends = [
        np.log(second.law.predict(second.theta, {"L": np.exp(log_loss + side * _STEP)}))
        for side in (1, -1)
    ]
    slope = float((ends[0] - ends[1])[0]) / (2 * _STEP)
    through = {"L": np.exp(log_loss)}
    own = errors(second, lambda theta: np.log(second.law.predict(theta, through)))
    error = float(np.hypot(own[0], slope * spread[0]))
    noise = second.noise + slope**2 * first.noise
    dof = min(first.dof, second.dof)
    entry = _entry(link, second, {"L": float(through["L"][0])}, (error, noise, dof), through)
    entry["outside"] = {**_outside(loss, inputs), **entry["outside"]}
    return {**_columns(inputs), **entry, "through": loss.law}


def _arrays(one: Fitted, inputs: Mapping[str, float]) -> dict[str, Array]:
    found = {**(one.given or {}), **inputs}
    if {"N", "D"} <= set(found) and "C" not in found:
        found["C"] = one.cost.factor * found["N"] ** one.cost.power * found["D"]
    return {symbol: np.array([float(value)]) for symbol, value in found.items()}


def _columns(inputs: Mapping[str, float]) -> dict[str, float]:
    return {COLUMN_OF.get(symbol, symbol): float(value) for symbol, value in inputs.items()}


def _outside(fit: FitResult, inputs: Mapping[str, float]) -> dict[str, float]:
    return beyond(_columns(inputs), fitted_ranges(fit))


def _entry(
    fit: FitResult,
    one: Fitted,
    inputs: Mapping[str, float],
    spread: tuple[float, float, float],
    at: Mapping[str, Array],
) -> dict[str, Any]:
    """Describe a prediction from its error and noise of the logarithm, and degrees of freedom."""
    error, noise, dof = spread
    name = one.law.response
    value = float(one.law.predict(one.theta, at)[0])
    reach = t_quantile(0.5 + LEVEL / 2, dof)
    told = {"level": LEVEL, "method": str(fit.diagnostics.get("covariance") or "")}
    ends = {}
    if np.isfinite(error):
        for word, wide in ((name, error), (f"{name}_prediction", np.hypot(error, np.sqrt(noise)))):
            low, high = (value * float(np.exp(side * reach * wide)) for side in (-1, 1))
            ends[word] = {"low": low, "high": high, **told}
    return {**_columns(inputs), name: value, "outside": _outside(fit, inputs), "intervals": ends}
