"""Minimise many robust fits of one law at once: damped Newton, all problems in one batch.

A problem is a row of weights over the runs (a bootstrap resample, a run left out) or a starting
point. All share the law and the runs, so every step is a few matrix products over (problems, runs)
and a stack of small linear systems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scalekit.fit.objective import Objective
from scalekit.laws.base import Array, Frame, Law, State

CHUNK_CELLS = 50_000
"""Problems times runs that are worked on at once: what stays in a core's cache."""

_ROUND_ENOUGH = 1e-3
_SMALLEST_DAMPING = 1e-9
_LARGEST_DAMPING = 1e14


@dataclass(frozen=True)
class Problem:
    """What is fitted to what.

    Attributes:
        law: The law.
        frame: The runs' inputs.
        log_observed: (n,) or (S, n), logarithms of the measured losses.
        objective: What is summed.
        free: (p, m): internal coordinates are `free @ psi + fixed`.
        fixed: (p,) or (S, p).
        index: The internal coordinate that each free one is, (m,).
    """

    law: Law
    frame: Frame
    log_observed: Array
    objective: Objective
    free: Array
    fixed: Array
    index: tuple[int, ...]

    @cached_property
    def is_whole(self) -> bool:
        """Whether every internal coordinate is free and stands for itself."""
        return len(self.free) == len(self.index) and np.array_equal(
            self.free, np.eye(len(self.free))
        )

    def phi(self, psi: Array) -> Array:
        """Return internal coordinates (S, p) of free ones (S, m)."""
        return psi @ self.free.T + self.fixed

    def at(self, which: Array | slice) -> Problem:
        """Keep some of the S problems."""
        fixed, log_observed = (
            values if values.ndim == 1 else values[which]
            for values in (self.fixed, self.log_observed)
        )
        return replace(self, fixed=fixed, log_observed=log_observed)

    @property
    def box(self) -> tuple[Array, Array]:
        """Lower and upper ends of the free coordinates, each (m,)."""
        low, high = self.law.box
        kept = list(self.index)
        return low[kept], high[kept]


@dataclass(frozen=True)
class Minimum:
    """Where S minimisations ended.

    Attributes:
        psi: (S, m), free coordinates.
        value: (S,), the sums reached.
        scaled_gradient: (S,), the largest cosine between the derivative of the runs' losses and a
            column of the Jacobian, over coordinates that are not on a bound: zero at an optimum,
            whatever the objective's units.
        hessian: (S, m, m).
        on_bound: (S, m).
    """

    psi: Array
    value: Array
    scaled_gradient: Array
    hessian: Array
    on_bound: Array


@dataclass
class _Point:
    """Everything known at the present point of each problem."""

    value: Array
    gradient: Array
    hessian: Array


