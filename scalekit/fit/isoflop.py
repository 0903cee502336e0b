"""Approach 2: each budget's valley read for its minimum, then a power law through the minima.

Both axes are fitted, since where FLOPs are not 6 N D their exponents do not add up to one, and both
readings of a valley (`valley.py`). What biases them is measured beside them: a grid that is wide or
off-centre moves the minima, and one whose centre drifts moves the exponent (Czech et al. 2026,
arXiv:2603.22339).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalekit.errors import FitError, InputError
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.line import Line, describe_lines, fit_line, optimum_on
from scalekit.fit.optimum import SUSPICIOUS_MISS, Fitted, allocate, exponents, fit_cost
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.rows import Runs
from scalekit.fit.valley import (
    GRID_SHARE,
    EdgeMinimumError,
    NoMinimumError,
    Read,
    akima_reader,
    bracketed,
    grid_gap,
    noise_of,
    parabola,
)
from scalekit.laws.base import Array
from scalekit.quantities import count_words, write_flops

PARABOLA = "isoflop"
AKIMA = "isoflop_akima"
AXES = {"params": "N", "tokens": "D"}
SUM_TOLERANCE = 0.01
"""How far from one the two exponents may add up before it is said."""
SUSPICIOUS_BIAS = 0.02
"""A design that moves a noiseless optimum by more than this share is warned of."""


def fit_isoflop(
    runs: Runs, predict: tuple[float, ...] = (), *, curve: str = PARABOLA, seed: int = 0
) -> FitResult:
    """Fit approach 2 on both axes.

    The runs need planned budgets; achieved FLOPs are never rounded into groups.

    Args:
        runs: With N and D.
        predict: Budgets to extrapolate the frontier to.
        curve: `PARABOLA`, or `AKIMA`, whose minima are weighted by their errors.
        seed: Of the draws that give Akima's minima their errors.

    Raises:
        InputError: No planned budgets.
    """
    if not np.isfinite(runs.budget).any():
        raise InputError(
            f"{runs.where}: approach isoflop needs the column 'budget' (planned FLOPs); name it "
            "with --map budget=COLUMN, achieved FLOPs are not rounded into budgets"
        )
    entries: list[dict[str, Any]] = []
    lines: dict[str, Line] = {}
    for axis in AXES:
        valleys = _valleys(runs, axis)
        noise = noise_of(list(valleys.values()))
        read = parabola if curve == PARABOLA else akima_reader(noise, seed)
        found = [_entry(read, axis, budget, *pair) for budget, pair in valleys.items()]
        entries += found
        good = [e for e in found if not e["rejected"]]
        if len(good) >= 2:
            flops = np.array([e["budget"] for e in good])
            best = np.array([e["best"] for e in good])
            lines[axis] = fit_line(flops, best, None if curve == PARABOLA else _errors(good))
    return _result(runs, curve, entries, lines, predict)


def _valleys(runs: Runs, axis: str) -> dict[float, tuple[Array, Array]]:
    """Return sizes and losses by rising budget."""
    budgets = np.unique(runs.budget[np.isfinite(runs.budget)])
    x = runs.inputs[AXES[axis]]
    return {float(b): (x[runs.budget == b], runs.loss[runs.budget == b]) for b in budgets}


def _entry(read: Read, axis: str, budget: float, x: Array, loss: Array) -> dict[str, Any]:
    entry: dict[str, Any] = {"axis": axis, "budget": budget, "n_runs": len(x)}
    try:
        valley = bracketed(read, x, loss, f"budget {write_flops(budget)}, {axis}")
    except (EdgeMinimumError, NoMinimumError) as error:
        return {**entry, "rejected": str(error)}
    known = np.isfinite(valley.error)
    low = high = None
    if known:
        # An error drawn from pooled noise has more degrees of freedom than one budget's residual.
        dof = entry["n_runs"] - 3 if valley.curve else np.inf
        reach = t_quantile(0.5 + LEVEL / 2, dof) * valley.error
        low, high = valley.best * np.exp(-reach), valley.best * np.exp(reach)
    return {
        **entry,
        "n_sizes": valley.n_sizes,
        "best": valley.best,
        "error": valley.error if known else None,
        "low": low,
        "high": high,
        "loss": valley.loss,
        "curve": list(valley.curve),
        "width": valley.width,
        "centre": valley.centre,
        "gap": grid_gap(x),
        "rejected": "",
    }


def _errors(good: list[dict[str, Any]]) -> Array:
    """Return the errors of minima, never below what the grid's spacing allows."""
    floor = np.array([e["gap"] for e in good]) * GRID_SHARE
    return np.maximum(np.array([e["error"] or 0.0 for e in good]), floor)


