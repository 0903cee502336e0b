"""The valley of one budget: loss over size or tokens, and where it is lowest.

Two readings of the same runs. A parabola in ln x is what Hoffmann et al. used; it is a second-order
expansion, so a wide or lopsided grid moves its minimum. Akima's curve through the points in log-log
has no such bias and more noise (Porian et al. 2024, arXiv:2406.19146).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalekit.errors import FitError
from scalekit.fit import akima
from scalekit.laws.base import Array
from scalekit.quantities import count_words

GRID_SHARE = 1 / 3
"""A minimum is never known better than this share of the grid's spacing (Porian et al. 2024)."""

_DRAWS = 200


class EdgeMinimumError(FitError):
    """A budget whose smallest loss lies at the end of its sizes: it has no measured minimum."""


class NoMinimumError(FitError):
    """A budget whose runs do not bracket a minimum: too few, or not curved upwards."""


@dataclass(frozen=True)
class Valley:
    """One budget's curve.

    Attributes:
        best: Where it is lowest; `error` is the standard error of its logarithm (NaN where the
            runs do not tell, such as a parabola through three sizes).
        loss: At the minimum.
        curve: Coefficients of the parabola in ln x, highest power first; empty for Akima's curve.
        n_sizes: Different sizes.
        width: Half-width of the grid as a factor.
        centre: The grid's geometric centre over `best`: one where the grid is centred.
    """

    best: float
    error: float
    loss: float
    curve: tuple[float, ...]
    n_sizes: int
    width: float
    centre: float


Read = Callable[[Array, Array, str], Valley]
"""Reads a valley from sizes (n,) and losses (n,); the text names it in errors."""


def parabola(x: Array, loss: Array, where: str) -> Valley:
    """Fit a parabola of the loss in ln x, wherever its minimum lies.

    Raises:
        NoMinimumError: Fewer than three sizes, or a parabola that opens downwards.
    """
    log_x = np.log(x)
    n_sizes = len(np.unique(log_x))
    if n_sizes < 3:
        raise NoMinimumError(
            f"{where}: {count_words(n_sizes, 'size')}, a valley needs 3; add sizes"
        )
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
    return Valley(best, error, a - b**2 / (4 * c), curve, n_sizes, *_grid(x, best))


def akima_reader(noise: float | None, seed: int) -> Read:
    """Return what reads a valley by Akima's curve through ln loss over ln x.

    Args:
        noise: Standard deviation of ln loss, with which minima are redrawn for their error.
        seed: Of those draws.
    """

    def read(x: Array, loss: Array, where: str) -> Valley:
        sizes, owner = np.unique(np.log(x), return_inverse=True)
        if len(sizes) < akima.FEWEST:
            found = count_words(len(sizes), "size")
            needs = f"Akima's curve needs {akima.FEWEST}"
            raise NoMinimumError(f"{where}: {found}, {needs}; add sizes")
        counts = np.bincount(owner)
        level = np.bincount(owner, np.log(loss)) / counts
        place, value = akima.minimum(sizes, level)
        error = np.nan
        if noise is not None:
            rng = np.random.default_rng(seed)
            drawn = level + rng.normal(0.0, noise, (_DRAWS, len(sizes))) / np.sqrt(counts)
            error = float(np.std(akima.minimum(sizes, drawn)[0]))
        best = float(np.exp(place))
        return Valley(best, error, float(np.exp(value)), (), len(sizes), *_grid(x, best))

    return read


def bracketed(read: Read, x: Array, loss: Array, where: str) -> Valley:
    """Read a valley and check that the runs bracket its minimum.

    Raises:
        NoMinimumError: Too few sizes, or no curve upwards.
        EdgeMinimumError: The lowest run or the curve's minimum lies at or beyond an end.
    """
    valley = read(x, loss, where)
    lowest = x[np.argmin(loss)]
    for end, name in ((x.min(), "smallest"), (x.max(), "largest")):
        beyond = valley.best <= end if name == "smallest" else valley.best >= end
        if lowest == end or beyond:
            raise EdgeMinimumError(
                f"{where}: the minimum is at the {name} size; extend the sizes there"
            )
    return valley


def grid_gap(x: Array) -> float:
    """Return the typical spacing of ln x."""
    return float(np.median(np.diff(np.unique(np.log(x)))))


def noise_of(valleys: list[tuple[Array, Array]]) -> float | None:
    """Estimate the standard deviation of ln loss, pooled over budgets.

    Repetitions of one size (seeds) tell it where there are any; otherwise the scatter about a
    cubic in ln x, which follows a lopsided valley where a parabola does not.

    Args:
        valleys: Sizes (n,) and losses (n,) of each budget.

    Returns:
        None where no budget has runs to spare.
    """
    for degree in (None, 3):
        square, dof = 0.0, 0
        for x, loss in valleys:
            one, spare = _scatter(np.log(x), np.log(loss), degree)
            square, dof = square + one, dof + spare
        if dof:
            return float(np.sqrt(square / dof))
    return None


def _scatter(log_x: Array, log_loss: Array, degree: int | None) -> tuple[float, int]:
    """Return a sum of squares and its degrees of freedom, about each size's mean or a curve."""
    sizes, owner = np.unique(log_x, return_inverse=True)
    if degree is None:
        mean = np.bincount(owner, log_loss) / np.bincount(owner)
        return float(np.sum((log_loss - mean[owner]) ** 2)), len(log_x) - len(sizes)
    if len(sizes) <= degree + 1:
        return 0.0, 0
    basis = np.vander((log_x - log_x.mean()) / np.ptp(log_x), degree + 1)
    found, *_ = np.linalg.lstsq(basis, log_loss, rcond=None)
    residual = log_loss - basis @ found
    return float(residual @ residual), len(log_x) - degree - 1


def _grid(x: Array, best: float) -> tuple[float, float]:
    return float(np.sqrt(x.max() / x.min())), float(np.sqrt(x.max() * x.min()) / best)