def minimise(
    problem: Problem, psi: Array, weights: Array | None = None, *, max_iterations: int = 200
) -> Minimum:
    """Minimise S problems from the free coordinates psi (S, m), in chunks that fit the cache.

    Args:
        problem: What is shared by all.
        psi: Where each starts; moved into the box.
        weights: (S, n) or (n,), the runs' weights; equal unless given.
        max_iterations: Steps tried before a problem is given up.
    """
    n = problem.log_observed.shape[-1]
    if weights is None:
        weights = np.ones((1, n))
    weights = np.broadcast_to(weights, (len(psi), n))
    size = max(1, CHUNK_CELLS // n)
    found = []
    for first in range(0, len(psi), size):
        some = slice(first, first + size)
        rows = np.ascontiguousarray(weights[some])
        found.append(_minimise(problem.at(some), psi[some], rows, max_iterations))
    return Minimum(
        *(np.concatenate([getattr(f, name) for f in found]) for name in Minimum.__annotations__)
    )


def descend(problem: Problem, psi: Array, weights: Array | None = None) -> Minimum:
    """Minimise, first with rounder objectives where delta is too small for Newton's method.

    Near least absolute deviations the objective is all corners, and a step from outside the last
    one sees no curvature; each tenfold sharpening starts where the rounder one ended.
    """
    delta = _ROUND_ENOUGH
    while delta > 3 * problem.objective.delta:
        rounder = replace(problem, objective=replace(problem.objective, delta=delta))
        psi = minimise(rounder, psi, weights).psi
        delta /= 10
    return minimise(problem, psi, weights)


def _minimise(problem: Problem, psi: Array, weights: Array, max_iterations: int) -> Minimum:
    low, high = problem.box
    psi = np.clip(psi, low, high)
    count = len(psi)
    here = _evaluate(problem, psi, weights)
    ruler = _ruler(problem, psi, weights)
    damping = np.full(count, 1e-3)
    # A step is too small to judge below this; in an exact fit residuals are one rounding each.
    floor = 1e-31 * weights.shape[1]
    active = np.arange(count)
    for _ in range(max_iterations):
        if not len(active):
            break
        used = damping[active]
        step, promised = _step(
            psi[active],
            here.gradient[active],
            here.hessian[active],
            used[:, None] * ruler[active],
            (low, high),
        )
        trial = np.clip(psi[active] + step, low, high)
        there = _evaluate(problem.at(active), trial, weights[active])
        tiny = (promised >= 0) & (promised <= 1e-15 * here.value[active] + floor)
        better = (there.value <= here.value[active]) & (promised >= 0)
        better |= tiny & _is_flatter(there, here, active, ruler)
        won = active[better]
        psi[won] = trial[better]
        here.value[won] = there.value[better]
        here.gradient[won] = there.gradient[better]
        here.hessian[won] = there.hessian[better]
        ruler[won] = np.maximum(ruler[won], np.einsum("smm->sm", there.hessian[better]))
        damping[won] *= 0.1
        damping[active[~better]] *= 8.0
        np.clip(damping, _SMALLEST_DAMPING, _LARGEST_DAMPING, out=damping)
        done = (tiny & (used < 1e-1)) | (damping[active] >= _LARGEST_DAMPING)
        active = active[~done]
    return _certify(problem, psi, weights, here)


def _is_flatter(there: _Point, here: _Point, active: Array, ruler: Array) -> Array:
    """Compare gradients where the objective's last digits can no longer rank two points."""
    roots = np.sqrt(ruler[active])
    new, old = (np.abs(g / roots).max(axis=1) for g in (there.gradient, here.gradient[active]))
    return new < old


def _evaluate(problem: Problem, psi: Array, weights: Array) -> _Point:
    state = problem.law.state(problem.phi(psi), problem.frame)
    objective = problem.objective
    residual = objective.residual(problem.log_observed, state.log_loss)
    value = objective.value(residual, weights)
    gradient, hessian = objective.derivatives(problem.law, state, residual, weights)
    free = problem.free
    if problem.is_whole:
        return _Point(value, gradient, hessian)
    return _Point(value, gradient @ free, free.T @ hessian @ free)


def _ruler(problem: Problem, psi: Array, weights: Array) -> Array:
    """Scale each coordinate by the convex curvature of the objective at the start: (S, m)."""
    jac, _, residual, state = _columns(problem, psi)
    size = np.abs(residual)
    pull = weights * np.minimum(1.0, problem.objective.delta / np.maximum(size, 1e-300))
    pull = pull * problem.objective.sensitivity(state) ** 2
    return np.maximum(_weighed(pull, jac), 1e-30)


def _weighed(weights: Array, jac: Array) -> Array:
    """Sum weights (S, n) times the squares of columns (S, m, n): (S, m)."""
    return (jac**2 @ weights[:, :, None])[:, :, 0]


def _columns(problem: Problem, psi: Array) -> tuple[Array, Array, Array, State]:
    """Return the Jacobian of log loss by free coordinates (S, m, n), psi-function and residual."""
    state = problem.law.state(problem.phi(psi), problem.frame)
    jac = problem.law.jacobian(state)
    if not problem.is_whole:
        jac = problem.free.T @ jac
    residual = problem.objective.residual(problem.log_observed, state.log_loss)
    delta = problem.objective.delta
    return jac, np.clip(residual, -delta, delta), residual, state


def _step(
    psi: Array, gradient: Array, hessian: Array, damping: Array, box: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Solve for a step (S, m) and what it promises (S,), holding coordinates at their bounds."""
    held = _held(psi, gradient, box)
    system = hessian.copy()
    m = psi.shape[1]
    diagonal = np.arange(m)
    system[:, diagonal, diagonal] += damping
    if held.any():
        system = np.where(held[:, :, None] | held[:, None, :], 0.0, system)
        system[:, diagonal, diagonal] += held
        gradient = np.where(held, 0.0, gradient)
    try:
        step = -np.linalg.solve(system, gradient[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        step = -gradient / np.maximum(np.einsum("smm->sm", system), 1e-30)
    # Wild steps come from a Hessian that is not positive: shorten them, keep their direction.
    size = np.abs(step).max(axis=1, keepdims=True)
    step = np.where(np.isfinite(step), step, 0.0) * np.minimum(1.0, 3.0 / np.maximum(size, 1e-300))
    promised = -np.einsum("sm,sm->s", gradient, step)
    return step, promised


def _held(psi: Array, gradient: Array, box: tuple[Array, Array]) -> Array:
    low, high = box
    return ((psi <= low) & (gradient > 0)) | ((psi >= high) & (gradient < 0))


def _certify(problem: Problem, psi: Array, weights: Array, here: _Point) -> Minimum:
    held = _held(psi, here.gradient, problem.box)
    jac, pulls, _, state = _columns(problem, psi)
    jac = jac * np.broadcast_to(problem.objective.sensitivity(state), state.log_loss.shape)[:, None]
    roots = np.sqrt(weights)
    lengths = np.sqrt(_weighed(weights, jac))
    # Below this, residuals are the rounding of an exact fit and have no direction.
    rounding = 1e-9 * np.sqrt(weights.sum(axis=1))
    pull = np.maximum(np.sqrt(np.sum((roots * pulls) ** 2, axis=1)), rounding)
    cosine = np.abs(here.gradient) / np.maximum(lengths * pull[:, None], 1e-300)
    cosine = np.where(held, 0.0, cosine)
    low, high = problem.box
    on_bound = (psi <= low) | (psi >= high)
    return Minimum(psi, here.value, cosine.max(axis=1), here.hessian, on_bound)
