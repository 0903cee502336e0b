"""The objective on a plane of two parameters, all others refitted: how they may move together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scalekit import registry
from scalekit.errors import FitError
from scalekit.fit.judge import Solution
from scalekit.fit.newton import descend
from scalekit.fit.objective import find_objective
from scalekit.fit.result import FitResult
from scalekit.fit.rows import select
from scalekit.fit.solve import solve
from scalekit.laws.base import Array
from scalekit.results.table import RunTable

_CELLS = 400_000
"""Grid points times runs that are worth refitting for one figure."""


@dataclass(frozen=True)
class Plane:
    """The refitted objective over two parameters.

    Attributes:
        names: The two parameters.
        first: Values (k,) of the first.
        second: Values (m,) of the second.
        rise: (m, k), the objective over its minimum, less one.
    """

    names: tuple[str, str]
    first: Array
    second: Array
    rise: Array


def plane_names(fit: FitResult) -> tuple[str, str] | None:
    """Name the two exponents that a plane is drawn over; None where the fit has no two free."""
    if fit.approach != "parametric":
        return None
    fixed = fit.diagnostics.get("asked", {}).get("fix", {})
    params = registry.find("laws", fit.law).params
    names = [p.name for p in params if p.transform == "linear" and p.name not in fixed]
    if {"alpha", "beta"} <= set(names):
        return "alpha", "beta"
    return (names[0], names[1]) if len(names) > 1 else None


def plane(
    table: RunTable, fit: FitResult, first: tuple[float, float], second: tuple[float, float]
) -> Plane:
    """Refit everything else on a grid over two exponents.

    Args:
        table: What was fitted.
        fit: A parametric fit of it.
        first: Range of the first of `plane_names`.
        second: Range of the second.

    Raises:
        FitError: The fit has no two free exponents, or no residual to rise from.
    """
    names = plane_names(fit)
    if names is None:
        raise FitError(f"{fit.law}: has no two free exponents to draw the objective over")
    solution = _solution(table, fit)
    # An exact fit leaves rounding alone: its ratio says nothing.
    if solution.value < 1e-20 * len(solution.runs):
        raise FitError(f"{fit.law}: fits these runs exactly; the objective has no valley to show")
    size = int(np.clip(np.sqrt(_CELLS / len(solution.runs)), 15, 41))
    x, y = np.linspace(*first, size), np.linspace(*second, size)
    mesh_x, mesh_y = np.meshgrid(x, y)
    value = _held(solution, names, mesh_x.ravel(), mesh_y.ravel()).reshape(mesh_x.shape)
    return Plane(names, x, y, value / solution.value - 1.0)


def _solution(table: RunTable, fit: FitResult) -> Solution:
    """Solve again as the fit was asked to: `fit.json` holds no residuals to start from."""
    asked = fit.diagnostics.get("asked", {})
    law = registry.find("laws", fit.law)
    drop, cluster = asked.get("drop", ()), asked.get("cluster")
    runs = select(table, law.inputs, drop=drop, cluster=cluster)
    objective = find_objective(asked.get("objective", "robust"), asked.get("delta"))
    return solve(law, runs, objective, fix=asked.get("fix", {}), seed=fit.seed)


def _held(solution: Solution, names: tuple[str, str], x: Array, y: Array) -> Array:
    """Return the objective (k,) refitted with two parameters held at internal values (k,)."""
    problem = solution.problem
    columns = [problem.index.index(problem.law.index(name)) for name in names]
    others = [k for k in range(len(problem.index)) if k not in columns]
    free = problem.free
    fixed = problem.fixed + x[:, None] * free[:, columns[0]] + y[:, None] * free[:, columns[1]]
    held = replace(
        problem,
        free=free[:, others],
        fixed=fixed,
        index=tuple(problem.index[k] for k in others),
    )
    return descend(held, np.tile(solution.psi[others], (x.size, 1))).value
