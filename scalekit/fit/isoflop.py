"""Approach 2: a parabola through each budget's runs, then a power law through the minima.

The parabola is a second-order expansion, so a wide grid or unequal exponents move its minimum,
and a grid whose centre drifts moves the exponent (Czech et al. 2026, arXiv:2603.22339). Both axes
are fitted: where FLOPs are not 6 N D their exponents do not add up to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.errors import FitError, InputError
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.result import FitResult, FitStatus, Interval
from scalekit.fit.rows import Runs
from scalekit.laws.base import Array

AXES = {"params": "N", "tokens": "D"}
SUM_TOLERANCE = 0.01
"""How far from one the two exponents may add up before it is said."""


class EdgeMinimumError(FitError):
    """A budget whose smallest loss lies at the end of its sizes: it has no measured minimum."""


class NoMinimumError(FitError):
    """A budget whose runs do not bracket a minimum: too few, or not curved upwards."""


@dataclass(frozen=True)
class Valley:
    """One budget's parabola.

    Attributes:
        best: Where it is lowest; `error` is the standard error of its logarithm (NaN with three
            sizes, which a parabola passes through whatever they are).
        loss: At the minimum.
        curve: Coefficients in ln(params) or ln(tokens), highest power first.
    """

    best: float
    error: float
    loss: float
    curve: tuple[float, float, float]
    n_sizes: int


def parabola(x: Array, loss: Array, where: str) -> Valley:
    """Fit a parabola of the loss in ln x, wherever its minimum lies.

    Raises:
        NoMinimumError: Fewer than three sizes, or a parabola that opens downwards.
    """
    log_x = np.log(x)
    n_sizes = len(np.unique(log_x))
    if n_sizes < 3:
        raise NoMinimumError(f"{where}: {n_sizes} sizes, a valley needs 3; add sizes")
    centre = log_x.mean()
    basis = np.stack([(log_x - centre) ** 2, log_x - centre, np.ones_like(log_x)], axis=1)
    found, *_ = np.linalg.lstsq(basis, loss, rcond=None)
    c, b, a = (float(v) for v in found)
    if c <= 0:
        raise NoMinimumError(f"{where}: the parabola opens downwards; widen the sizes")
    error = np.nan
    if len(loss) > 3:
        residual = loss - basis @ found
        noise = float(residual @ residual) / (len(loss) - 3)
        spread = noise * np.linalg.pinv(basis.T @ basis)
        slope = np.array([b / (2 * c**2), -1 / (2 * c), 0.0])
        error = float(np.sqrt(slope @ spread @ slope))
    curve = (c, b - 2 * c * centre, a - b * centre + c * centre**2)
    best = float(np.exp(centre - b / (2 * c)))
    return Valley(best, error, a - b**2 / (4 * c), curve, n_sizes)


def fit_valley(x: Array, loss: Array, where: str) -> Valley:
    """Fit a parabola and check that the runs bracket its minimum.

    Raises:
        NoMinimumError: As `parabola`.
        EdgeMinimumError: The lowest run or the parabola's minimum lies at or beyond an end.
    """
    valley = parabola(x, loss, where)
    lowest = x[np.argmin(loss)]
    for end, name in ((x.min(), "smallest"), (x.max(), "largest")):
        beyond = valley.best <= end if name == "smallest" else valley.best >= end
        if lowest == end or beyond:
            raise EdgeMinimumError(
                f"{where}: the minimum is at the {name} size; extend the sizes there"
            )
    return valley


@dataclass(frozen=True)
class Line:
    """A power law through minima: `x* = coefficient * C^exponent`, with its standard errors."""

    coefficient: float
    exponent: float
    error: float
    dof: int
    covariance: Array

    def at(self, flops: float, level: float = LEVEL) -> tuple[float, float, float]:
        """Return value, low and high at a budget; no interval without degrees of freedom."""
        log_c = np.log(flops)
        value = self.coefficient * flops**self.exponent
        if self.dof < 1:
            return value, np.nan, np.nan
        row = np.array([1.0, log_c])
        reach = t_quantile(0.5 + level / 2, self.dof)
        reach *= float(np.sqrt(max(row @ self.covariance @ row, 0.0)))
        return value, value * np.exp(-reach), value * np.exp(reach)


def fit_line(flops: Array, best: Array) -> Line:
    """Fit ln x* against ln C by least squares, every budget alike."""
    log_c, log_x = np.log(flops), np.log(best)
    centre = log_c.mean()
    moved = log_c - centre
    square = float(moved @ moved)
    exponent = float(moved @ log_x) / square
    level = float(log_x.mean())
    residual = log_x - level - exponent * moved
    dof = len(flops) - 2
    noise = float(residual @ residual) / dof if dof > 0 else np.nan
    # Of (ln coefficient, exponent): the level at the centre and the slope are independent.
    turn = np.array([[1.0, -centre], [0.0, 1.0]])
    covariance = turn @ np.diag([noise / len(flops), noise / square]) @ turn.T
    error = float(np.sqrt(noise / square)) if dof > 0 else np.nan
    return Line(float(np.exp(level - exponent * centre)), exponent, error, dof, covariance)


def fit_isoflop(runs: Runs, predict: tuple[float, ...] = ()) -> FitResult:
    """Fit approach 2 on both axes.

    The runs need planned budgets; achieved FLOPs are never rounded into groups.

    Raises:
        InputError: No planned budgets.
    """
    if not np.isfinite(runs.budget).any():
        raise InputError(
            f"{runs.where}: approach isoflop needs the column 'budget' (planned FLOPs); name it "
            "with --map budget=COLUMN, achieved FLOPs are not rounded into budgets"
        )
    budgets = np.unique(runs.budget[np.isfinite(runs.budget)])
    entries: list[dict[str, Any]] = []
    lines: dict[str, Line] = {}
    for axis in AXES:
        found = [_entry(runs, axis, float(budget)) for budget in budgets]
        entries += found
        good = [e for e in found if not e["rejected"]]
        if len(good) >= 2:
            flops = np.array([e["budget"] for e in good])
            lines[axis] = fit_line(flops, np.array([e["best"] for e in good]))
    return _result(runs, entries, lines, predict)


def _entry(runs: Runs, axis: str, budget: float) -> dict[str, Any]:
    here = runs.budget == budget
    entry: dict[str, Any] = {"axis": axis, "budget": budget, "n_runs": int(here.sum())}
    try:
        valley = fit_valley(
            runs.inputs[AXES[axis]][here], runs.loss[here], f"budget {budget:g}, {axis}"
        )
    except (EdgeMinimumError, NoMinimumError) as error:
        return {**entry, "rejected": str(error)}
    low = high = None
    if np.isfinite(valley.error):
        reach = t_quantile(0.5 + LEVEL / 2, entry["n_runs"] - 3) * valley.error
        low, high = valley.best * np.exp(-reach), valley.best * np.exp(reach)
    return {
        **entry,
        "n_sizes": valley.n_sizes,
        "best": valley.best,
        "error": valley.error if np.isfinite(valley.error) else None,
        "low": low,
        "high": high,
        "loss": valley.loss,
        "curve": list(valley.curve),
        "rejected": "",
    }


def _result(
    runs: Runs,
    entries: list[dict[str, Any]],
    lines: Mapping[str, Line],
    predict: tuple[float, ...],
) -> FitResult:
    rejected = [e["rejected"] for e in entries if e["rejected"]]
    warnings = list(rejected)
    theta: dict[str, float] = {}
    exponents: dict[str, dict[str, float]] = {}
    intervals: dict[str, Interval] = {}
    for axis, line in lines.items():
        theta[f"{axis}_coefficient"] = line.coefficient
        theta[f"{axis}_exponent"] = line.exponent
        exponents[axis] = {"value": line.exponent}
        if line.dof > 0:
            reach = t_quantile(0.5 + LEVEL / 2, line.dof) * line.error
            ends = Interval(line.exponent - reach, line.exponent + reach, LEVEL, "ols-t")
            intervals[f"exponent_{axis}"] = ends
            exponents[axis] |= {"low": ends.low, "high": ends.high}
    total = sum(line.exponent for line in lines.values())
    if len(lines) == 2 and abs(total - 1) > SUM_TOLERANCE:
        warnings.append(
            f"the exponents of params and tokens add up to {total:.3f}, not 1: FLOPs in this "
            "table are not proportional to params x tokens"
        )
    used = len(entries) - len(rejected)
    ok = len(lines) == len(AXES)
    return FitResult(
        law="isoflop",
        approach="isoflop",
        theta=theta,
        objective={"name": "parabola", "scale": "linear"},
        status=FitStatus.CONVERGED if ok else FitStatus.UNIDENTIFIED,
        message=f"{used} of {len(entries)} valleys have an interior minimum"
        + ("" if ok else "; a frontier needs two budgets on each axis"),
        n_runs=int(np.isfinite(runs.budget).sum()),
        dropped=runs.dropped,
        intervals=intervals,
        exponents=exponents,
        optimum=tuple(_optimum(lines, runs, c) for c in predict) if ok else (),
        diagnostics={"valleys": entries, "exponent_sum": total if len(lines) == 2 else None},
        warnings=tuple(warnings),
    )


def _optimum(lines: Mapping[str, Line], runs: Runs, flops: float) -> dict[str, Any]:
    largest = float(np.nanmax(runs.budget))
    entry: dict[str, Any] = {"flops": flops, "loss": None, "extrapolation": flops / largest}
    intervals = {}
    for axis, line in lines.items():
        value, low, high = line.at(flops)
        entry[axis] = value
        if np.isfinite(low):
            intervals[axis] = {"low": low, "high": high, "level": LEVEL, "method": "ols-t"}
    entry["tokens_per_param"] = entry["tokens"] / entry["params"]
    return {**entry, "intervals": intervals}
