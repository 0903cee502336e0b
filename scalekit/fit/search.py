"""Minima and crossings of functions of one variable, many functions at once, to rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalekit.laws.base import Array

_POINTS = 161
_GRIDS = 2
_FINE_GRIDS = 5
_NEWTON_STEPS = 8
_STENCIL = 0.01
"""Distance of the derivative's points, in the variable's unit: a logarithm.

The five-point rule errs by its fourth power and rounding by its inverse; for sums of powers with
exponents near one half both put the root of the derivative within 1e-11.
"""
_SETTLED = 1e-8
_ENOUGH = 1e-10
"""A step of Newton's method this short is followed by one of the size of rounding."""
_ROUNDS = 100
_SCANNED = 121


def lowest(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Find where k functions are lowest between `low` and `high` (k,).

    Grids close in on the lowest point, so that of several valleys the deepest is taken. Comparing
    values finds a smooth minimum only to the square root of rounding; the last steps therefore
    solve for a zero derivative. Where those do not settle (the slope has a kink or a jump, the
    lowest point is an end), finer grids stand, exact to about 1e-7.

    Args:
        function: Takes points (m, k), a column a function, and returns values (m, k); infinite or
            NaN where there is none.
        low: Lower ends.
        high: Upper ends.

    Returns:
        The places (k,); at an end where no point inside is lower.
    """
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    ends = low.copy(), high.copy()
    middle, low, high = _close_in(function, low, high, _GRIDS)
    exact = _stationary(function, middle, low, high)
    settled = np.isfinite(exact)
    if settled.all():
        return exact
    coarse, _, _ = _close_in(function, low, high, _FINE_GRIDS)
    found = np.where(settled, exact, coarse)
    return np.clip(found, *ends)


def _close_in(
    function: Callable[[Array], Array], low: Array, high: Array, times: int
) -> tuple[Array, Array, Array]:
    """Lay grids, each between the neighbours of the lowest point of the one before."""
    share = np.linspace(0.0, 1.0, _POINTS)[:, None]
    columns = np.arange(len(low))
    middle = low
    for _ in range(times):
        points = low + (high - low) * share
        values = function(points)
        best = np.argmin(np.where(np.isnan(values), np.inf, values), axis=0)
        middle = points[best, columns]
        low = points[np.maximum(best - 1, 0), columns]
        high = points[np.minimum(best + 1, _POINTS - 1), columns]
    return middle, low, high


def _stationary(function: Callable[[Array], Array], start: Array, low: Array, high: Array) -> Array:
    """Return where the derivative is zero near `start`, NaN where that is not found."""
    reach = np.maximum(high - low, _STENCIL)
    x, step = start.copy(), np.zeros(len(start))
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            step = _newton_step(function, x, _STENCIL)
            x = x + step
            if not np.any(np.abs(step) > _ENOUGH):
                break
        # At a kink in the slope the rule's points lie on two functions, and its root moves with
        # their distance.
        other = _newton_step(function, x, _STENCIL / 2)
        is_root = (np.abs(step) < _SETTLED) & (np.abs(other) < _SETTLED)
        is_near = (x > start - reach) & (x < start + reach)
    return np.where(is_root & is_near, x, np.nan)


def _newton_step(function: Callable[[Array], Array], x: Array, apart: float) -> Array:
    f = function(x + apart * np.arange(-2.0, 3.0)[:, None])
    slope = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * apart)
    bend = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * apart**2)
    return np.where(bend > 0, -slope / bend, np.nan)


def crossing(
    function: Callable[[Array], Array], low: Array, high: Array, *, rises_again: bool = False
) -> Array:
    """Find where k falling functions cross zero between `low` and `high` (k,).

    Args:
        function: Takes points (k,) and returns values (k,).
        low: Where the values are above zero.
        high: Where they are below it.
        rises_again: Whether a function may rise to above zero before `high`; the first point of a
            grid that is below zero then takes its place.

    Returns:
        The crossings; `low` where the function is not above zero there, and infinite where it is
        still above zero at `high`.

    Source: Chandrupatla 1997, "A new hybrid quadratic/bisection algorithm for finding the zero of
    a nonlinear function", Advances in Engineering Software 28.
    """
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    at_low, at_high = function(low), function(high)
    if rises_again and not np.all(at_high <= 0):
        high, at_high = _first_below(function, low, high, at_high)
    early, never = at_low <= 0, ~(at_high <= 0)
    with np.errstate(all="ignore"):
        found = _close(function, (high, at_high), (low, at_low), early | never)
    return np.where(early, low, np.where(never, np.inf, found))


def _close(
    function: Callable[[Array], Array],
    one_end: tuple[Array, Array],
    other_end: tuple[Array, Array],
    done: Array,
) -> Array:
    """Shrink brackets around zeros: inverse quadratic steps where safe, else halves.

    An end is its place and its value, each (k,); `done` says where none is looked for.
    """
    (a, fa), (b, fb) = one_end, other_end
    c, fc = a, fa
    share = np.full(len(a), 0.5)
    for _ in range(_ROUNDS):
        x = a + share * (b - a)
        f = function(x)
        same = np.sign(f) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, f
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        least = 1e-15 * np.maximum(np.abs(best), 1.0) / np.abs(b - a)
        done = done | (least > 0.5) | (fa == 0)
        if done.all():
            break
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        curved = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        step = fa / (fb - fa) * fc / (fb - fc)
        step = step + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        share = np.where(curved, np.clip(step, least, 1 - least), 0.5)
        share = np.where(done, 0.0, share)
    return np.where(np.abs(fa) < np.abs(fb), a, b)


def _first_below(
    function: Callable[[Array], Array], low: Array, high: Array, at_high: Array
) -> tuple[Array, Array]:
    """Move high ends (k,) that lie above zero to the first point of a grid below it, if any."""
    for share in np.linspace(0.0, 1.0, _SCANNED)[1:-1]:
        x = low + share * (high - low)
        f = function(x)
        take = (at_high > 0) & (f <= 0)
        high, at_high = np.where(take, x, high), np.where(take, f, at_high)
        if np.all(at_high <= 0):
            break
    return high, at_high
