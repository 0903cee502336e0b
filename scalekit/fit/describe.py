"""What a solution says in published units: parameters, exponents and predictions with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalekit.fit import noise, resampled
from scalekit.fit.bootstrap import Draws
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.judge import Solution
from scalekit.fit.optimum import (
    SIX_N_D,
    Fitted,
    can_allocate,
    errors,
    exponents,
    fit_cost,
)
from scalekit.fit.profile import exponent_interval, profile_interval
from scalekit.fit.result import FitStatus, Interval
from scalekit.fit.uncertainty import Spread
from scalekit.laws.base import Array


def describe(solution: Solution, spread: Spread, given: Mapping[str, float]) -> Fitted:
    """Return the law with its numbers and their covariance in published units.

    Args:
        solution: The fit.
        spread: The covariance of the internal coordinates.
        given: Inputs besides N and D that are held at a value, by symbol.
    """
    inputs = solution.runs.inputs
    cost = SIX_N_D
    if {"N", "D", "C"} <= set(inputs):
        cost = fit_cost(inputs["N"], inputs["D"], inputs["C"])
    turn = solution.law.published_jacobian(solution.phi, solution.frame.centre)
    published = turn @ spread.matrix @ turn.T
    # A fixed amplitude varies internally with its exponent; in published units it does not.
    held = [k for k in range(len(turn)) if k not in solution.problem.index]
    published[held] = published[:, held] = 0.0
    return Fitted(
        solution.law,
        solution.theta,
        cost,
        published,
        spread.dof,
        noise.total(solution) ** 2,
        given,
    )


def predict_runs(fitted: Fitted, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Predict losses of runs to come, with prediction intervals; any inputs, each (k,)."""
    log_loss = np.log(fitted.law.predict(fitted.theta, inputs))
    error = errors(fitted, lambda theta: np.log(fitted.law.predict(theta, inputs)))
    wide = t_quantile(0.5 + LEVEL / 2, fitted.dof) * np.sqrt(error**2 + fitted.noise)
    return {
        "loss": np.exp(log_loss),
        "low": np.exp(log_loss - wide),
        "high": np.exp(log_loss + wide),
    }


def intervals(
    solution: Solution, fitted: Fitted, spread: Spread, draws: Draws | None
) -> tuple[dict[str, Interval], dict[str, dict[str, float]]]:
    """Return intervals by name and the exponents of the frontier; none of what is unidentified."""
    found: dict[str, Interval] = {}
    if solution.status is FitStatus.UNIDENTIFIED:
        return found, {}
    reach = spread.reach(LEVEL)
    law = solution.law
    assert fitted.covariance is not None
    published = np.sqrt(np.diag(fitted.covariance))
    for k, param in enumerate(law.params):
        if k not in solution.problem.index or param.name in solution.bounds_hit:
            continue
        value = solution.theta[param.name]
        if param.transform == "linear":
            low, high = value - reach * published[k], value + reach * published[k]
        else:
            # Positive parameters vary by factors, so their interval is one of the logarithm.
            with np.errstate(over="ignore"):
                share = np.exp(reach * published[k] / value)
            low, high = value / share, value * share
        found[param.name] = Interval(float(low), float(high), LEVEL, spread.method)
    for name in list(found):
        found[name] = profile_interval(solution, name, spread, LEVEL) or found[name]
    shares = _exponents(solution, fitted, spread, found)
    if draws is None or len(draws.theta) < resampled.FEWEST or spread.serial is not None:
        # Resampled parts of curves know nothing of errors that outlast a part.
        return found, shares
    # A profile sees an asymptote's open side, which resamples of the same runs do not.
    better = resampled.parameter_intervals(solution, draws)
    found |= {k: v for k, v in better.items() if k in found and k not in law.asymptotes}
    both = resampled.exponent_intervals(solution, fitted, draws) if shares else None
    for name, one in zip(("params", "tokens"), both or (), strict=False):
        found[f"exponent_{name}"] = one
        shares[name] = {"value": shares[name]["value"], "low": one.low, "high": one.high}
    return found, shares


def _exponents(
    solution: Solution, fitted: Fitted, spread: Spread, found: dict[str, Interval]
) -> dict[str, dict[str, float]]:
    """Add the intervals of the frontier's exponents and return them with their values."""
    inputs = solution.runs.inputs
    if not can_allocate(solution.law, fitted.given):
        return {}
    middle = float(np.exp(np.mean(np.log(inputs["C"]))))
    values = exponents(fitted, solution.theta, middle)
    power = fitted.cost.power
    profiled = exponent_interval(solution, power, spread, LEVEL)
    if profiled is not None:
        # Along a budget power * d ln N + d ln D = d ln C.
        low, high = 1 - power * profiled.high, 1 - power * profiled.low
        ends = [profiled, Interval(low, high, LEVEL, profiled.method)]
    else:
        error = spread.reach(LEVEL) * errors(fitted, lambda t: exponents(fitted, t, middle))
        sides = np.stack([values - error, values + error], axis=1).tolist()
        ends = [Interval(low, high, LEVEL, spread.method) for low, high in sides]
    shares = {}
    for name, value, one in zip(("params", "tokens"), values, ends, strict=True):
        found[f"exponent_{name}"] = one
        shares[name] = {"value": float(value), "low": one.low, "high": one.high}
    return shares
