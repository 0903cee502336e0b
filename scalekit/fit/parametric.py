"""Approach 3 as a result: a solution with its intervals, optimum, hold-out and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit import bootstrap as resampling
from scalekit.fit.holdout import held_out, score
from scalekit.fit.intervals import LEVEL
from scalekit.fit.judge import Solution
from scalekit.fit.objective import Objective
from scalekit.fit.optimum import (
    SIX_N_D,
    SUSPICIOUS_MISS,
    Fitted,
    can_allocate,
    exponents,
    fit_cost,
    optimum_entry,
    predict_loss,
)
from scalekit.fit.optimum import errors as delta_errors
from scalekit.fit.profile import profile_interval
from scalekit.fit.result import FitResult, FitStatus, Interval
from scalekit.fit.rows import Runs
from scalekit.fit.solve import solve
from scalekit.fit.uncertainty import METHOD, covariance, dof, half_width, noise_variance
from scalekit.laws.base import Array, Law
from scalekit.results.table import RunTable

NARROW_RATIO = 3.0
"""Tokens per parameter that span less than this leave the two terms hard to tell apart."""

SUSPICIOUS_CONDITION = 3e4


@dataclass(frozen=True)
class Options:
    """How runs are fitted; the same for every law of one call.

    Attributes:
        fix: Published parameters held at values.
        given: Inputs besides N and D at which an optimum is asked, by symbol.
    """

    objective: Objective
    fix: Mapping[str, float] = field(default_factory=dict)
    n_starts: int = 8
    bootstrap: int = 0
    hold_out: str | None = None
    predict: tuple[float, ...] = ()
    given: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


def fit_parametric(law: Law, name: str, runs: Runs, table: RunTable, options: Options) -> FitResult:
    """Fit one law and gather everything that is known of the fit.

    Args:
        law: The law.
        name: As the user named it: a member of the family or a file.
        runs: The rows in use.
        table: Where they come from, for a hold-out expression.
        options: How.

    Raises:
        FitError: Too few runs, or a hold-out rule that takes none or all.
    """
    solution = solve_with_nested(law, runs, options)
    fitted = describe(solution, options)
    theta = solution.theta
    draws = None
    if options.bootstrap:
        draws = resampling.bootstrap(solution, options.bootstrap, options.seed)
    intervals, shares = _intervals(solution, fitted, draws)
    largest = float(runs.inputs["C"].max()) if "C" in runs.inputs else np.nan
    allocates = can_allocate(law, options.given) and solution.status is not FitStatus.UNIDENTIFIED
    result = FitResult(
        law=name,
        approach="parametric",
        theta=theta,
        objective=solution.problem.objective.to_json(solution.value),
        status=solution.status,
        message=solution.message,
        n_runs=len(runs),
        dropped=runs.dropped,
        intervals=intervals,
        exponents=shares,
        optimum=tuple(optimum_entry(fitted, c, largest, METHOD) for c in options.predict)
        if allocates
        else (),
        diagnostics=_diagnostics(solution, fitted, draws),
        covariance=_rows(fitted.covariance),
        draws=None if draws is None else _rows(draws.theta),
        cost=fitted.cost,
        starts=solution.starts,
        seed=options.seed,
        warnings=tuple(_warnings(solution, fitted, draws)),
    )
    if options.hold_out is None:
        return result
    return replace(result, holdout=hold_out(law, runs, table, options))


def solve_with_nested(law: Law, runs: Runs, options: Options) -> Solution:
    """Fit a law, starting also from the best fits of the laws that it contains."""
    starts = []
    for name, values in law.nests.items():
        inner = registry.find("laws", name)
        if set(options.fix) - set(inner.names):
            continue
        nested = solve(
            inner, runs, options.objective, fix=options.fix, n_starts=4, seed=options.seed
        )
        centre = law.frame({s: runs.inputs[s] for s in law.inputs}).centre
        starts.append(law.to_internal({**nested.theta, **values}, centre))
    return solve(
        law,
        runs,
        options.objective,
        fix=options.fix,
        n_starts=options.n_starts,
        seed=options.seed,
        extra_starts=np.stack(starts) if starts else None,
    )


def describe(solution: Solution, options: Options) -> Fitted:
    """Return the law with its numbers and their covariance in published units."""
    inputs = solution.runs.inputs
    cost = SIX_N_D
    if {"N", "D", "C"} <= set(inputs):
        cost = fit_cost(inputs["N"], inputs["D"], inputs["C"])
    turn = solution.law.published_jacobian(solution.phi, solution.frame.centre)
    return Fitted(
        solution.law,
        solution.theta,
        cost,
        turn @ covariance(solution) @ turn.T,
        dof(solution),
        noise_variance(solution),
        options.given,
    )


def hold_out(law: Law, runs: Runs, table: RunTable, options: Options) -> dict[str, Any]:
    """Refit without the runs that the rule names and score their predictions."""
    chosen, words = held_out(options.hold_out or "", runs, table)
    train = runs.where_true(~chosen)
    # Clusters are numbered from zero without gaps.
    _, cluster = np.unique(train.cluster, return_inverse=True)
    solution = solve_with_nested(law, replace(train, cluster=cluster), options)
    fitted = describe(solution, options)
    inputs = {s: runs.inputs[s][chosen] for s in law.inputs}
    found = predict_runs(fitted, inputs)
    report = score(words, solution.theta, runs, chosen, found)
    return {**report, "status": str(solution.status), "message": solution.message}


def predict_runs(fitted: Fitted, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Predict losses of runs to come, with prediction intervals; any inputs, each (k,)."""
    if set(inputs) == {"N", "D"}:
        found = predict_loss(fitted, inputs["N"], inputs["D"])
        low, high = found["prediction_low"], found["prediction_high"]
        return {"loss": found["loss"], "low": low, "high": high}
    log_loss = np.log(fitted.law.predict(fitted.theta, inputs))
    error = delta_errors(fitted, lambda theta: np.log(fitted.law.predict(theta, inputs)))
    from scalekit.fit.intervals import t_quantile

    wide = t_quantile(0.5 + LEVEL / 2, fitted.dof) * np.sqrt(error**2 + fitted.noise)
    return {
        "loss": np.exp(log_loss),
        "low": np.exp(log_loss - wide),
        "high": np.exp(log_loss + wide),
    }


