"""Profile intervals: how far one parameter can be moved before the best refit is clearly worse.

An asymptote or a flat ridge has no symmetric interval; its profile may even be open on one side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scalekit.fit.judge import Solution, mean_slope
from scalekit.fit.newton import minimise
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
    return minimise(held, start).value


def profile_interval(solution: Solution, name: str, level: float) -> Interval | None:
    """Return the values of a parameter that the runs do not refuse, published units.

    The objective may rise by t^2/2 noise variances, with the noise's scale from the residuals: for
    least squares this is the F test. An end that lies on the parameter's bound is that bound.
    """
    law = solution.law
    position = law.index(name)
    if position not in solution.problem.index or law.params[position].transform == "amplitude":
        return None
    here = solution.phi[position]
    low, high = law.box[0][position], law.box[1][position]
    objective = solution.problem.objective
    residual = objective.residual(
        np.log(solution.runs.loss), np.log(solution.runs.loss) - solution.residual
    )
    pull = np.clip(residual, -objective.delta, objective.delta)
    noise = float(pull @ pull) / solution.dof / mean_slope(solution.problem, residual)
    ceiling = solution.value + 0.5 * half_width(solution, level) ** 2 * noise
    ends = [_cross(solution, name, here, bound, ceiling) for bound in (low, high)]
    if law.params[position].transform == "log":
        ends = [float(np.exp(end)) if end > low else 0.0 for end in ends]
    return Interval(ends[0], ends[1], level, METHOD)


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
