"""What a fit rests on: each run's influence on the decision, and how well the design covers it."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalekit.analysis.ask import fitted
from scalekit.errors import FitError
from scalekit.fit.influence import LeftOut, leave_out
from scalekit.fit.objective import find_objective
from scalekit.fit.optimum import allocate, can_allocate
from scalekit.fit.prepare import prepare
from scalekit.fit.result import FitResult
from scalekit.fit.rows import select
from scalekit.fit.solve import solve
from scalekit.results.table import RunTable


def influence(table: RunTable, fit: FitResult, flops: float | None = None) -> list[LeftOut]:
    """Leave out each run (or cluster) in turn, refit, and say what that does to the decision.

    Args:
        table: What was fitted.
        fit: A parametric fit of a law with an optimum.
        flops: Budget at which N* is compared; the largest fitted one unless given.

    Returns:
        One a cluster, the one that moves N* most first.

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
    return leave_out(solution, one, flops or float(runs.inputs["C"].max()))


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
