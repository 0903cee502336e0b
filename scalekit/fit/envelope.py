"""Approach 1: which run is best at each compute, then a power law through the best runs.

With training curves the envelope is theirs; without, that of the best run of each level of compute.
Only the convex hull of the envelope in (ln C, ln L) counts, which leaves out sizes that are never
the right choice (McLeish et al. 2025, arXiv:2502.06857).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.line import Line, describe_lines, fit_line, optimum_on
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.rows import Runs
from scalekit.laws.base import Array
from scalekit.quantities import count_words

_LEVELS = 200
_FEWEST = 3
_ALIKE = 0.05
"""FLOPs that differ by less, relatively, are one level: of equal cost, as far as planning goes."""
_KNOWN = 10**9
"""Degrees of freedom of an error that is known without being estimated."""


def hull(x: Array, y: Array) -> np.ndarray:
    """Return the positions of the lower convex hull of points, by rising x, while y falls.

    >>> hull(np.array([0.0, 1.0, 2.0, 3.0]), np.array([3.0, 2.9, 1.0, 2.0])).tolist()
    [0, 2]
    """
    chain: list[int] = []
    for i in np.lexsort((y, x)):
        if chain and x[chain[-1]] == x[i]:
            continue
        while len(chain) > 1 and _turns_up(x, y, chain[-2], chain[-1], int(i)):
            chain.pop()
        chain.append(int(i))
    kept = np.array(chain)
    lowest = int(np.argmin(y[kept]))
    return kept[: lowest + 1]


def _turns_up(x: Array, y: Array, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the chord from a to c."""
    return (y[b] - y[a]) * (x[c] - x[a]) >= (y[c] - y[a]) * (x[b] - x[a])


def fit_envelope(
    runs: Runs,
    curves: Sequence[Mapping[str, Array]] = (),
    predict: tuple[float, ...] = (),
) -> FitResult:
    """Fit approach 1.

    Args:
        runs: Finished runs with N, D and C.
        curves: Training curves, one a run: `params` (a number), `tokens`, `flops`, `loss` (m,).
        predict: Budgets to extrapolate the frontier to.
    """
    points = _from_curves(curves) if curves else _from_runs(runs)
    flops, params, tokens, loss = points
    kept = hull(np.log(flops), np.log(loss))
    # With curves a size stays best over a stretch of compute; each size's stretch is a step.
    steps = len(np.unique(params[kept]))
    ok = steps >= _FEWEST
    lines = {}
    if ok:
        spacing = _grid_error(flops[kept], params)
        for axis, best in (("params", params), ("tokens", tokens)):
            lines[axis] = _widened(fit_line(flops[kept], best[kept]), flops[kept], steps, spacing)
    theta, exponents, intervals = describe_lines(lines)
    source = f"{len(curves)} training curves" if curves else "the finished runs"
    optimum = [optimum_on(lines, c, float(flops.max())) for c in predict if ok]
    return FitResult(
        law="envelope",
        approach="envelope",
        theta=theta,
        objective={"name": "hull", "scale": "log"},
        status=FitStatus.CONVERGED if ok else FitStatus.UNIDENTIFIED,
        message=f"{count_words(steps, 'size')} on the hull of {source}"
        + ("" if ok else f"; a frontier needs {_FEWEST}"),
        n_runs=len(runs),
        dropped=runs.dropped,
        intervals=intervals,
        exponents=exponents,
        optimum=tuple(optimum),
        diagnostics={
            "hull": [
                {"flops": c, "params": n, "tokens": d, "loss": v}
                for c, n, d, v in zip(*(p[kept].tolist() for p in points), strict=True)
            ],
            "source": source,
        },
    )


