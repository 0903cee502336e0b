"""Approach 3 as a result: a solution with its intervals, optimum, hold-out and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit import bootstrap as resampling
from scalekit.fit.describe import describe, intervals, predict_runs
from scalekit.fit.holdout import held_out, score
from scalekit.fit.identify import count_distinct, exponent_sd
from scalekit.fit.judge import Solution
from scalekit.fit.objective import Objective
from scalekit.fit.optimum import SUSPICIOUS_MISS, Fitted, can_allocate, optimum_entry
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.rows import Runs
from scalekit.fit.solve import solve
from scalekit.fit.uncertainty import Spread, covariance
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
    n_starts: int | None = None
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
    spread = covariance(solution, options.seed)
    fitted = describe(solution, spread, options.given)
    draws = None
    if options.bootstrap:
        draws = resampling.bootstrap(solution, options.bootstrap, options.seed)
    found, shares = intervals(solution, fitted, spread, draws)
    largest = float(runs.inputs["C"].max()) if "C" in runs.inputs else np.nan
    allocates = can_allocate(law, options.given) and solution.status is not FitStatus.UNIDENTIFIED
    result = FitResult(
        law=name,
        approach="parametric",
        theta=solution.theta,
        objective=solution.problem.objective.to_json(solution.value),
        status=solution.status,
        message=solution.message,
        n_runs=len(runs),
        dropped=runs.dropped,
        intervals=found,
        exponents=shares,
        optimum=tuple(optimum_entry(fitted, c, largest, spread.method) for c in options.predict)
        if allocates
        else (),
        diagnostics=_diagnostics(solution, fitted, spread, draws),
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


def hold_out(law: Law, runs: Runs, table: RunTable, options: Options) -> dict[str, Any]:
    """Refit without the runs that the rule names and score their predictions."""
    chosen, words = held_out(options.hold_out or "", runs, table)
    train = runs.where_true(~chosen)
    # Clusters are numbered from zero without gaps.
    _, cluster = np.unique(train.cluster, return_inverse=True)
    solution = solve_with_nested(law, replace(train, cluster=cluster), options)
    fitted = describe(solution, covariance(solution, options.seed), options.given)
    inputs = {s: runs.inputs[s][chosen] for s in law.inputs}
    found = predict_runs(fitted, inputs)
    report = score(words, solution.theta, runs, chosen, found)
    return {**report, "status": str(solution.status), "message": solution.message}


def _diagnostics(
    solution: Solution, fitted: Fitted, spread: Spread, draws: resampling.Draws | None
) -> dict[str, Any]:
    inputs = solution.runs.inputs
    found: dict[str, Any] = {
        "design": _design(solution, fitted),
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
        "covariance": spread.method,
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


def _design(solution: Solution, fitted: Fitted) -> dict[str, Any]:
    """Return what the inputs alone tell, and what exponent they would leave at half a per cent."""
    found = {**asdict(solution.design), "is_identified": solution.design.is_identified}
    inputs = {s: solution.runs.inputs[s] for s in solution.law.inputs}
    if solution.design.is_identified and not solution.bounds_hit:
        power = fitted.cost.power
        found["exponent_sd"] = exponent_sd(solution.law, solution.theta, inputs, power=power)
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
    repeated = len(runs) - count_distinct(points)
    if repeated:
        found.append(f"{repeated} runs repeat another with the same loss; each still counts once")
    if draws is not None and draws.lost:
        found.append(f"{draws.lost} bootstrap refits did not converge and were left out")
    return found


def _rows(matrix: Array | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in matrix.tolist())
