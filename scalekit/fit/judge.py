"""How a fit ended: converged, on a bound, between rivals, or resting on runs that cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from scalekit.fit.identify import Design, condition_of
from scalekit.fit.newton import Minimum, Problem
from scalekit.fit.objective import spread
from scalekit.fit.result import FitStatus
from scalekit.fit.rows import Runs
from scalekit.laws.base import Array, Frame, Law

GATE = 1e-6
"""The largest scaled gradient of a fit that counts as converged."""

AGREEMENT = 1e-6
"""Starts agree when their objectives differ by less, relative to the best."""

ENOUGH_AGREE = 3
"""So many starts must reach the best objective."""

_ROUNDING = 1e-8
_RIVAL = 2.7055  # 90 % quantile of chi-squared with one degree of freedom


@dataclass(frozen=True)
class Solution:
    """A fitted law in internal coordinates, with everything its uncertainty needs.

    Attributes:
        problem: What was minimised; its objective has the delta that was used.
        psi: (m,), the free coordinates; `phi` is (p,).
        residual: (n,), observed minus predicted, of log loss.
        jacobian: (m, n), of log loss by free coordinates.
        hessian: (m, m), of the objective.
        condition: Of the centred normal matrix with columns of equal length.
        agreeing: How many of `starts` reached the best objective.
        rivals: Other minima that the runs cannot tell from the best, in internal coordinates.
        design: What the inputs alone said before the fit.
    """

    runs: Runs
    problem: Problem
    psi: Array
    phi: Array
    value: float
    residual: Array
    jacobian: Array
    hessian: Array
    scaled_gradient: float
    bounds_hit: tuple[str, ...]
    condition: float
    starts: int
    agreeing: int
    rivals: tuple[Array, ...]
    design: Design
    status: FitStatus
    message: str

    @property
    def law(self) -> Law:
        """The law that was fitted."""
        return self.problem.law

    @property
    def frame(self) -> Frame:
        """The runs' inputs, centred."""
        return self.problem.frame

    @property
    def theta(self) -> dict[str, float]:
        """The published parameters."""
        values = self.law.to_published(self.phi, self.frame.centre)
        return dict(zip(self.law.names, map(float, values), strict=True))

    @property
    def dof(self) -> int:
        """Runs less free parameters, at least one."""
        return max(len(self.runs) - len(self.psi), 1)

    @property
    def on_scale(self) -> tuple[Array, Array]:
        """Residuals on the objective's scale and how they move with log loss, each (n,)."""
        objective = self.problem.objective
        log_loss = self.problem.log_observed - self.residual
        residual = objective.residual(self.problem.log_observed, log_loss)
        moves = np.ones_like(residual) if objective.scale == "log" else np.exp(log_loss)
        return residual, moves

    @property
    def spread(self) -> float:
        """Standard deviation of the residuals of log loss, by their median size."""
        return spread(self.residual, len(self.psi))


def judge(runs: Runs, problem: Problem, ends: Minimum, design: Design) -> Solution:
    """Take the best end of all starts and say what it is worth."""
    best = int(np.nanargmin(ends.value))
    psi, value = ends.psi[best], float(ends.value[best])
    phi = problem.phi(psi[None])
    law = problem.law
    state = law.state(phi, problem.frame)
    jacobian = problem.free.T @ law.jacobian(state)[0]
    residual = problem.log_observed - state.log_loss[0]
    bounds_hit = tuple(law.names[problem.index[k]] for k in np.flatnonzero(ends.on_bound[best]))
    condition = condition_of(jacobian[~ends.on_bound[best]])
    # The last bit of an exact fit's tiny objective is rounding, so agreement needs a floor.
    agree = ends.value <= value * (1 + AGREEMENT) + 1e-20 * len(runs)
    rivals = _rivals(problem, ends, best, residual)
    gradient = float(ends.scaled_gradient[best])
    found = Solution(
        runs, problem, psi, phi[0], value, residual, jacobian, ends.hessian[best], gradient,
        bounds_hit, condition, len(ends.value), int(agree.sum()), rivals, design,
        FitStatus.CONVERGED, "",
    )  # fmt: skip
    inner = ~ends.on_bound[best]
    curved = found.hessian[np.ix_(inner, inner)]
    is_minimum = not len(curved) or bool(np.linalg.eigvalsh(curved)[0] > 0)
    status, message = _verdict(found, is_minimum)
    return replace(found, status=status, message=message)


