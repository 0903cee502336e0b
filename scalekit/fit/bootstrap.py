"""Resample runs, refit all resamples at once, and correct the percentiles (BCa).

Plain percentiles of a few dozen runs cover an extrapolated loss too rarely; BCa corrects their
bias and skew (Efron 1987, "Better bootstrap confidence intervals", JASA 82).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from scalekit.fit.judge import Solution
from scalekit.fit.newton import descend
from scalekit.fit.result import Interval
from scalekit.laws.base import Array

METHOD = "bootstrap-bca"
_LOST = 1e-3


@dataclass(frozen=True)
class Draws:
    """Refits of resampled runs.

    Attributes:
        theta: (n_draws, p), published parameters.
        influence: (n_clusters, p), what each cluster adds to the internal coordinates, to first
            order; BCa's acceleration comes from it.
        lost: How many refits did not converge and were left out.
    """

    theta: Array
    influence: Array
    lost: int


def resample(solution: Solution, n_draws: int, seed: int) -> Array:
    """Draw weights (n_draws, n) of the runs, whole clusters at a time."""
    groups = solution.runs.cluster
    n_groups = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_groups, size=(n_draws, n_groups))
    # Four times as fast as multinomial counts, whose law this is.
    drawn += n_groups * np.arange(n_draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n_draws * n_groups).astype(float)
    counts = counts.reshape(n_draws, n_groups)
    return counts if n_groups == len(groups) and _in_order(groups) else counts[:, groups]


def _in_order(groups: Array) -> bool:
    return bool((groups == np.arange(len(groups))).all())


def bootstrap(solution: Solution, n_draws: int, seed: int) -> Draws:
    """Refit `n_draws` resamples of the runs from the optimum."""
    return refit(solution, resample(solution, n_draws, seed))


def refit(solution: Solution, weights: Array) -> Draws:
    """Refit the runs under weights (n_draws, n), from the optimum."""
    phi, lost = _refitted(solution, weights)
    theta = solution.law.to_published(phi, solution.frame.centre)
    return Draws(theta, influence(solution), lost)


def internal_draws(solution: Solution, n_draws: int, seed: int) -> Array:
    """Refit resamples and return internal coordinates (n_kept, p)."""
    return _refitted(solution, resample(solution, n_draws, seed))[0]


def _refitted(solution: Solution, weights: Array) -> tuple[Array, int]:
    problem = solution.problem
    ends = descend(problem, np.tile(solution.psi, (len(weights), 1)), weights)
    kept = np.isfinite(ends.value) & (ends.scaled_gradient < _LOST)
    return problem.phi(ends.psi[kept]), int((~kept).sum())


def influence(solution: Solution) -> Array:
    """Return to first order how the internal coordinates move by each cluster: (clusters, p)."""
    objective = solution.problem.objective
    residual, moves = solution.on_scale
    pull = np.clip(residual, -objective.delta, objective.delta) * moves
    groups = solution.runs.cluster
    summed = np.zeros((int(groups.max()) + 1, len(solution.psi)))
    np.add.at(summed, groups, (solution.jacobian * pull).T)
    return summed @ np.linalg.pinv(solution.hessian).T @ solution.problem.free.T


def bca(draws: Array, value: float, influence: Array, level: float) -> Interval:
    """Return the bias-corrected and accelerated interval of a scalar.

    Args:
        draws: (n_draws,), the scalar at every refit.
        value: The scalar at the fit.
        influence: (n_clusters,), what each cluster adds to it.
        level: The interval's level.
    """
    normal = NormalDist()
    n = len(draws)
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / n
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / n, 1 - 0.5 / n)))
    cube, square = np.sum(influence**3), np.sum(influence**2)
    skew = float(cube / (6 * square**1.5)) if square > 0 else 0.0
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        # Beyond this the correction has turned over and says nothing.
        share = normal.cdf(bias + z / max(1 - skew * z, 0.1))
        ends.append(float(np.quantile(draws, np.clip(share, 0.0, 1.0))))
    return Interval(ends[0], ends[1], level, METHOD)
