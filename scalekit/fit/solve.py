"""Approach 3: fit a law to runs, and say honestly how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scalekit.errors import UsageError, did_you_mean
from scalekit.fit.identify import survey
from scalekit.fit.judge import AGREEMENT, Solution, judge
from scalekit.fit.newton import Minimum, Problem, descend, minimise
from scalekit.fit.objective import HUBER_95, Objective, spread
from scalekit.fit.rows import Runs, check_enough
from scalekit.fit.starts import spread_starts
from scalekit.laws.base import Array, Frame, Law

_FINEST_DELTA = 1e-6
_ROUNDS = 20
_SETTLED = 1e-9
_STEADY = 0.9
"""Where delta answers itself more steadily than this, the secant's step is held short."""

_MANY = 1500
_SAMPLE = 400
_CARRIED = 4
"""Of the sample's ends so many are carried on over all runs: one more than must agree."""


def solve(
    law: Law,
    runs: Runs,
    objective: Objective,
    *,
    fix: Mapping[str, float] | None = None,
    n_starts: int | None = None,
    seed: int = 0,
    extra_starts: Array | None = None,
) -> Solution:
    """Fit a law by the sum of robust losses from several starts and judge the end.

    Args:
        law: What is fitted.
        runs: To what.
        objective: What is minimised; an adaptive one gets its delta from the residuals' spread.
        fix: Published parameters held at values.
        n_starts: Starting points that are all carried to the end, as many as the law asks for
            unless given; their agreement is reported.
        seed: For laws whose starts are drawn.
        extra_starts: More starting points in internal coordinates, (k, p).

    Raises:
        FitError: Fewer runs than free parameters.
        UsageError: An unknown parameter in `fix`, or a value outside its box.
    """
    inputs = {s: runs.inputs[s] for s in law.inputs}
    frame = law.frame(inputs)
    free, fixed, index = _fixing(law, frame, fix or {})
    check_enough(runs, law.name, len(index))
    _check_floor(law, runs, fix or {})
    log_loss = np.log(runs.loss)
    problem = Problem(law, frame, log_loss, objective, free, fixed, index)
    starts = _starts(problem, inputs, n_starts or law.starts, seed)
    if extra_starts is not None:
        starts = np.concatenate([extra_starts, starts])
    design = survey(law, frame, free, problem.phi(starts[:1, list(index)])[0], inputs)
    problem, ends = _descend(problem, starts[:, list(index)])
    return judge(runs, problem, ends, design)


def refit_under(solution: Solution, objective: Objective) -> tuple[Objective, Array, float]:
    """Go down another objective from a fit: the objective, where it ends (m,), and its sum.

    One start and no certificate: it says how far the choice of objective moves a fit.
    """
    problem = replace(solution.problem, objective=objective)
    psi = solution.psi[None]
    if objective.adapts:
        problem, psi = _settle(problem, psi)
    ends = descend(problem, psi)
    return problem.objective, ends.psi[0], float(ends.value[0])


def _starts(problem: Problem, inputs: Mapping[str, Array], count: int, seed: int) -> Array:
    """Choose starts (count, p); of many runs a sample carries them most of the way down."""
    law, n = problem.law, problem.log_observed.shape[-1]
    if n <= _MANY:
        return spread_starts(law, problem.frame, problem.log_observed, count=count, seed=seed)
    some = np.sort(np.random.default_rng(seed).choice(n, _SAMPLE, replace=False))
    frame = law.frame({s: v[some] for s, v in inputs.items()}, problem.frame.centre)
    log_loss = problem.log_observed[some]
    starts = spread_starts(law, frame, log_loss, count=count, seed=seed)
    # Plain least squares: an outlier among the sample costs the full fit a few steps, no more.
    sample = replace(
        problem,
        frame=frame,
        log_observed=log_loss,
        objective=replace(problem.objective, delta=np.inf, adapts=False),
    )
    ends = descend(sample, starts[:, list(problem.index)])
    best = np.argsort(ends.value)[:_CARRIED]
    return sample.phi(ends.psi[best])


