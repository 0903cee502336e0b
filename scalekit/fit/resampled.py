"""Intervals from refits of resampled runs: parameters, exponents, the optimum at a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from scalekit.fit.bootstrap import METHOD, Draws, bca
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.judge import Solution
from scalekit.fit.optimum import FRONTIER, Fitted, allocate, exponents, slopes
from scalekit.fit.result import Interval
from scalekit.laws.base import Array

FEWEST = 40
"""So few refits have no fifth percentile worth correcting."""

Function = Callable[[Mapping[str, float]], Array]


def published_influence(solution: Solution, draws: Draws) -> Array:
    """Return to first order how theta moves by each cluster of runs: (clusters, p)."""
    turn = solution.law.published_jacobian(solution.phi, solution.frame.centre)
    return draws.influence @ turn.T


def parameter_intervals(solution: Solution, draws: Draws) -> dict[str, Interval]:
    """Return the free parameters' intervals."""
    law = solution.law
    moves = published_influence(solution, draws)
    found = {}
    for k, name in enumerate(law.names):
        if k in solution.problem.index:
            found[name] = bca(draws.theta[:, k], solution.theta[name], moves[:, k], LEVEL)
    return found


def exponent_intervals(
    solution: Solution, fitted: Fitted, draws: Draws
) -> tuple[Interval, Interval] | None:
    """Return the intervals of the exponents of N* and D*; None without a closed form.

    A numeric optimum for every refit costs more than it tells.
    """
    if solution.law.allocation(solution.theta) is None:
        return None
    middle = float(np.exp(np.mean(np.log(solution.runs.inputs["C"]))))
    params, tokens = _of_function(solution, fitted, draws, lambda t: exponents(fitted, t, middle))
    return params, tokens


def optimum_intervals(
    solution: Solution, fitted: Fitted, draws: Draws, flops: float
) -> dict[str, dict[str, float | str]] | None:
    """Return the intervals of an optimum's entry by name; None without a closed form.

    The prediction of a run adds the noise of single runs to each side of the loss's interval.
    """
    if solution.law.allocation(solution.theta) is None:
        return None
    budget = np.array([flops])

    def path(theta: Mapping[str, float]) -> Array:
        log_n, log_d, log_l = allocate(fitted, theta, budget)[:, 0]
        return np.array([log_n, log_d, log_l, log_d - log_n])

    ends = dict(zip(FRONTIER, _of_function(solution, fitted, draws, path), strict=True))
    middle = float(path(fitted.theta)[2])
    noise = t_quantile(0.5 + LEVEL / 2, fitted.dof) * np.sqrt(fitted.noise)
    loss = ends["loss"]
    wide = Interval(
        middle - float(np.hypot(middle - loss.low, noise)),
        middle + float(np.hypot(loss.high - middle, noise)),
        LEVEL,
        METHOD,
    )
    return {
        name: {"low": float(np.exp(one.low)), "high": float(np.exp(one.high)), "level": LEVEL}
        | {"method": METHOD}
        for name, one in {**ends, "loss_prediction": wide}.items()
    }


def _of_function(
    solution: Solution, fitted: Fitted, draws: Draws, function: Function
) -> list[Interval]:
    """Return the intervals of a function (k,) of theta."""
    value = function(fitted.theta)
    values = np.array([function(fitted.at(row)) for row in draws.theta])
    moves = published_influence(solution, draws) @ slopes(fitted, function).T
    return [bca(values[:, k], float(value[k]), moves[:, k], LEVEL) for k in range(values.shape[1])]