def _intervals(
    solution: Solution, fitted: Fitted, draws: resampling.Draws | None
) -> tuple[dict[str, Interval], dict[str, dict[str, float]]]:
    """Return intervals by name and the exponents of the frontier."""
    found = {}
    reach = half_width(solution, LEVEL)
    phi, law = solution.phi, solution.law
    error = np.sqrt(np.diag(covariance(solution)))
    assert fitted.covariance is not None
    published = np.sqrt(np.diag(fitted.covariance))
    for k, param in enumerate(law.params):
        if k not in solution.problem.index or param.name in solution.bounds_hit:
            continue
        value = solution.theta[param.name]
        if param.transform == "linear":
            low, high = phi[k] - reach * error[k], phi[k] + reach * error[k]
        else:
            # Positive parameters vary by factors, so their interval is one of the logarithm.
            share = reach * published[k] / value
            low, high = value * np.exp(-share), value * np.exp(share)
        found[param.name] = Interval(float(low), float(high), LEVEL, METHOD)
    if "E" in found:
        found["E"] = profile_interval(solution, "E", LEVEL) or found["E"]
    shares = _exponents(solution, fitted, found)
    if draws is not None and len(draws.theta) > 1:
        _from_draws(solution, fitted, draws, found, shares)
    return found, shares


def _exponents(
    solution: Solution, fitted: Fitted, found: dict[str, Interval]
) -> dict[str, dict[str, float]]:
    """Add the intervals of the frontier's exponents and return them with their values."""
    inputs = solution.runs.inputs
    if not can_allocate(solution.law, fitted.given):
        return {}
    middle = float(np.exp(np.mean(np.log(inputs["C"]))))
    reach = half_width(solution, LEVEL)
    values = exponents(fitted, solution.theta, middle)
    error = delta_errors(fitted, lambda theta: exponents(fitted, theta, middle))
    shares = {}
    for name, value, one in zip(("params", "tokens"), values, error, strict=True):
        ends = Interval(float(value - reach * one), float(value + reach * one), LEVEL, METHOD)
        found[f"exponent_{name}"] = ends
        shares[name] = {"value": float(value), "low": ends.low, "high": ends.high}
    return shares


