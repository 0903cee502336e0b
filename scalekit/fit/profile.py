"""Profile intervals: how far one parameter can be moved before the best refit is clearly worse.

An asymptote or a flat ridge has no symmetric interval; its profile may even be open on one side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scalekit.fit.judge import Solution, mean_slope
from scalekit.fit.newton import descend
from scalekit.fit.objective import spread
from scalekit.fit.result import Interval
from scalekit.fit.uncertainty import half_width
from scalekit.laws.base import Array

METHOD = "profile"
_POINTS = 48


def profile(solution: Solution, name: str, values: Array) -> Array:
    """Return the objective (k,) refitted with one parameter held at internal values (k,)."""
    problem = solution.problem
    position = problem.law.index(name)
    column = problem.index.index(position)
    others = [k for k in range(len(problem.index)) if k != column]
    fixed = problem.fixed + values[:, None] * problem.free[:, column]
    held = replace(
        problem,
        free=problem.free[:, others],
        fixed=fixed,
        index=tuple(problem.index[k] for k in others),
    )
    # Walk outwards from the fit, each refit starting where its neighbour ended.
    start = np.tile(solution.psi[others], (len(values), 1))
    return descend(held, start).value


def profile_interval(
    solution: Solution, name: str, covariance: Array, level: float
) -> Interval | None:
    """Return the values of a parameter that the runs do not refuse, in published units.

    The ceiling is where a parabola with the objective's curvature would reach `t` standard errors
    of the given covariance: for least squares with even noise that is the F test, and uneven or
    clustered noise raises it as it raises the standard error. An end that lies on the parameter's
    bound is that bound, zero for a positive one.
    """
    law = solution.law
    position = law.index(name)
    if position not in solution.problem.index or law.params[position].transform == "amplitude":
        return None
    here = solution.phi[position]
    low, high = law.box[0][position], law.box[1][position]
    column = solution.problem.index.index(position)
    width = np.linalg.pinv(_curvature(solution))[column, column]
    reach = half_width(solution, level)
    ceiling = solution.value + 0.5 * reach**2 * covariance[position, position] / width
    ends = [_cross(solution, name, here, bound, ceiling) for bound in (low, high)]
    if law.params[position].transform == "log":
        ends = [float(np.exp(end)) if end > low else 0.0 for end in ends]
    return Interval(ends[0], ends[1], level, METHOD)


def _curvature(solution: Solution) -> Array:
    """Return the objective's curvature over the width of an interval.

    At the optimum itself a narrow delta shows the curvature of the few runs inside it.
    """
    problem = solution.problem
    residual, moves = solution.on_scale
    if float(np.max(problem.objective.delta)) >= spread(residual, len(solution.psi)):
        return solution.hessian
    jac = solution.jacobian * moves
    return mean_slope(problem, residual) * (jac @ jac.T)


def _cross(solution: Solution, name: str, here: float, bound: float, ceiling: float) -> float:
    """Find where the profile crosses a ceiling on the way from the fit to a bound."""
    near, far = here, bound
    reach = bound - here
    values = here + np.sign(reach) * np.geomspace(1e-4, max(abs(reach), 1e-4), _POINTS)
    for _ in range(3):
        over = np.flatnonzero(~(profile(solution, name, values) < ceiling))
        if not len(over):
            return float(far)
        first = int(over[0])
        far = values[first]
        near = values[first - 1] if first else near
        values = np.linspace(near, far, 12)[1:]
    return float((near + far) / 2)
