"""The covariance of a robust fit, and what it says of parameters, exponents and predictions."""

from __future__ import annotations

import numpy as np

from scalekit.fit.intervals import t_quantile
from scalekit.fit.judge import Solution, mean_slope
from scalekit.fit.objective import spread
from scalekit.laws.base import Array

METHOD = "sandwich-t"


def covariance(solution: Solution) -> Array:
    """Return the sandwich covariance of all internal coordinates, (p, p).

    Each run's score is divided by the square root of one minus its leverage (HC2), which makes
    the estimate unbiased where the noise is even: measured at 25 runs, intervals of nominal 90 %
    hold the exponent in 88 to 90 % of replicates and the extrapolated loss in 89 to 91 %, against
    92 to 95 % for HC3. Scores of one cluster are summed before they are squared.
    """
    problem = solution.problem
    names = [problem.law.names[i] for i in problem.index]
    inner = [k for k, name in enumerate(names) if name not in solution.bounds_hit]
    jac = solution.jacobian[inner]
    residual, sensitivity = _residual(solution)
    delta = problem.objective.delta
    psi = np.clip(residual, -delta, delta) * sensitivity
    weighted = jac * sensitivity
    leverage = np.einsum("pn,pq,qn->n", weighted, np.linalg.pinv(weighted @ weighted.T), weighted)
    score = jac * (psi / np.sqrt(np.maximum(1.0 - leverage, 1e-3)))
    groups = solution.runs.cluster
    n_groups = int(groups.max()) + 1
    summed = np.zeros((len(inner), n_groups))
    np.add.at(summed.T, groups, score.T)
    factor = n_groups / (n_groups - 1) if 1 < n_groups < len(groups) else 1.0
    bread = np.linalg.pinv(_curvature(solution, inner, jac, sensitivity))
    small = factor * bread @ (summed @ summed.T) @ bread
    free = problem.free[:, inner]
    return free @ small @ free.T


def _residual(solution: Solution) -> tuple[Array, Array]:
    """Return residuals on the objective's scale and how they move with log loss, each (n,)."""
    objective = solution.problem.objective
    log_loss = np.log(solution.runs.loss) - solution.residual
    residual = objective.residual(np.log(solution.runs.loss), log_loss)
    sensitivity = np.ones_like(residual) if objective.scale == "log" else np.exp(log_loss)
    return residual, sensitivity


def _curvature(solution: Solution, inner: list[int], jac: Array, sensitivity: Array) -> Array:
    """Return the objective's expected curvature.

    The observed one counts the residuals inside delta; where few are, as for delta = 1e-3 on
    noisier runs, a normal density through their spread is steadier.
    """
    delta = float(np.max(solution.problem.objective.delta))
    residual, _ = _residual(solution)
    if delta > spread(residual, len(solution.psi)):
        return solution.hessian[np.ix_(inner, inner)]
    weighted = jac * sensitivity
    return mean_slope(solution.problem, residual) * (weighted @ weighted.T)


def dof(solution: Solution) -> int:
    """Return the degrees of freedom of t: runs less parameters, clusters less one if fewer."""
    n_groups = int(solution.runs.cluster.max()) + 1
    if n_groups < len(solution.runs):
        return max(min(solution.dof, n_groups - 1), 1)
    return solution.dof


def half_width(solution: Solution, level: float) -> float:
    """Return the t quantile that an interval of `level` reaches on each side."""
    return t_quantile(0.5 + level / 2, dof(solution))


def noise_variance(solution: Solution) -> float:
    """Return the variance of log loss from run to run, for the prediction of a run to come."""
    robust = solution.spread**2
    if np.isfinite(solution.problem.objective.delta).all():
        return robust
    return float(solution.residual @ solution.residual) / solution.dof
