"""The best learning rate and batch of each size, line by line: what a figure of a sweep shows.

A law of tuned values is fitted to another reading of the same cells (`fit/surface.py`), one
quadratic in both at once: that needs two directions to vary, this one line of three rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalekit.analysis.study import Study
from scalekit.fit.surface import WINDOW, cells_of

Array = np.ndarray


@dataclass(frozen=True)
class Minimum:
    """The bottom of losses over one hyperparameter.

    Attributes:
        place: Where, in the hyperparameter's unit.
        loss: The loss there.
        edge: low or high where the best value tried is the last on that side, so that the bottom
            may lie beyond; place is then that value.
        curve: The parabola in the natural logarithm, highest power first; empty at an edge.
    """

    place: float
    loss: float
    edge: str = ""
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """Losses over the learning rate at one batch, rising in the rate.

    Attributes:
        batch: Tokens a step, NaN where the table does not say.
        lr: (n,).
        loss: (n,), the mean where a setting was run more than once.
        minimum: None below three rates.
    """

    batch: float
    lr: Array
    loss: Array
    minimum: Minimum | None


@dataclass(frozen=True)
class Cell:
    """All runs of one size and length.

    Attributes:
        params: Parameters.
        tokens: Tokens, the geometric mean.
        lines: One a batch, rising.
        batch: The bottom over batches of the lines' bottoms; None below three batches.
        lr: The learning rate at the best batch, NaN where no line has a bottom.
        edge: Which edges the best run lies on, such as `lr high`; empty where it lies inside.
    """

    params: float
    tokens: float
    lines: tuple[Line, ...]
    batch: Minimum | None
    lr: float
    edge: str

    @property
    def n_runs(self) -> int:
        """Settings that were tried."""
        return sum(line.lr.size for line in self.lines)

    @property
    def best(self) -> float:
        """The lowest loss that was measured."""
        return min(float(line.loss.min()) for line in self.lines)


def cells(study: Study) -> list[Cell]:
    """Group the runs in use by size and length, rising, and find each group's best settings.

    Groups in which no batch was run at three learning rates are left out.
    """
    names = ("params", "tokens", "lr", "batch_tokens", "loss")
    N, D, lr, batch, loss = (study.column(name)[study.is_used] for name in names)
    known = np.isfinite(N * D * lr * loss) & (N * D > 0) & (lr > 0)
    N, D, lr, batch, loss = (v[known] for v in (N, D, lr, batch, loss))
    found = []
    for here in cells_of(N, D):
        lines = _lines(lr[here], batch[here], loss[here])
        if any(line.minimum is not None for line in lines):
            size, length = (float(np.exp(np.log(v[here]).mean())) for v in (N, D))
            found.append(_cell(size, length, lines))
    return found


def _lines(lr: Array, batch: Array, loss: Array) -> tuple[Line, ...]:
    found = []
    # All unknown batches are one line.
    for value in np.unique(np.where(np.isfinite(batch), batch, -1.0)):
        here = batch == value if value > 0 else ~np.isfinite(batch)
        x, place = np.unique(lr[here], return_inverse=True)
        y = np.bincount(place, loss[here]) / np.bincount(place)
        bottom = minimum(x, y) if x.size > 2 else None
        found.append(Line(float(value) if value > 0 else float("nan"), x, y, bottom))
    return tuple(found)


def minimum(x: Array, loss: Array) -> Minimum:
    """Find the bottom of losses (n,) over rising positive places x (n,), n of three or more.

    A parabola in ln x by least squares, through the lowest point, its two neighbours, and what is
    near it in loss on both sides.
    """
    low = int(np.argmin(loss))
    if low in (0, x.size - 1):
        return Minimum(float(x[low]), float(loss[low]), "low" if low == 0 else "high")
    first, last = low - 1, low + 1
    ceiling = loss[low] * (1 + WINDOW)
    while first > 0 and loss[first - 1] <= ceiling:
        first -= 1
    while last < x.size - 1 and loss[last + 1] <= ceiling:
        last += 1
    near = slice(first, last + 1)
    centre = float(np.log(x[low]))
    bend, slope, level = np.polyfit(np.log(x[near]) - centre, loss[near], 2)
    at = centre - slope / (2 * bend) if bend > 0 else np.nan
    if not np.log(x[0]) < at < np.log(x[-1]):
        # Too flat or too rough for a parabola: the lowest run stands.
        return Minimum(float(x[low]), float(loss[low]))
    curve = (bend, slope - 2 * bend * centre, level - slope * centre + bend * centre**2)
    bottom = level - slope**2 / (4 * bend)
    return Minimum(float(np.exp(at)), float(bottom), "", tuple(map(float, curve)))


def _cell(params: float, tokens: float, lines: tuple[Line, ...]) -> Cell:
    told = [(line, line.minimum) for line in lines if line.minimum is not None]
    lowest, its_own = min(told, key=lambda pair: pair[1].loss)
    edges = [f"lr {its_own.edge}"] if its_own.edge else []
    batches = np.array([line.batch for line, _ in told])
    if len(told) < 3 or not np.isfinite(batches).all():
        return Cell(params, tokens, lines, None, its_own.place, ", ".join(edges))
    bottom = minimum(batches, np.array([one.loss for _, one in told]))
    if bottom.edge:
        edges.append(f"batch {bottom.edge}")
    rates = np.log([one.place for _, one in told])
    lr = float(np.exp(np.interp(np.log(bottom.place), np.log(batches), rates)))
    if lowest.minimum is not None and lowest.minimum.edge:
        lr = its_own.place
    return Cell(params, tokens, lines, bottom, lr, ", ".join(edges))


def power_of(values: Array, **inputs: Array) -> dict[str, float] | None:
    """Fit `values = scale * product of input^exponent` by least squares on logarithms.

    Returns:
        The exponents by input's name with `scale`; None where the places do not tell them apart
        or leave no more than one to spare.
    """
    names = [name for name, x in inputs.items() if np.ptp(np.log(x)) > 0.1]
    if not names or values.size < len(names) + 2:
        return None
    basis = np.stack([np.ones(values.size), *(np.log(inputs[name]) for name in names)])
    found, _, rank, _ = np.linalg.lstsq(basis.T, np.log(values), rcond=None)
    if rank < len(basis):
        return None
    return {
        "scale": float(np.exp(found[0])),
        **dict(zip(names, map(float, found[1:]), strict=True)),
    }


def spread_over(found: Sequence[Cell], most: int) -> list[Cell]:
    """Choose at most `most` cells, evenly over training compute."""
    order = sorted(found, key=lambda cell: cell.params * cell.tokens)
    if len(order) <= most:
        return order
    places = np.linspace(0, len(order) - 1, most).round().astype(int)
    return [order[k] for k in places]
