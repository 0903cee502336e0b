"""A power law through minima: ln x* against ln C by least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.result import Interval
from scalekit.laws.base import Array

METHOD = "ols-t"
WEIGHTED = "wls-t"


@dataclass(frozen=True)
class Line:
    """A power law `x* = coefficient * C^exponent` and how well it is known.

    Attributes:
        error: Standard error of the exponent, NaN without degrees of freedom.
        covariance: Of (ln coefficient, exponent), (2, 2).
        method: What its intervals are called.
    """

    coefficient: float
    exponent: float
    error: float
    dof: int
    covariance: Array
    method: str = METHOD

    def interval(self) -> Interval | None:
        """Return the exponent's interval; none without degrees of freedom."""
        if self.dof < 1:
            return None
        reach = t_quantile(0.5 + LEVEL / 2, self.dof) * self.error
        return Interval(self.exponent - reach, self.exponent + reach, LEVEL, self.method)

    def at(self, flops: float) -> tuple[float, float, float]:
        """Return value, low and high at a budget; no interval without degrees of freedom."""
        value = self.coefficient * flops**self.exponent
        if self.dof < 1:
            return value, np.nan, np.nan
        row = np.array([1.0, np.log(flops)])
        reach = t_quantile(0.5 + LEVEL / 2, self.dof)
        reach *= float(np.sqrt(max(row @ self.covariance @ row, 0.0)))
        return value, value * np.exp(-reach), value * np.exp(reach)


def fit_line(flops: Array, best: Array, errors: Array | None = None) -> Line:
    """Fit a power law through minima (k,) at budgets (k,).

    Args:
        flops: Budgets.
        best: Where each is lowest.
        errors: Standard errors of ln best; only their ratios count, the scatter about the line
            sets the scale. All alike unless given.
    """
    log_c, log_x = np.log(flops), np.log(best)
    weight = np.ones(len(flops)) if errors is None else (errors.min() / errors) ** 2
    total = float(weight.sum())
    centre = float(weight @ log_c) / total
    moved = log_c - centre
    square = float(weight @ moved**2)
    exponent = float(weight @ (moved * log_x)) / square
    level = float(weight @ log_x) / total
    residual = log_x - level - exponent * moved
    dof = len(flops) - 2
    noise = float(weight @ residual**2) / dof if dof > 0 else np.nan
    # Of (ln coefficient, exponent): the level at the centre and the slope are independent.
    turn = np.array([[1.0, -centre], [0.0, 1.0]])
    covariance = turn @ np.diag([noise / total, noise / square]) @ turn.T
    return Line(
        float(np.exp(level - exponent * centre)),
        exponent,
        float(np.sqrt(noise / square)) if dof > 0 else np.nan,
        dof,
        covariance,
        METHOD if errors is None else WEIGHTED,
    )


def describe_lines(
    lines: Mapping[str, Line],
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Interval]]:
    """Return theta, exponents and intervals of the lines by axis, as a fit holds them."""
    theta: dict[str, float] = {}
    exponents: dict[str, dict[str, float]] = {}
    intervals: dict[str, Interval] = {}
    for axis, line in lines.items():
        theta[f"{axis}_coefficient"] = line.coefficient
        theta[f"{axis}_exponent"] = line.exponent
        exponents[axis] = {"value": line.exponent}
        ends = line.interval()
        if ends is not None:
            intervals[f"exponent_{axis}"] = ends
            exponents[axis] |= {"low": ends.low, "high": ends.high}
    return theta, exponents, intervals


def optimum_on(lines: Mapping[str, Line], flops: float, largest: float) -> dict[str, Any]:
    """Describe the optimum at one budget as `fit.json` holds it, of lines over both axes."""
    entry: dict[str, Any] = {"flops": flops, "loss": None, "extrapolation": flops / largest}
    intervals = {}
    for axis, line in lines.items():
        entry[axis], low, high = line.at(flops)
        if np.isfinite(low):
            intervals[axis] = {"low": low, "high": high, "level": LEVEL, "method": line.method}
    entry["tokens_per_param"] = entry["tokens"] / entry["params"]
    return {**entry, "intervals": intervals}