def _from_draws(
    solution: Solution,
    fitted: Fitted,
    draws: resampling.Draws,
    found: dict[str, Interval],
    shares: dict[str, dict[str, float]],
) -> None:
    """Replace intervals by the bootstrap's, except E's, whose profile is better."""
    law = solution.law
    turn = law.published_jacobian(solution.phi, solution.frame.centre)
    moves = draws.influence @ turn.T
    for k, name in enumerate(law.names):
        if name in found and name != "E":
            found[name] = resampling.bca(
                draws.theta[:, k], solution.theta[name], moves[:, k], LEVEL
            )
    if not shares:
        return
    middle = float(np.exp(np.mean(np.log(solution.runs.inputs["C"]))))
    values = np.array([exponents(fitted, fitted.at(row), middle) for row in draws.theta])
    base = np.array([solution.theta[name] for name in law.names])
    # To first order; the runs' single influences are small.
    single = np.array([exponents(fitted, fitted.at(base + move), middle) for move in moves])
    for k, name in enumerate(("params", "tokens")):
        value = shares[name]["value"]
        ends = resampling.bca(values[:, k], value, single[:, k] - value, LEVEL)
        found[f"exponent_{name}"] = ends
        shares[name] = {"value": value, "low": ends.low, "high": ends.high}


def _diagnostics(
    solution: Solution, fitted: Fitted, draws: resampling.Draws | None
) -> dict[str, Any]:
    inputs = solution.runs.inputs
    found: dict[str, Any] = {
        "condition": solution.condition,
        "bounds_hit": list(solution.bounds_hit),
        "starts_agreeing": solution.agreeing,
        "scaled_gradient": solution.scaled_gradient,
        "rivals": [
            dict(zip(solution.law.names, row.tolist(), strict=True))
            for row in solution.law.to_published(
                np.reshape(solution.rivals, (-1, len(solution.phi))), solution.frame.centre
            )
        ],
        "dof": fitted.dof,
        "noise": float(np.sqrt(fitted.noise)),
        "rmse_log": float(np.sqrt(np.mean(solution.residual**2))),
        "aicc": _aicc(solution),
        "centre": {s: float(np.exp(v)) for s, v in solution.frame.centre.items()},
        "inputs": {s: [float(v.min()), float(v.max())] for s, v in inputs.items()},
        "given": dict(fitted.given or {}),
    }
    if {"N", "D"} <= set(inputs):
        ratio = inputs["D"] / inputs["N"]
        found["tokens_per_param"] = {"low": float(ratio.min()), "high": float(ratio.max())}
    if draws is not None:
        found["draws_lost"] = draws.lost
    return found


def _aicc(solution: Solution) -> float | None:
    """Return AICc of normal errors in log loss; shown beside the hold-out, never instead of it."""
    n, k = len(solution.runs), len(solution.psi) + 1
    square = float(solution.residual @ solution.residual)
    if n <= k + 1 or square <= 0:
        return None
    return float(n * np.log(square / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _warnings(solution: Solution, fitted: Fitted, draws: resampling.Draws | None) -> Sequence[str]:
    runs, inputs = solution.runs, solution.runs.inputs
    found = list(runs.notes)
    if fitted.cost.worst_miss > SUSPICIOUS_MISS:
        found.append(
            f"FLOPs follow from params and tokens only within {fitted.cost.worst_miss:.0%}; the "
            "compute-optimal numbers rest on that relation"
        )
    if solution.status is not FitStatus.UNIDENTIFIED:
        if solution.condition > SUSPICIOUS_CONDITION:
            found.append(
                f"condition {solution.condition:.1e} of the normal matrix: parameters trade "
                "against each other, trust their combinations more than each"
            )
        if {"N", "D"} <= set(inputs):
            ratio = inputs["D"] / inputs["N"]
            if ratio.max() < NARROW_RATIO * ratio.min():
                found.append(
                    f"tokens per parameter span only {ratio.min():.3g} to {ratio.max():.3g}; add "
                    "runs far from that ratio"
                )
    points = np.stack([*inputs.values(), runs.loss])
    repeated = len(runs) - np.unique(points, axis=1).shape[1]
    if repeated:
        found.append(f"{repeated} runs repeat another with the same loss; each still counts once")
    if draws is not None and draws.lost:
        found.append(f"{draws.lost} bootstrap refits did not converge and were left out")
    return found


def _rows(matrix: Array | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in matrix.tolist())
