"""The compute-optimal size, tokens and loss at a budget, with intervals, for any law of N and D.

FLOPs counted exactly are not 6 N D, so the budget's constraint is the table's own cost law,
`C = factor * N^power * D`. With L = E + (A N^-a + B D^-b)^k, along that constraint

    N* = (a A / (power b B))^(1/(a + power b)) * (C / factor)^(b / (a + power b)),

and E and k drop out. Other laws are minimised numerically.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.fit.intervals import LEVEL, delta_error, t_quantile
from scalekit.fit.result import CostLaw
from scalekit.fit.search import lowest
from scalekit.laws.base import COLUMN_OF, Array, Law

SIX_N_D = CostLaw(6.0, 1.0, 0.0)
FEWEST, MOST = 1e2, 1e18
"""Params and tokens, at least, and params, at most, of an optimum that is searched for."""

_AT_END = 1e-3
_FLOATS = 100 * np.log(10.0)
"""How far ln N* may lie from one, so that sizes, tokens and their ratios stay finite numbers.

Runs that show no trend leave exponents near zero, whose optimum is beyond any number.
"""
SUSPICIOUS_MISS = 0.05
"""A cost law that misses a run's FLOPs by more than this is warned of."""


@dataclass(frozen=True)
class Fitted:
    """A law with numbers: what predictions and their errors need.

    Attributes:
        covariance: Of theta in the law's order, (p, p), or None.
        dof: Degrees of freedom of t.
        noise: Variance of log loss from run to run.
        given: Inputs besides N and D that are held at a value (unique tokens, ...).
    """

    law: Law
    theta: Mapping[str, float]
    cost: CostLaw
    covariance: Array | None = None
    dof: float = np.inf
    noise: float = 0.0
    given: Mapping[str, float] | None = None

    def at(self, values: Array) -> dict[str, float]:
        """Name a vector of published parameters."""
        return dict(zip(self.law.names, map(float, values), strict=True))

    def log_loss(self, theta: Mapping[str, float], N: Array, D: Array) -> Array:
        """Predict log loss at sizes and tokens of one shape."""
        inputs = {"N": N.ravel(), "D": D.ravel()}
        inputs["C"] = self.cost.factor * inputs["N"] ** self.cost.power * inputs["D"]
        for symbol, value in (self.given or {}).items():
            inputs[symbol] = np.full(N.size, value)
        return np.log(self.law.predict(theta, inputs)).reshape(N.shape)


def fit_cost(N: Array, D: Array, C: Array) -> CostLaw:
    """Fit how FLOPs follow from N and D: exactly 6 N D where that is how they were counted."""
    if np.max(np.abs(C / (6.0 * N * D) - 1)) < 1e-6:
        return SIX_N_D
    x, y = np.log(N), np.log(C / D)
    power = 1.0 if np.ptp(x) < 1e-9 else float(np.polyfit(x - x.mean(), y, 1)[0])
    factor = float(np.exp(np.mean(y - power * x)))
    worst = float(np.max(np.abs(factor * N**power * D / C - 1)))
    return CostLaw(factor, power, worst)


def can_allocate(law: Law, given: Mapping[str, float] | None = None) -> bool:
    """Whether a law trades N against D, so that a budget has an optimum."""
    if law.response != "loss":
        return False
    return {"N", "D"} <= set(law.inputs) and set(law.inputs) <= {"N", "D", *(given or {})}


def no_optimum(law: Law, given: Mapping[str, float] | None = None) -> str:
    """Say why a law gives no optimum at a budget, and what would settle it."""
    open_inputs = [s for s in law.inputs if s not in ("N", "D", *(given or {}))]
    if law.response == "loss" and {"N", "D"} <= set(law.inputs):
        told = ", ".join(f"{s} ({COLUMN_OF.get(s, s)})" for s in open_inputs)
        write = " ".join(f"--given {s}=NUMBER" for s in open_inputs)
        return f"no optimum is given: it depends on {told}; say it with {write}"
    return f"no optimum is given: a law of {', '.join(law.columns)} has none over params and tokens"


def allocate(fitted: Fitted, theta: Mapping[str, float], flops: Array) -> Array:
    """Return ln N*, ln D* and ln L* at budgets (k,): (3, k)."""
    cost = fitted.cost
    budget = np.log(flops / cost.factor)
    closed = fitted.law.allocation(theta)
    if closed is not None:
        A, a, B, b = closed
        g = cost.power
        with np.errstate(divide="ignore"):
            log_N = (np.log(a * A) - np.log(g * b * B) + b * budget) / (a + g * b)
        log_N = np.clip(log_N, -_FLOATS, _FLOATS)
    else:
        log_N = _search(fitted, theta, budget)
    log_D = budget - cost.power * log_N
    return np.stack([log_N, log_D, fitted.log_loss(theta, np.exp(log_N), np.exp(log_D))])


def _search(fitted: Fitted, theta: Mapping[str, float], budget: Array) -> Array:
    """Minimise over ln N at each budget, ln (C / factor); (k,)."""
    power = fitted.cost.power

    def loss(log_N: Array) -> Array:
        return fitted.log_loss(theta, np.exp(log_N), np.exp(budget - power * log_N))

    low, high = _ends(budget, power)
    return lowest(loss, low, high)


def _ends(budget: Array, power: float) -> tuple[Array, Array]:
    """Return the smallest and largest ln N that a search considers, each (k,)."""
    most = np.minimum((budget - np.log(FEWEST)) / power, np.log(MOST))
    return np.full(len(budget), np.log(FEWEST)), most


