"""Profile intervals: how far a number can be moved before the best refit is clearly worse.

An asymptote or a flat ridge has no symmetric interval; its profile may even be open on one side.
The number is a parameter, or the exponent of the frontier, which is a ratio of parameters: holding
either is one linear equation between the internal coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scalekit.fit.identify import exponent_names
from scalekit.fit.judge import Solution
from scalekit.fit.newton import descend
from scalekit.fit.result import Interval
from scalekit.fit.uncertainty import Spread, curvature
from scalekit.laws.base import Array

METHOD = "profile"
_CLOSE = 2e-3
_TRIES = 40
_FARTHER = 3.0
_ROUNDING = 1e-9
_STRAIGHT = 0.01
"""Half-width, relative, below which a profile's two sides differ by less than a twentieth of it."""


@dataclass(frozen=True)
class _Level:
    """A function of the parameters to be held at values.

    Attributes:
        equation: For a value, the row and right-hand side of the equation `row @ phi = right`
            between internal coordinates that holds it there.
        gradient: (p,), of the function by internal coordinates at the fit.
        here: Its value at the fit.
        low: Its smallest value.
        high: Its largest value.
    """

    equation: Callable[[float], tuple[Array, float]]
    gradient: Array
    here: float
    low: float
    high: float


def profile_interval(
    solution: Solution, name: str, errors: Spread, level: float
) -> Interval | None:
    """Return the values of a parameter that the runs do not refuse, in published units.

    The ceiling is where a parabola with the objective's curvature would reach `t` standard errors:
    for least squares with even noise that is the F test, and uneven or clustered noise raises it
    as it raises the standard error. An end that lies on the parameter's bound is that bound, zero
    for a positive one.

    Returns:
        None for a parameter that was fixed, for one whose published value rests on several
        coordinates, such as an amplitude (holding it is no linear equation), and where the
        interval is so narrow that the profile is the parabola it would be compared with.
    """
    law = solution.law
    position = law.index(name)
    if position not in solution.problem.index or law.params[position].transform == "amplitude":
        return None
    turn = law.published_jacobian(solution.phi, solution.frame.centre)[position]
    if np.flatnonzero(np.abs(turn) > _ROUNDING * np.abs(turn).max()).tolist() != [position]:
        return None
    held = _parameter(solution, position)
    size = 1.0 if law.params[position].transform == "log" else abs(held.here)
    if _is_straight(held, errors, level, size):
        return None
    ends = _ends(solution, held, errors, level)
    low, high = (_published(solution, position, value) for value in ends)
    if law.params[position].transform == "log" and ends[0] <= held.low:
        low = 0.0
    return Interval(low, high, level, METHOD)


def _published(solution: Solution, position: int, value: float) -> float:
    """Return a parameter as published, at another internal value of its own."""
    phi = solution.phi.copy()
    phi[position] = value
    return float(solution.law.to_published(phi, solution.frame.centre)[position])


def exponent_interval(
    solution: Solution, cost_power: float, errors: Spread, level: float
) -> Interval | None:
    """Return the exponents of N* that the runs do not refuse, beta / (alpha + cost_power beta).

    Returns:
        None for a law without such exponents, where they are tied or fixed, and where the interval
        is so narrow that the profile is a parabola.
    """
    positions = _exponent_positions(solution)
    if positions is None:
        return None
    a, b = positions
    alpha, beta = float(solution.phi[a]), float(solution.phi[b])
    share = alpha + cost_power * beta
    gradient = np.zeros(len(solution.phi))
    gradient[[a, b]] = np.array([-beta, alpha]) / share**2

    def equation(value: float) -> tuple[Array, float]:
        row = np.zeros(len(solution.phi))
        row[[a, b]] = value, cost_power * value - 1.0
        return row, 0.0

    held = _Level(equation, gradient, beta / share, 0.0, 1.0 / cost_power)
    if _is_straight(held, errors, level, held.here):
        return None
    return Interval(*_ends(solution, held, errors, level), level, METHOD)


def _exponent_positions(solution: Solution) -> tuple[int, int] | None:
    """Find the law's exponents of N and D among its parameters, if its optimum rests on two."""
    law = solution.law
    named = exponent_names(law)
    if named is None:
        return None
    a, b = (law.index(name) for name in named)
    free = set(solution.problem.index)
    return (a, b) if {a, b} <= free and not set(named) & set(solution.bounds_hit) else None


