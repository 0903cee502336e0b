"""Akima's interpolation and its minimum: a curve through the points that does not overshoot."""

from __future__ import annotations

import numpy as np

from scalekit.laws.base import Array

FEWEST = 5
"""Akima's slopes look at two neighbours on each side."""


def slopes(x: Array, y: Array) -> Array:
    """Return the curve's slope at each point, (..., n).

    Where the neighbouring chords do not tell two sides apart the slope is their mean.

    Args:
        x: (n,), rising.
        y: (..., n).

    Source: Akima 1970, Journal of the ACM 17(4), equations 1 and 8.
    """
    chord = np.diff(y) / np.diff(x)
    ends = [chord[..., 0], chord[..., 1], chord[..., -1], chord[..., -2]]
    before = [3 * ends[0] - 2 * ends[1], 2 * ends[0] - ends[1]]
    after = [2 * ends[2] - ends[3], 3 * ends[2] - 2 * ends[3]]
    m = np.concatenate(
        [np.stack(before, axis=-1), chord, np.stack(after, axis=-1)], axis=-1
    )  # (..., n + 3)
    bend = np.abs(np.diff(m))
    left, right = bend[..., 2:], bend[..., :-2]
    total = left + right
    small = total <= 1e-9 * np.max(total, axis=-1, keepdims=True)
    weighted = left * m[..., 1:-2] + right * m[..., 2:-1]
    return np.where(small, (m[..., 1:-2] + m[..., 2:-1]) / 2, weighted / np.where(small, 1, total))


def minimum(x: Array, y: Array) -> tuple[Array, Array]:
    """Return where the curve through the points is lowest, and its value there, each (...).

    Args:
        x: (n,), rising.
        y: (..., n).
    """
    t = slopes(x, y)
    width = np.diff(x)
    chord = np.diff(y) / width
    left, right = t[..., :-1], t[..., 1:]
    # On each stretch y + left s + b s^2 + a s^3, s from its left end.
    b = (3 * chord - 2 * left - right) / width
    a = (left + right - 2 * chord) / width**2
    with np.errstate(all="ignore"):
        root = np.sqrt(np.maximum(b**2 - 3 * a * left, 0.0))
        # The root at which the slope rises, written so that it stays exact where a vanishes.
        s = np.where(b > 0, -left / (b + root), (root - b) / (3 * a))
    s = np.where(np.isfinite(s), np.clip(s, 0.0, width), 0.0)
    inside = y[..., :-1] + s * (left + s * (b + s * a))
    places = np.concatenate([np.broadcast_to(x, y.shape), x[:-1] + s], axis=-1)
    values = np.concatenate([y, inside], axis=-1)
    best = np.argmin(values, axis=-1)[..., None]
    place, value = (np.take_along_axis(v, best, axis=-1)[..., 0] for v in (places, values))
    return place, value