def mean_slope(problem: Problem, residual: Array) -> float:
    """Return the mean second derivative of the loss of a residual (n,), smoothed by a normal law.

    The residual is on the objective's scale.

    Counting the residuals inside delta instead is hopeless when delta is a tenth of their spread.
    """
    delta = problem.objective.delta
    scale = max(spread(residual, len(problem.index)), 1e-300)
    return max(2 * NormalDist().cdf(min(delta / scale, 40.0)) - 1, 1e-12)


def _rivals(problem: Problem, ends: Minimum, best: int, residual: Array) -> tuple[Array, ...]:
    """Find other converged minima whose objective the noise cannot tell from the best one."""
    if problem.objective.scale != "log":
        return ()
    delta = problem.objective.delta
    noise = np.mean(np.clip(residual, -delta, delta) ** 2) / mean_slope(problem, residual)
    others = []
    log_loss = problem.log_observed - residual
    for k in np.argsort(ends.value):
        gap = ends.value[k] - ends.value[best]
        if k == best or ends.scaled_gradient[k] > GATE or not gap > AGREEMENT * ends.value[best]:
            continue
        if 2 * gap >= _RIVAL * noise:
            break
        phi = problem.phi(ends.psi[[k]])
        there = problem.law.state(phi, problem.frame).log_loss[0]
        apart = np.sqrt(np.mean((there - log_loss) ** 2))
        if apart > max(0.1 * spread(residual, len(problem.index)), _ROUNDING):
            others.append(phi[0])
    return tuple(others)


def _verdict(found: Solution, is_minimum: bool) -> tuple[FitStatus, str]:
    """Name the first thing that is wrong, or say how well the starts agree."""
    law, gradient = found.law, found.scaled_gradient
    design, line = found.design, found.design.line
    limit = law.condition_limit
    doubts = [
        (
            line is not None,
            FitStatus.UNIDENTIFIED,
            f"{line}: the runs cannot separate the terms of {law.name}, however many they are; "
            "add runs away from that line or fix a parameter",
        ),
        (
            design.rank < design.n_free,
            FitStatus.UNIDENTIFIED,
            f"rank {design.rank} of {design.n_free} parameters: the {design.n_points} different "
            "inputs leave a direction free; widen the design or fix a parameter",
        ),
        (
            found.condition > limit,
            FitStatus.UNIDENTIFIED,
            f"condition {found.condition:.1e} of the normal matrix, over {limit:.0e}: several "
            "parameter sets fit equally well; widen the design or fix a parameter",
        ),
        (
            gradient > GATE or not is_minimum,
            FitStatus.NOT_CONVERGED,
            f"scaled gradient {gradient:.1e} at the best of {found.starts} starts, over {GATE:.0e}",
        ),
        (
            bool(found.bounds_hit),
            FitStatus.BOUND_HIT,
            f"{', '.join(found.bounds_hit)} ended on a bound: the runs do not need that term, or "
            "cannot see it; use a smaller law or fix it",
        ),
        (
            bool(found.rivals),
            FitStatus.MULTIMODAL,
            f"{len(found.rivals)} other minima fit these runs as well as the best, and predict "
            "something else",
        ),
        (
            found.agreeing < min(ENOUGH_AGREE, found.starts),
            FitStatus.NOT_CONVERGED,
            f"only {found.agreeing} of {found.starts} starts reached the best objective",
        ),
    ]
    agreed = (
        f"{found.agreeing} of {found.starts} starts reached the same optimum, scaled gradient "
        f"{gradient:.1e}"
    )
    return next(
        ((status, message) for wrong, status, message in doubts if wrong),
        (FitStatus.CONVERGED, agreed),
    )
