"""Errors that last along a curve: how long, measured, and the covariance that they leave.

Lines of one curve err alike, so a curve of a thousand lines is worth a few dozen. The errors are
taken as one part that decays from line to line and one that is new in each. How long the first
lasts and how large it is comes from the residuals by restricted maximum likelihood, which knows
that a fit takes up part of them; where a few curves leave that open, every answer counts by its
likelihood.

Source: Patterson and Thompson 1971, Biometrika 58 (restricted likelihood); Bayley and Hammersley
1946, Supplement to the Journal of the Royal Statistical Society 8 (lines' worth).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalekit.laws.base import Array

_TIMES = 14
_SHORTEST = 0.2
_SHARES = (1.0, 0.9, 0.6, 0.25)
_LONGEST = 2.0
"""Errors that last longer than so many curves are a shift of the whole curve."""
_MOST_LINES = 400
"""Longer curves are averaged over neighbouring lines first."""
_LEAST = 1e-12


@dataclass(frozen=True)
class Serial:
    """What lasting errors do.

    Attributes:
        meat: (m, m), the covariance of the summed pulls.
        effective: How many independent lines the curves are worth for a mean.
        dof: How many they are worth for a variance, less one: squares of errors forget faster.
        lasts: Lines over which the lasting part falls to 1/e, the likelihood's mean logarithm.
        share: Of the errors' variance that lasts, likewise.
    """

    meat: Array
    effective: float
    dof: float
    lasts: float
    share: float

    def to_json(self) -> dict[str, float]:
        """Return what `fit.json` holds."""
        return {k: getattr(self, k) for k in ("effective", "dof", "lasts", "share")}


def measure(pulls: Array, columns: Array, curve: Array, step: Array) -> Serial:
    """Measure how pulls (n,) correlate along curves, and the covariance of `columns @ pulls`.

    Args:
        pulls: Residuals, clipped as the objective clips them.
        columns: (m, n), derivatives of the runs' log losses.
        curve: (n,), which curve a row is of.
        step: (n,), where on it.
    """
    y, x, gaps, weight = _laid_out(pulls, columns, curve, step)
    lengths = np.isfinite(gaps).sum(axis=1)
    times = np.geomspace(_SHORTEST, _LONGEST * lengths.max(), _TIMES)
    # Without a lasting part its time means nothing: one point stands for no memory at all.
    time = np.concatenate([times[:1], np.repeat(times, len(_SHARES))])
    share = np.concatenate([[0.0], np.tile(_SHARES, _TIMES)])
    n, m = int(lengths.sum()), len(columns)
    deviance, variance = _restricted(*_whitened(y, x, gaps, time, share), n - m)
    chance = np.exp(-0.5 * (deviance - deviance.min()))
    chance /= chance.sum()
    meats, sums, squares = _covered(x, gaps, time, share)
    return Serial(
        np.einsum("g,gab->ab", chance * variance, meats),
        n**2 / float(chance @ sums),
        max(n**2 / float(chance @ squares) - 1.0, 1.0),
        float(np.exp(chance @ np.log(time))) * weight,
        float(chance @ share),
    )


def _laid_out(
    pulls: Array, columns: Array, curve: Array, step: Array
) -> tuple[Array, Array, Array, int]:
    """Return pulls (K, T), columns (K, T, m), gaps (K, T) in lines, NaN beyond a curve."""
    parts = []
    longest = int(np.unique(curve, return_counts=True)[1].max())
    width = -(-longest // _MOST_LINES)
    for one in np.unique(curve):
        mine = np.flatnonzero(curve == one)
        mine = mine[np.argsort(step[mine], kind="stable")]
        firsts = np.arange(0, len(mine), width)
        sizes = np.diff(np.append(firsts, len(mine)))
        mean = np.add.reduceat(pulls[mine], firsts) / sizes
        summed = np.add.reduceat(columns[:, mine], firsts, axis=1)
        at = np.add.reduceat(step[mine].astype(float), firsts) / sizes
        parts.append((mean, summed.T, np.diff(at, prepend=at[0])))
    usual = float(np.median(np.concatenate([gap[1:] for _, _, gap in parts] or [np.ones(1)])))
    longest = max(len(mean) for mean, _, _ in parts)
    y = np.zeros((len(parts), longest))
    x = np.zeros((len(parts), longest, len(columns)))
    gaps = np.full((len(parts), longest), np.nan)
    for k, (mean, summed, gap) in enumerate(parts):
        y[k, : len(mean)], x[k, : len(mean)], gaps[k, : len(mean)] = mean, summed, gap / usual
    return y, x, gaps, width


def _decays(gaps: Array, time: Array) -> Array:
    """Return what is left of the lasting part from each line to the next, (T, G, K)."""
    return np.exp(-np.nan_to_num(gaps).T[:, None, :] / time[None, :, None])


def _whitened(y: Array, x: Array, gaps: Array, time: Array, share: Array) -> tuple[Array, Array]:
    """Free pulls and columns of the correlation R under each (time, share), G of them.

    Kalman's filter of a decaying part and a new one, over all curves at once.

    Returns:
        Log determinants (G,) of R, and the Gram matrices (G, m + 1, m + 1) of columns and pulls.
    """
    there = np.isfinite(gaps)
    rows = np.concatenate([x, y[:, :, None]], axis=2) * there[:, :, None]
    decays = _decays(gaps, time)
    count, width = len(time), rows.shape[2]
    logdet, gram = np.zeros(count), np.zeros((count, width, width))
    mean = np.zeros((count, len(y), width))
    own = share[:, None]
    variance = np.broadcast_to(own, mean.shape[:2])
    for t in range(y.shape[1]):
        here, decay = there[:, t], decays[t]
        if t:
            mean = decay[:, :, None] * mean
            variance = decay**2 * variance + own * (1 - decay**2)
        # Beyond a curve's end nothing is left to vary.
        total = np.where(here, np.maximum(variance + 1.0 - own, _LEAST), 1.0)
        miss = (rows[None, :, t] - mean) * here[None, :, None]
        scaled = miss / np.sqrt(total)[:, :, None]
        logdet += np.log(total).sum(axis=1)
        gram += scaled.transpose(0, 2, 1) @ scaled
        gain = np.where(here, variance / total, 0.0)
        mean = mean + gain[:, :, None] * miss
        variance = variance * (1 - gain)
    return logdet, gram


def _covered(x: Array, gaps: Array, time: Array, share: Array) -> tuple[Array, Array, Array]:
    """Return columns' R columns (G, m, m), and the sums of R and of its squares, each (G,)."""
    there = np.isfinite(gaps)
    rows = np.concatenate([x, np.ones((*gaps.shape, 1))], axis=2) * there[:, :, None]
    decays = _decays(gaps, time)
    m, count = x.shape[2], len(time)
    before = np.zeros((count, len(x), m + 1))
    cross = np.zeros((count, m + 1, m + 1))
    twice, pairs = np.zeros((count, len(x))), np.zeros(count)
    for t in range(1, x.shape[1]):
        before = decays[t][:, :, None] * (before + rows[None, :, t - 1])
        cross += np.einsum("ka,gkb->gab", rows[:, t], before)
        twice = decays[t] ** 2 * (twice + there[:, t - 1])
        pairs += twice @ there[:, t]
    flat = rows.reshape(-1, m + 1)
    found = flat.T @ flat + share[:, None, None] * (cross + cross.transpose(0, 2, 1))
    return found[:, :m, :m], found[:, m, m], there.sum() + 2 * share**2 * pairs


def _restricted(logdet: Array, gram: Array, dof: int) -> tuple[Array, Array]:
    """Return minus twice the restricted log likelihood and the variance, each (G,)."""
    inner, mixed, square = gram[:, :-1, :-1].copy(), gram[:, :-1, -1], gram[:, -1, -1]
    # Where a direction is free its determinant is nought; it is as free under every memory.
    diagonal = np.arange(inner.shape[1])
    own = inner[:, diagonal, diagonal]
    inner[:, diagonal, diagonal] = np.where(own > 0, own * (1 + 1e-10), 1.0)
    taken = np.einsum("ga,gab,gb->g", mixed, np.linalg.pinv(inner), mixed)
    left = np.maximum(square - taken, 1e-300)
    free = max(dof, 1)
    return logdet + np.linalg.slogdet(inner)[1] + free * np.log(left), left / free
