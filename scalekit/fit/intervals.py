"""Quantiles, and the intervals that a covariance gives a function of the parameters."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from scalekit.laws.base import Array

LEVEL = 0.9
"""The level of every interval unless another is asked for."""


def normal_quantile(probability: float) -> float:
    """Return the standard normal quantile."""
    return NormalDist().inv_cdf(probability)


def normal_cdf(x: Array) -> Array:
    """Return the standard normal distribution function of x (n,).

    >>> normal_cdf(np.array([0.0, 1.6448536269514722])).round(9).tolist()
    [0.5, 0.95]
    """
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in x.tolist()])


@lru_cache(maxsize=256)
def t_quantile(probability: float, dof: float) -> float:
    """Return Student's t quantile.

    Solved from the tail area, itself Simpson's rule on the density after the substitution
    t = sqrt(dof) tan(angle), whose integrand cos(angle)^(dof - 1) is smooth: importing
    scipy.special would cost more than the whole fit.

    >>> round(t_quantile(0.95, 20), 6), round(t_quantile(0.95, 1), 6)
    (1.724718, 6.313752)
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, dof)
    if dof > 1e6:
        return normal_quantile(probability)
    log_scale = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi)
    # Where the density has fallen to nothing the angle stops mattering.
    top = min(math.pi / 2, math.atan(40 / math.sqrt(dof))) if dof > 4 else math.pi / 2
    angle = np.linspace(0.0, top, 20001)
    with np.errstate(under="ignore"):
        density = math.exp(log_scale) * np.cos(angle) ** (dof - 1)
    step = angle[1]
    area = (step / 12) * (5 * density[:-2] + 8 * density[1:-1] - density[2:])
    below = 0.5 + np.concatenate([[0.0], np.cumsum(area)])
    found = float(np.interp(probability, below, angle[: len(below)]))
    return math.sqrt(dof) * math.tan(found)


def delta_error(gradient: Array, covariance: Array) -> Array:
    """Return the standard error (...) of a function whose gradient is (..., p)."""
    variance = np.einsum("...i,ij,...j->...", gradient, covariance, gradient)
    return np.sqrt(np.maximum(variance, 0.0))
