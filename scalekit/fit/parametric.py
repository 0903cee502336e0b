"""Approach 3 as a result: a solution with its intervals, optimum, hold-out and doubts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit import noise, resampled
from scalekit.fit.bootstrap import Draws, bootstrap
from scalekit.fit.describe import describe, intervals, predict_runs
from scalekit.fit.diagnostics import diagnostics, warnings
from scalekit.fit.holdout import held_out, score
from scalekit.fit.intervals import LEVEL
from scalekit.fit.judge import Solution
from scalekit.fit.misfit import misfits, objectives_apart
from scalekit.fit.objective import Objective
from scalekit.fit.optimum import Fitted, beyond, can_allocate, no_optimum, optimum_entry
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.rows import Runs
from scalekit.fit.solve import solve
from scalekit.fit.uncertainty import Spread, covariance
from scalekit.laws.base import Array, Law
from scalekit.results.table import RunTable


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
        draws = bootstrap(solution, options.bootstrap, options.seed)
    found, shares = intervals(solution, fitted, spread, draws)
    allocates = can_allocate(law, options.given) and solution.status is not FitStatus.UNIDENTIFIED
    far = max((*options.predict, float(runs.inputs["C"].max()))) if "C" in runs.inputs else np.nan
    known = diagnostics(solution, fitted, spread, draws, far)
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
        optimum=tuple(optimum(solution, fitted, spread, draws, c) for c in options.predict)
        if allocates
        else (),
        diagnostics=known,
        covariance=_rows(fitted.covariance),
        draws=None if draws is None else _rows(draws.theta),
        influence=None if draws is None else _rows(resampled.published_influence(solution, draws)),
        cost=fitted.cost,
        starts=solution.starts,
        seed=options.seed,
        remarks=runs.remarks,
        warnings=(
            *misfits(solution, noise.measure(solution), table),
            *objectives_apart(known.get("objectives", {}), shares.get("params", {})),
            *warnings(solution, fitted, draws, known),
        ),
    )
    if options.predict and not allocates and solution.status is not FitStatus.UNIDENTIFIED:
        result = replace(result, warnings=(*result.warnings, no_optimum(law, options.given)))
    if options.hold_out is None:
        return result
    held = hold_out(law, runs, table, options)
    if held["mape"] < held["baseline_mape"]:
        return replace(result, holdout=held)
    doubt = (
        f"held-out runs are predicted no better than by the best loss seen so far: "
        f"{held['mape']:.2%} against {held['baseline_mape']:.2%}"
    )
    return replace(result, holdout=held, warnings=(*result.warnings, doubt))


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


def optimum(
    solution: Solution, fitted: Fitted, spread: Spread, draws: Draws | None, flops: float
) -> dict[str, Any]:
    """Return the optimum at a budget; with refits at hand its intervals are theirs.

    `errors` splits what a run there may miss by, as standard deviations of log loss.
    """
    inputs = solution.runs.inputs
    largest = float(inputs["C"].max()) if "C" in inputs else np.nan
    entry = optimum_entry(fitted, flops, largest, spread.method)
    entry["outside"] = beyond(_sizes(entry), _ranges(inputs))
    ends = entry["intervals"].get("loss")
    if ends is not None:
        of_law = np.log(ends["high"] / ends["low"]) / 2 / spread.reach(LEVEL)
        entry["errors"] = {
            "parameters": float(of_law),
            "scatter": noise.total(solution),
        }
    if draws is not None and len(draws.theta) >= resampled.FEWEST:
        better = resampled.optimum_intervals(solution, fitted, draws, flops)
        entry["intervals"] = better or entry["intervals"]
    return entry


def _sizes(entry: Mapping[str, Any]) -> dict[str, float]:
    return {word: entry[word] for word in ("params", "tokens", "tokens_per_param")}


def _ranges(inputs: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest of the fitted runs' sizes, lengths and ratios of the two."""
    known = {word: inputs[s] for word, s in (("params", "N"), ("tokens", "D")) if s in inputs}
    if len(known) == 2:
        known["tokens_per_param"] = known["tokens"] / known["params"]
    return {word: (float(v.min()), float(v.max())) for word, v in known.items()}


def _rows(matrix: Array | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in matrix.tolist())
