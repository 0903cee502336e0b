"""What each run does to the decision: the exponent and N* without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.fit.bootstrap import influence
from scalekit.fit.judge import Solution
from scalekit.fit.newton import descend
from scalekit.fit.optimum import Fitted, allocate, errors, exponents, slopes
from scalekit.laws.base import Array

STRONG = 1.0
"""A run that moves the exponent by more standard errors than this carries the result."""

SHOWN = 5
_REFITTED = 12
_CELLS = 40_000


@dataclass(frozen=True)
class LeftOut:
    """The decision without one run, or one cluster of runs.

    Attributes:
        runs: Their names.
        exponent: Of N*, refitted without them.
        shift: Of that exponent.
        shift_in_errors: The shift over the exponent's standard error; zero where the law ties it.
        params: N* without them at the budget asked.
        params_ratio: The same over the fit's own.
    """

    runs: tuple[str, ...]
    exponent: float
    shift: float
    shift_in_errors: float
    params: float
    params_ratio: float


def leave_out(
    solution: Solution, fitted: Fitted, flops: float, count: int | None = None
) -> list[LeftOut]:
    """Refit without each run or cluster, the one that moves N* most first.

    Args:
        solution: The fit.
        fitted: Its law with numbers; it must trade N against D.
        flops: Budget at which N* is compared.
        count: How many to refit, chosen by their influence to first order; all unless given.
    """
    groups = np.unique(solution.runs.cluster)
    chosen = np.arange(len(groups))
    if count is not None and count < len(groups):
        chosen = np.sort(_strongest(solution, fitted, flops)[:count])
    weights = (solution.runs.cluster[None, :] != groups[chosen, None]).astype(float)
    ends = descend(solution.problem, np.tile(solution.psi, (len(chosen), 1)), weights)
    theta = solution.law.to_published(solution.problem.phi(ends.psi), solution.frame.centre)
    middle = float(np.exp(np.mean(np.log(solution.runs.inputs["C"]))))
    budget = np.array([flops])
    base = float(exponents(fitted, fitted.theta, middle)[0])
    size = float(np.exp(allocate(fitted, fitted.theta, budget)[0, 0]))
    error = float(errors(fitted, lambda t: exponents(fitted, t, middle))[0])
    found = []
    for group, row in zip(groups[chosen], theta, strict=True):
        values = fitted.at(row)
        shift = float(exponents(fitted, values, middle)[0]) - base
        best = float(np.exp(allocate(fitted, values, budget)[0, 0]))
        mine = np.flatnonzero(solution.runs.cluster == group)
        names = dict.fromkeys(solution.runs.names[i] for i in mine)  # rows may be of one run
        in_errors = shift / error if error > 0 else 0.0
        found.append(LeftOut(tuple(names), base + shift, shift, in_errors, best, best / size))
    return sorted(found, key=lambda one: -abs(np.log(one.params_ratio)))


def _strongest(solution: Solution, fitted: Fitted, flops: float) -> Array:
    """Order the clusters by how far they move N* to first order, the furthest first.

    Without a run of leverage h the fit moves by 1 / (1 - h) times its pull.
    """
    turn = solution.law.published_jacobian(solution.phi, solution.frame.centre)
    slope = slopes(fitted, lambda t: allocate(fitted, t, np.array([flops]))[0])[0]
    moves = influence(solution) @ turn.T @ slope
    _, sensitivity = solution.on_scale
    weighted = solution.jacobian * sensitivity
    hat = np.einsum("pn,pq,qn->n", weighted, np.linalg.pinv(weighted @ weighted.T), weighted)
    leverage = np.bincount(solution.runs.cluster, hat)
    return np.argsort(-np.abs(moves) / np.maximum(1.0 - leverage, 1e-2), kind="stable")


def summary(solution: Solution, fitted: Fitted, flops: float) -> dict[str, Any]:
    """Say for `fit.json` which runs move N* most at a budget, and by how much."""
    # Of very many runs none counts for much, and refits without one cost most.
    count = int(np.clip(_CELLS // len(solution.runs), 1, _REFITTED))
    found = leave_out(solution, fitted, flops, count)[:SHOWN]
    return {
        "flops": flops,
        "n_left_out": len(np.unique(solution.runs.cluster)),
        "runs": [
            {
                "runs": list(one.runs),
                "params_ratio": one.params_ratio,
                "shift": one.shift,
                "shift_in_errors": one.shift_in_errors,
            }
            for one in found
        ],
    }