def _fixing(
    law: Law, frame: Frame, fix: Mapping[str, float]
) -> tuple[Array, Array, tuple[int, ...]]:
    """Return the affine map from free to internal coordinates that holds `fix`, and which are free.

    A fixed amplitude ties its internal coordinate to its exponents: ln A at the centre is
    ln A less the sum of exponent times centre, which is affine in the exponents.
    """
    for name in fix:
        if name not in law.names:
            hint = did_you_mean(name, law.names)
            raise UsageError(f"--fix {name}: {law.name} has none; {hint}")
        if law.held is not None and name not in law.held:
            raise UsageError(f"--fix {name}: {law.name} can only hold {', '.join(law.held)}")
        least = min(law.params[law.index(name)].low, 0.0)
        if not np.isfinite(fix[name]) or fix[name] < least:
            raise UsageError(
                f"--fix {name}={fix[name]:g}: not a positive number; write --fix E=1.7"
            )
    p = len(law.params)
    index = tuple(i for i, name in enumerate(law.names) if name not in fix)
    free = np.eye(p)[:, list(index)]
    if not index:
        raise UsageError(f"--fix: {law.name} has no parameter left to fit; fix fewer")
    # The map is affine, so its value at zero and at unit vectors of the free coordinates is all.
    base = _pinned(law, frame, fix, np.zeros(p))
    for column in free.T:
        moved = _pinned(law, frame, fix, column.copy())
        column[:] = moved - base
    return free, base, index


def _check_floor(law: Law, runs: Runs, fix: Mapping[str, float]) -> None:
    """Refuse to hold a limit of the loss above every loss: no such law comes near the runs."""
    for name in law.asymptotes if law.response == "loss" else ():
        largest = float(runs.loss.max())
        if fix.get(name, 0.0) >= largest:
            raise UsageError(
                f"--fix {name}={fix[name]:g}: no loss of {law.name} lies below it, but all runs' "
                f"do, {largest:.4g} at most; hold it at less"
            )


def _pinned(law: Law, frame: Frame, fix: Mapping[str, float], phi: Array) -> Array:
    """Set the fixed parameters in internal coordinates, leaving the others as they are."""
    phi = phi.copy()
    amplitudes = []
    for name, value in fix.items():
        param = law.params[law.index(name)]
        if param.transform == "amplitude":
            amplitudes.append(name)
        elif param.transform == "log":
            phi[law.index(name)] = np.log(value) if value > 0 else -700.0
        else:
            phi[law.index(name)] = value
    if amplitudes:
        published = law.to_published(np.where(np.isfinite(phi), phi, 0.0), frame.centre)
        for name in amplitudes:
            i = law.index(name)
            # ln A published at internal 0 is the sum of exponent times centre.
            phi[i] = np.log(fix[name]) - (np.log(published[i]) - phi[i])
    return phi


def _descend(problem: Problem, psi: Array) -> tuple[Problem, Minimum]:
    """Minimise from every start, narrowing delta where the objective asks for it."""
    if problem.objective.adapts:
        return _adapt(problem, psi)
    return problem, descend(problem, psi)


def _adapt(problem: Problem, psi: Array) -> tuple[Problem, Minimum]:
    """Iterate delta to a fixed point of the best fit's residuals, then fit from every start."""
    ends = minimise(problem, psi)
    best = ends.psi[[int(np.nanargmin(ends.value))]]
    for _ in range(_ROUNDS):
        problem, best = _settle(problem, best)
        ends = descend(problem, np.concatenate([best, psi]))
        winner = int(np.nanargmin(ends.value))
        if ends.value[winner] >= ends.value[0] * (1 - AGREEMENT):
            break
        best = ends.psi[[winner]]
    return problem, ends


def _settle(problem: Problem, psi: Array) -> tuple[Problem, Array]:
    """Find the delta that the fit under it asks for, by a secant on its logarithm.

    Plain repetition closes in by a factor of 0.3 to 0.9 a fit, and can need dozens.
    """
    trial = float(np.log(_delta(problem, psi)))
    before: tuple[float, float] | None = None
    for _ in range(_ROUNDS):
        objective = replace(problem.objective, delta=float(np.exp(trial)))
        problem = replace(problem, objective=objective)
        psi = minimise(problem, psi).psi
        asked = float(np.log(_delta(problem, psi)))
        if abs(asked - trial) < _SETTLED:
            break
        ratio = 0.0
        if before is not None and trial != before[0]:
            ratio = float(np.clip((asked - before[1]) / (trial - before[0]), -1.0, _STEADY))
        before = (trial, asked)
        trial += (asked - trial) / (1.0 - ratio)
    return problem, psi


def _delta(problem: Problem, psi: Array) -> float:
    log_loss = problem.law.state(problem.phi(psi), problem.frame).log_loss[0]
    found = HUBER_95 * spread(problem.log_observed - log_loss, len(problem.index))
    return max(found, _FINEST_DELTA)