def at_search_end(fitted: Fitted, log_N: Array, flops: Array) -> Array:
    """Say where an optimum (k,) is no minimum but the end of what is searched, or beyond it.

    There the law's loss only falls or only rises along the budget: what it says of the optimum is
    how far the search went.
    """
    low, high = _ends(np.log(flops / fitted.cost.factor), fitted.cost.power)
    return (log_N < low + _AT_END) | (log_N > high - _AT_END)


def beyond(
    values: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """List what lies outside the fitted runs by word, as a ratio to the nearer end of its range.

    Above one it is larger than all of them, below one it is smaller.
    """
    found = {}
    for word, value in values.items():
        low, high = ranges.get(word, (0.0, np.inf))
        # Budgets and sizes of one design differ in their last digits.
        if value > high * (1 + 1e-9):
            found[word] = float(value / high)
        elif value < low * (1 - 1e-9):
            found[word] = float(value / low)
    return found


def exponents(fitted: Fitted, theta: Mapping[str, float], flops: float) -> Array:
    """Return the exponents of N* and D* in C, (2,), local to `flops` where no power holds."""
    closed = fitted.law.allocation(theta)
    if closed is not None:
        _, a, _, b = closed
        share = a + fitted.cost.power * b
        return np.array([b / share, a / share])
    step = 0.5
    ends = allocate(fitted, theta, np.array([flops * np.exp(-step), flops * np.exp(step)]))
    return (ends[:2, 1] - ends[:2, 0]) / (2 * step)


def errors(fitted: Fitted, function: Callable[[Mapping[str, float]], Array]) -> Array:
    """Return the standard error of a function of theta, of the function's shape.

    The derivative is taken numerically in each parameter's own scale; the delta method does not
    depend on the coordinates.
    """
    if fitted.covariance is None:
        return np.full(np.shape(function(fitted.theta)), np.nan)
    return delta_error(slopes(fitted, function), fitted.covariance)


def slopes(fitted: Fitted, function: Callable[[Mapping[str, float]], Array]) -> Array:
    """Differentiate a function of theta by each parameter that varies: (..., p)."""
    assert fitted.covariance is not None
    values = np.array([fitted.theta[name] for name in fitted.law.names])
    found = []
    for k, value in enumerate(values):
        if fitted.covariance[k, k] == 0.0:
            found.append(np.zeros(np.shape(function(fitted.theta))))
            continue
        step = 1e-5 * max(abs(value), 1e-8)
        ends = []
        for sign in (1.0, -1.0):
            moved = values.copy()
            moved[k] += sign * step
            ends.append(function(fitted.at(moved)))
        found.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(found, axis=-1)


def frontier(fitted: Fitted, flops: Array) -> dict[str, Array]:
    """Return the compute-optimal path: params, tokens, loss, tokens_per_param at budgets (k,).

    Each name has `_low` and `_high` of its confidence band beside it, and the loss also
    `loss_prediction_low` and `_high`, which add the noise of a single run.
    """
    flops = np.atleast_1d(np.asarray(flops, dtype=float))
    middle = _four(allocate(fitted, fitted.theta, flops))
    error = errors(fitted, lambda theta: _four(allocate(fitted, theta, flops)))
    reach = t_quantile(0.5 + LEVEL / 2, fitted.dof)
    found: dict[str, Array] = {"flops": flops}
    wide = reach * np.sqrt(error[2] ** 2 + fitted.noise)
    # An end beyond the largest float is infinite: nothing is known on that side.
    with np.errstate(over="ignore"):
        for name, centre, one in zip(FRONTIER, middle, error, strict=True):
            found[name] = np.exp(centre)
            found[f"{name}_low"] = np.exp(centre - reach * one)
            found[f"{name}_high"] = np.exp(centre + reach * one)
        found["loss_prediction_low"] = np.exp(middle[2] - wide)
        found["loss_prediction_high"] = np.exp(middle[2] + wide)
    return found


FRONTIER = ("params", "tokens", "loss", "tokens_per_param")


def _four(path: Array) -> Array:
    return np.concatenate([path, [path[1] - path[0]]])


def predict_loss(fitted: Fitted, N: Array, D: Array) -> dict[str, Array]:
    """Predict the loss at sizes and tokens (k,), with confidence and prediction intervals."""
    middle = fitted.log_loss(fitted.theta, N, D)
    error = errors(fitted, lambda theta: fitted.log_loss(theta, N, D))
    reach = t_quantile(0.5 + LEVEL / 2, fitted.dof)
    wide = reach * np.sqrt(error**2 + fitted.noise)
    with np.errstate(over="ignore"):
        return {
            "loss": np.exp(middle),
            "low": np.exp(middle - reach * error),
            "high": np.exp(middle + reach * error),
            "prediction_low": np.exp(middle - wide),
            "prediction_high": np.exp(middle + wide),
        }


def optimum_entry(fitted: Fitted, flops: float, largest: float, method: str) -> dict[str, Any]:
    """Describe the optimum at one budget as `fit.json` holds it."""
    path = {name: float(v[0]) for name, v in frontier(fitted, np.array([flops])).items()}
    known = fitted.covariance is not None
    intervals = {}
    for name in (*FRONTIER, "loss_prediction") if known else ():
        low, high = path[f"{name}_low"], path[f"{name}_high"]
        intervals[name] = {"low": low, "high": high, "level": LEVEL, "method": method}
    budget, log_params = np.array([flops]), np.log([path["params"]])
    return {
        **{name: path[name] for name in ("flops", *FRONTIER)},
        "at_search_end": bool(at_search_end(fitted, log_params, budget)[0]),
        "extrapolation": flops / largest,
        "intervals": intervals,
    }
