"""What a fit rests on: each run's influence on the decision, and how well the design covers it."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalekit.analysis.ask import fitted
from scalekit.errors import FitError
from scalekit.fit.newton import descend
from scalekit.fit.objective import find_objective
from scalekit.fit.optimum import allocate, can_allocate, exponents
from scalekit.fit.prepare import prepare
from scalekit.fit.result import FitResult
from scalekit.fit.rows import select
from scalekit.fit.solve import solve
from scalekit.results.table import RunTable

STRONG = 1.0
"""A run that moves the exponent by more standard errors than this carries the result."""


def influence(table: RunTable, fit: FitResult, flops: float | None = None) -> list[dict[str, Any]]:
    """Leave out each run (or cluster) in turn, refit, and say what that does to the decision.

    Args:
        table: What was fitted.
        fit: A parametric fit of a law with an optimum.
        flops: Budget at which N* is compared; the largest fitted one unless given.

    Returns:
        One entry a cluster, the most influential first: runs, exponent (without them), shift, and
        shift_in_errors; params (N* without them) and its ratio to the fit's.

    Raises:
        FitError: The fit has no exponents to be moved.
    """
    one = fitted(fit)
    if not can_allocate(one.law, one.given):
        raise FitError(f"{fit.law}: has no optimum over params and tokens to be influenced")
    asked = fit.diagnostics["asked"]
    law, runs = prepare(fit.law, table, drop=asked["drop"], cluster=asked["cluster"])
    objective = find_objective(asked["objective"], asked["delta"])
    solution = solve(law, runs, objective, fix=asked["fix"], seed=fit.seed)
    groups = np.unique(runs.cluster)
    weights = (runs.cluster[None, :] != groups[:, None]).astype(float)
    ends = descend(solution.problem, np.tile(solution.psi, (len(groups), 1)), weights)
    theta = law.to_published(solution.problem.phi(ends.psi), solution.frame.centre)
    budget = np.array([flops or float(runs.inputs["C"].max())])
    middle = float(np.exp(np.mean(np.log(runs.inputs["C"]))))
    base = exponents(one, one.theta, middle)[0]
    size = np.exp(allocate(one, one.theta, budget)[0, 0])
    ends_of = fit.intervals.get("exponent_params")
    error = np.nan if ends_of is None else (ends_of.high - ends_of.low) / 2 / 1.645
    found = []
    for group, row in zip(groups, theta, strict=True):
        values = one.at(row)
        share = exponents(one, values, middle)[0]
        best = float(np.exp(allocate(one, values, budget)[0, 0]))
        found.append(
            {
                "runs": [runs.names[i] for i in np.flatnonzero(runs.cluster == group)],
                "exponent": float(share),
                "shift": float(share - base),
                "shift_in_errors": float((share - base) / error),
                "params": best,
                "params_ratio": best / float(size),
            }
        )
    return sorted(found, key=lambda e: -abs(e["shift"]))


def coverage(table: RunTable, fit: FitResult) -> dict[str, Any]:
    """Say how the runs cover compute and tokens per parameter around the optimum.

    Returns:
        decades of compute, params, tokens and tokens per parameter; and the share of runs on each
        side of the optimum's ratio: a design that never goes below or above it extrapolates there.
    """
    one = fitted(fit)
    runs = select(table, ("N", "D"), drop=fit.diagnostics["asked"]["drop"])
    N, D, C = (runs.inputs[s] for s in ("N", "D", "C"))
    best = allocate(one, one.theta, C)
    over = np.log(D / N) - (best[1] - best[0])
    return {
        **{
            f"decades_{name}": float(np.ptp(np.log10(values)))
            for name, values in (("flops", C), ("params", N), ("tokens", D), ("ratio", D / N))
        },
        "share_overtrained": float(np.mean(over > 0)),
        "ratio_over_optimum": [float(np.exp(over.min())), float(np.exp(over.max()))],
    }