def _result(
    runs: Runs,
    curve: str,
    entries: list[dict[str, Any]],
    lines: Mapping[str, Line],
    predict: tuple[float, ...],
) -> FitResult:
    rejected = [e["rejected"] for e in entries if e["rejected"]]
    theta, shares, intervals = describe_lines(lines)
    ok = len(lines) == len(AXES)
    largest = float(np.nanmax(runs.budget))
    total = sum(line.exponent for line in lines.values()) if ok else None
    drift = {axis: _drift([e for e in entries if e["axis"] == axis]) for axis in AXES}
    return FitResult(
        law=curve,
        approach="isoflop",
        theta=theta,
        objective={"name": "parabola", "scale": "linear"}
        if curve == PARABOLA
        else {"name": "akima", "scale": "log"},
        status=FitStatus.CONVERGED if ok else FitStatus.UNIDENTIFIED,
        message=_message(entries) + ("" if ok else "; a frontier needs two budgets on each axis"),
        n_runs=int(np.isfinite(runs.budget).sum()),
        dropped=runs.dropped,
        intervals=intervals,
        exponents=shares,
        optimum=tuple(optimum_on(lines, c, largest) for c in predict) if ok else (),
        diagnostics={"valleys": entries, "exponent_sum": total, "drift": drift},
        warnings=(*rejected, *_few_warning(lines), *_sum_warning(total, runs)),
    )


def _drift(entries: list[dict[str, Any]]) -> float | None:
    """Return by which power of C the grid's centre drifts away from the minima."""
    good = [e for e in entries if not e["rejected"]]
    if len(good) < 2:
        return None
    log_c, off = (np.log([e[name] for e in good]) for name in ("budget", "centre"))
    return float(np.polyfit(log_c - log_c.mean(), off, 1)[0])


def _few_warning(lines: Mapping[str, Line]) -> tuple[str, ...]:
    bare = [axis for axis, line in lines.items() if line.dof < 1]
    if not bare:
        return ()
    return (
        f"the exponents of {' and '.join(bare)} rest on two budgets, and two points lie on a line "
        "whatever their noise: how wrong it is cannot be told; add budgets",
    )


def _sum_warning(total: float | None, runs: Runs) -> tuple[str, ...]:
    if total is None or abs(total - 1) <= SUM_TOLERANCE:
        return ()
    planned = np.isfinite(runs.budget)
    N, D = (runs.inputs[symbol][planned] for symbol in ("N", "D"))
    cost = fit_cost(N, D, runs.budget[planned])
    is_of_both = abs(cost.power - 1) <= SUM_TOLERANCE and cost.worst_miss <= SUSPICIOUS_MISS
    why = (
        "though budgets in this table are proportional to params x tokens: the minima over the two "
        "axes are read apart by noise; trust the exponent no better than to that difference"
        if is_of_both
        else "not 1: budgets in this table are not proportional to params x tokens"
    )
    return (f"the exponents of params and tokens add up to {total:.3f}, {why}",)


def _message(entries: Sequence[Mapping[str, Any]]) -> str:
    """Say at how many budgets the valley has its minimum inside, axis by axis."""
    told = []
    for axis in AXES:
        inside = [not e["rejected"] for e in entries if e["axis"] == axis]
        told.append(f"{sum(inside)} of {count_words(len(inside), 'budget')} over {axis}")
    return f"an interior minimum at {' and '.join(told)}"


def with_bias(found: FitResult, runs: Runs, fitted: Fitted, seed: int = 0) -> FitResult:
    """Add how far this design's valleys miss on noiseless losses of a fitted law.

    The law's own optimum is known exactly, so what approach 2 reads off the same sizes, without
    any noise, is its bias: `diagnostics["bias"]` has the exponents' shifts and, at each asked
    budget (the largest measured one if none was asked), the relative misses of params and tokens.
    """
    flops = [entry["flops"] for entry in found.optimum] or [float(np.nanmax(runs.budget))]
    given = {s: runs.inputs[s] for s in ("N", "D")}
    exact = np.exp(fitted.log_loss(fitted.theta, given["N"], given["D"]))
    try:
        clean = fit_isoflop(replace(runs, loss=exact), tuple(flops), curve=found.law, seed=seed)
    except FitError:
        return found
    if clean.status is not FitStatus.CONVERGED:
        return found
    middle = float(np.exp(np.mean(np.log(runs.budget[np.isfinite(runs.budget)]))))
    true = dict(zip(AXES, exponents(fitted, fitted.theta, middle), strict=True))
    bias: dict[str, Any] = {"law": fitted.law.name}
    for axis in AXES:
        bias[f"exponent_{axis}"] = clean.exponents[axis]["value"] - float(true[axis])
    best = np.exp(allocate(fitted, fitted.theta, np.array(flops)))
    bias["optimum"] = [
        {"flops": e["flops"], "params": e["params"] / n - 1, "tokens": e["tokens"] / d - 1}
        for e, n, d in zip(clean.optimum, *best[:2].tolist(), strict=True)
    ]
    warnings = found.warnings
    worst = max(bias["optimum"], key=lambda e: abs(e["params"]))
    if abs(worst["params"]) > SUSPICIOUS_BIAS:
        warnings += (
            f"on noiseless runs of the fitted {fitted.law.name} law these sizes miss N* at "
            f"{write_flops(worst['flops'])} FLOPs by {worst['params']:+.1%}: "
            "the grid biases this approach",
        )
    return replace(found, diagnostics={**found.diagnostics, "bias": bias}, warnings=warnings)