def _widened(line: Line, flops: Array, steps: int, grid_error: float) -> Line:
    """Give a line the error of its scatter, or that of the sizes' spacing where it is larger.

    The scatter of the best sizes holds their spacing already, unless every budget hits the same
    place of its grid: then points on a perfect line prove nothing.
    """
    # Points of one size are one observation, so the scatter is that of as many steps.
    covariance = line.covariance * max(line.dof, 1) / (steps - 2)
    error = float(np.sqrt(covariance[1, 1]))
    by_scatter = t_quantile(0.5 + LEVEL / 2, steps - 2) * error
    if by_scatter >= t_quantile(0.5 + LEVEL / 2, np.inf) * grid_error:
        return replace(line, dof=steps - 2, error=error, covariance=covariance)
    # Of (ln coefficient, exponent), the level at the centre and the slope being independent.
    centre, level = float(np.log(flops).mean()), float(np.log(flops).var())
    about = grid_error**2 * np.array([[level + centre**2, -centre], [-centre, 1.0]])
    return replace(line, dof=_KNOWN, error=grid_error, covariance=about)


def _grid_error(flops: Array, params: Array) -> float:
    """Return the exponent's error that the spacing of the sizes alone allows.

    The best size of a grid may be off by a third of its spacing (Porian et al. 2024,
    arXiv:2406.19146, take that as a floor), so points on a perfect line prove nothing.
    """
    gaps = np.diff(np.unique(np.log(params)))
    if len(flops) < 2 or not len(gaps):
        return 0.0
    moved = np.log(flops) - np.log(flops).mean()
    return float(np.median(gaps)) / 3 / float(np.sqrt(moved @ moved))


def _from_runs(runs: Runs) -> tuple[Array, Array, Array, Array]:
    """Take the best run of each level of compute.

    The hull begins with the cheapest point whether it is good or not, and runs of one budget whose
    counted FLOPs differ a little would follow it down that budget's valley.
    """
    level = _levels(runs)
    order = np.lexsort((runs.loss, level))
    best = order[np.concatenate([[True], np.diff(level[order]) > 0])]
    flops, params, tokens = (runs.inputs[s][best] for s in "CND")
    return flops, params, tokens, runs.loss[best]


def _levels(runs: Runs) -> Array:
    """Number the levels of compute (n,): planned budgets, or FLOPs alike within `_ALIKE`."""
    if np.isfinite(runs.budget).all():
        return np.unique(runs.budget, return_inverse=True)[1]
    flops = np.log(runs.inputs["C"])
    found = np.zeros(len(flops), dtype=int)
    first, level = -np.inf, -1
    for i in np.argsort(flops, kind="stable"):
        if flops[i] > first + _ALIKE:
            first, level = flops[i], level + 1
        found[i] = level
    return found


def _from_curves(
    curves: Sequence[Mapping[str, Array]],
) -> tuple[Array, Array, Array, Array]:
    """Take the best curve at evenly spaced levels of log compute.

    Where the smallest or the largest size is best, a size beyond it might have been better, so
    those levels are left out while enough sizes remain.
    """
    low = min(float(np.min(c["flops"])) for c in curves)
    high = max(float(np.max(c["flops"])) for c in curves)
    levels = np.geomspace(low, high, _LEVELS)
    losses = np.full((len(curves), _LEVELS), np.inf)
    for row, curve in zip(losses, curves, strict=True):
        inside = (levels >= np.min(curve["flops"])) & (levels <= np.max(curve["flops"]))
        row[inside] = np.exp(
            np.interp(np.log(levels[inside]), np.log(curve["flops"]), np.log(curve["loss"]))
        )
    best = np.argmin(losses, axis=0)
    known = np.isfinite(losses.min(axis=0))
    params = np.array([float(curves[k]["params"]) for k in best])
    bracketed = known & (params > params[known].min()) & (params < params[known].max())
    if len(np.unique(params[bracketed])) >= _FEWEST:
        known = bracketed
    tokens = np.array(
        [
            np.exp(np.interp(np.log(c), np.log(curves[k]["flops"]), np.log(curves[k]["tokens"])))
            for k, c in zip(best, levels, strict=True)
        ]
    )
    return levels[known], params[known], tokens[known], losses.min(axis=0)[known]