def _parameter(solution: Solution, position: int) -> _Level:
    row = np.zeros(len(solution.phi))
    row[position] = 1.0
    low, high = (float(ends[position]) for ends in solution.law.box)
    return _Level(lambda value: (row, value), row, float(solution.phi[position]), low, high)


def _is_straight(level: _Level, errors: Spread, confidence: float, size: float) -> bool:
    variance = float(level.gradient @ errors.matrix @ level.gradient)
    return errors.reach(confidence) * np.sqrt(variance) < _STRAIGHT * size


def _ends(
    solution: Solution, level: _Level, errors: Spread, confidence: float
) -> tuple[float, float]:
    gradient = level.gradient
    moves = solution.problem.free.T @ gradient
    bent = np.linalg.pinv(curvature(solution)) @ moves
    width = float(moves @ bent)
    variance = float(gradient @ errors.matrix @ gradient)
    reach = errors.reach(confidence)
    rise = 0.5 * reach**2 * variance / max(width, 1e-300)
    step = reach * float(np.sqrt(variance))
    if not rise > 0:
        # An exact fit: no move is free.
        return level.here, level.here
    tangent = bent / max(width, 1e-300)
    low = _cross(solution, level, rise, -step, tangent)
    return low, _cross(solution, level, rise, step, tangent)


def _cross(solution: Solution, level: _Level, rise: float, step: float, tangent: Array) -> float:
    """Find where the profile has risen by `rise`, on the side of `step`; its bound if nowhere.

    The root of the rise is a straight line for a parabola, so a secant on it is near the end after
    two refits. Each starts on the straight line through the two refits nearest to it, the first
    along the `tangent` (m,) of the other coordinates at the fit.
    """
    bound = level.low if step < 0 else level.high
    near, far = (level.here, 0.0), (np.nan, np.inf)
    path = [(level.here, solution.psi), (level.here + step, solution.psi + step * tangent)]
    value = level.here + step
    for tried in range(_TRIES):
        value = float(max(value, bound) if step < 0 else min(value, bound))
        reached, end = _held(solution, level, value, _on_line(path, value))
        path = [path[0], (value, end)] if tried == 0 else [*path, (value, end)]
        root = float(np.sqrt(max(reached - solution.value, 0.0) / rise))
        if abs(root - 1.0) < _CLOSE or (value == bound and root < 1.0):
            break
        width = abs(far[0] - near[0])
        if root < 1.0:
            near = (value, root)
        else:
            far = (value, root)
        shrunk = abs(far[0] - near[0]) < 0.5 * width
        value = _next(level.here, near, far, trusted=shrunk or not np.isfinite(width))
    return value


def _on_line(path: list[tuple[float, Array]], value: float) -> Array:
    """Return where (m,) the line through the two points nearest to a value reaches it."""
    (at, psi), (other, end) = sorted(path, key=lambda point: abs(point[0] - value))[:2]
    return psi if at == other else psi + (value - at) / (other - at) * (end - psi)


def _next(
    here: float, near: tuple[float, float], far: tuple[float, float], *, trusted: bool
) -> float:
    """Guess the crossing from a point below it and one above it, or only one below."""
    if np.isnan(far[0]):
        gone = near[0] - here
        return here + gone * float(np.clip(1.0 / max(near[1], 1e-3), 1.01, _FARTHER))
    if not trusted or np.isinf(far[1]):
        return (near[0] + far[0]) / 2
    return near[0] + (1.0 - near[1]) / (far[1] - near[1]) * (far[0] - near[0])


def _held(solution: Solution, level: _Level, value: float, psi: Array) -> tuple[float, Array]:
    """Refit with a function held at a value, from psi (m,): the sum reached, and where."""
    problem = solution.problem
    row, right = level.equation(value)
    moves = problem.free.T @ row
    right -= float(row @ problem.fixed)
    pivot = int(np.argmax(np.abs(moves)))
    others = [k for k in range(len(moves)) if k != pivot]
    ratio = moves[others] / moves[pivot]
    column = problem.free[:, pivot]
    held = replace(
        problem,
        free=problem.free[:, others] - np.outer(column, ratio),
        fixed=problem.fixed + column * (right / moves[pivot]),
        index=tuple(problem.index[k] for k in others),
    )
    ends = descend(held, psi[others][None])
    end = psi.copy()
    end[others] = ends.psi[0]
    end[pivot] = (right - moves[others] @ ends.psi[0]) / moves[pivot]
    return float(ends.value[0]), end
