"""Parameters: pairs of bootstrap draws, and the objective over the two exponents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patheffects import withStroke

from scalekit import registry
from scalekit.analysis.plane import Plane, plane, plane_names
from scalekit.analysis.study import Study
from scalekit.analysis.words import loss_words, symbol
from scalekit.errors import ScalekitError
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROUNDING = 1e-9
"""Share of a parameter by which its draws differ where the runs are exact."""

_MOST = 6
"""Parameters in one figure."""

_LEVELS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Contours of the objective: how much it lies above its minimum, as a share of it."""

_MOST_LEVELS = 5


@dataclass(frozen=True)
class _Draws:
    """Bootstrap draws as a figure shows them.

    Attributes:
        names: The parameters that vary, in the law's order.
        values: (n_draws, p).
        best: (p,), the fit's own.
        limits: Per parameter, where its axis begins and ends.
        is_log: Per parameter, whether its axis is logarithmic.
        labels: Per parameter, name with unit.
    """

    names: tuple[str, ...]
    values: np.ndarray
    best: np.ndarray
    limits: tuple[tuple[float, float], ...]
    is_log: tuple[bool, ...]
    labels: tuple[str, ...]


def draw(study: Study) -> Drawing:
    """Draw draws pair by pair, each parameter's spread, and the objective over two exponents."""
    draws = _draws(study)
    count = len(draws.names)
    figure = _look.new_figure(_look.DOUBLE, 1.15 * count + 0.6)
    grid = figure.add_gridspec(count, count)
    for i in range(count):
        _draw_spread(figure.add_subplot(grid[i, i]), draws, i)
        for j in range(i):
            _draw_pair(figure.add_subplot(grid[i, j]), draws, j, i)
    found = _plane(study, draws)
    if found is not None:
        _draw_plane(_corner(figure, count), draws, found)
    _look.legend_below(figure, _keys(has_plane=found is not None))
    return Drawing(figure, _rows(draws, found), _caption(draws, found))


def _draws(study: Study) -> _Draws:
    """Collect the draws of the parameters that vary.

    Raises:
        CannotDrawError: Too few draws or parameters to show a pair.
    """
    fit = study.fit
    assert fit is not None
    assert fit.draws is not None
    values = np.array([row for row in fit.draws if None not in row], dtype=float)
    values = values[np.isfinite(values).all(axis=1)] if values.size else values
    if len(values) < 10:
        raise CannotDrawError(f"{len(values)} bootstrap draws are too few to show a spread")
    names = tuple(fit.theta)
    spread, size = np.ptp(values, axis=0), np.abs(values).max(axis=0)
    varies = [k for k in range(len(names)) if spread[k] > _ROUNDING * size[k]][:_MOST]
    if len(varies) < 2:
        raise CannotDrawError("fewer than two parameters vary between the bootstrap draws")
    params = {p.name: p for p in registry.find("laws", fit.law).params}
    limits, logs, labels = [], [], []
    for k in varies:
        # A tail of one draw in two hundred may lie a decade away.
        low, high = np.quantile(values[:, k], (0.005, 0.995))
        param = params[names[k]]
        is_log = param.transform != "linear" and low > 0 and high / low > 2.0
        limits.append(_limits(float(low), float(high), is_log))
        logs.append(is_log)
        labels.append(_label(names[k], param.transform, study))
    kept = tuple(names[k] for k in varies)
    best = np.array([fit.theta[name] for name in kept])
    return _Draws(kept, values[:, varies], best, tuple(limits), tuple(logs), tuple(labels))


def _limits(low: float, high: float, is_log: bool) -> tuple[float, float]:
    if is_log:
        return _axes.widen(np.array([low, high]), 0.08)
    room = 0.08 * (high - low)
    return low - room, high + room


def _label(name: str, transform: str, study: Study) -> str:
    if transform == "linear":
        return f"{symbol(name)} (exponent)"
    unit = loss_words(study.loss_unit) if name == "E" else "amplitude"
    return f"{symbol(name)} ({unit})"


def _corner(figure: Figure, count: int) -> Axes:
    """Make axes over the empty cells at the top right, outside the layout of the grid."""
    first = count - count // 2
    left = 0.11 + 0.93 * first / count
    bottom = 1.0 - 0.88 * first / count + 0.08
    axes = figure.add_axes((left, bottom, 0.985 - left, 0.985 - bottom))
    axes.set_in_layout(False)
    return axes


def _draw_spread(axes: Axes, draws: _Draws, k: int) -> None:
    """Draw one parameter's histogram; its height is a count that needs no ticks."""
    low, high = draws.limits[k]
    bins = np.geomspace(low, high, 25) if draws.is_log[k] else np.linspace(low, high, 25)
    axes.hist(draws.values[:, k], bins=bins.tolist(), color=_look.GROUPS[0], alpha=0.35, lw=0)
    axes.axvline(draws.best[k], color=_look.INK, lw=0.9)
    _finish(axes, draws, k, "x", is_edge=k == len(draws.names) - 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_pair(axes: Axes, draws: _Draws, across: int, up: int) -> None:
    # Thousands of dots as shapes would weigh more than the rest of a report.
    dots = {"s": 2.0, "alpha": 0.45, "linewidths": 0, "rasterized": True}
    axes.scatter(draws.values[:, across], draws.values[:, up], color=_look.GROUPS[0], **dots)
    star = {**_look.POINT["minimum"], "s": 38}
    axes.scatter(draws.best[across], draws.best[up], color=_look.GROUPS[1], **star)
    _finish(axes, draws, across, "x", is_edge=up == len(draws.names) - 1)
    _finish(axes, draws, up, "y", is_edge=across == 0)


def _finish(axes: Axes, draws: _Draws, k: int, side: str, *, is_edge: bool) -> None:
    """Set limits, scale and ticks of the axis of parameter k; label it on the figure's edge."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    if draws.is_log[k]:
        axes.set(**{f"{side}scale": "log", f"{side}lim": draws.limits[k]})
        _axes.finish_log(axis, _axes.count_text, most=3, bare=False)
    else:
        axes.set(**{f"{side}lim": draws.limits[k]})
        _axes.finish_plain(axis, most=3)
    if is_edge:
        axis.set_label_text(draws.labels[k])
    else:
        axis.set_ticklabels([])


def _plane(study: Study, draws: _Draws) -> Plane | None:
    """Refit the objective over the two exponents that the draws cover; None where it cannot be."""
    assert study.fit is not None
    names = plane_names(study.fit)
    if study.table is None or names is None or not set(names) <= set(draws.names):
        return None
    ranges = [draws.limits[draws.names.index(name)] for name in names]
    try:
        return plane(study.table, study.fit, ranges[0], ranges[1])
    except ScalekitError:
        return None


def _draw_plane(axes: Axes, draws: _Draws, found: Plane) -> None:
    """Draw contours of the refitted objective with the draws over them."""
    across, up = (draws.names.index(name) for name in found.names)
    levels = [v for v in _LEVELS if v < found.rise.max()][-_MOST_LEVELS:]
    shades = _look.SEQUENCE(np.linspace(0.0, 1.0, len(levels)))
    lines = axes.contour(
        found.first, found.second, found.rise, levels=levels, colors=shades, linewidths=0.9
    )
    texts = axes.clabel(lines, fmt=lambda v: f"+{100 * v:g} %", fontsize=6)
    for text in texts:
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
    dots = {"s": 2.0, "color": _look.FAINT, "linewidths": 0, "zorder": 1, "rasterized": True}
    axes.scatter(draws.values[:, across], draws.values[:, up], **dots)
    star = {**_look.POINT["minimum"], "s": 60}
    axes.scatter(draws.best[across], draws.best[up], color=_look.GROUPS[1], **star)
    for side, k in (("x", across), ("y", up)):
        _finish(axes, draws, k, side, is_edge=True)


def _keys(*, has_plane: bool) -> list[Any]:
    dot = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
    keys = [
        _look.key("bootstrap draw", color=_look.GROUPS[0], ms=2.5, **dot),
        _look.key_of_role("minimum", "fit", _look.GROUPS[1]),
    ]
    if has_plane:
        keys.append(_look.key("objective above its minimum", color=_look.MUTED, lw=0.9))
    return keys


def _rows(draws: _Draws, found: Plane | None) -> list[dict[str, Any]]:
    rows = [{"what": "fit", **dict(zip(draws.names, draws.best, strict=True))}]
    rows += [{"what": "draw", **dict(zip(draws.names, row, strict=True))} for row in draws.values]
    if found is not None:
        first, second = found.names
        rows += [
            {"what": "objective", first: x, second: y, "rise": found.rise[j, i]}
            for j, y in enumerate(found.second)
            for i, x in enumerate(found.first)
        ]
    return rows


def _caption(draws: _Draws, found: Plane | None) -> str:
    count = len(draws.values)
    parts = [
        f"Parameters pair by pair in {count} bootstrap draws, each one's spread on the diagonal; "
        "stars and lines are the fit."
    ]
    low, high = np.array(draws.limits).T
    outside = int(((draws.values < low) | (draws.values > high)).any(axis=1).sum())
    if outside:
        parts.append(f"{count_words(outside, 'draw')} outside a panel.")
    first, second, value = _strongest(draws)
    parts.append(
        f"The most tied pair is {symbol(first)} and {symbol(second)}, with a rank correlation of "
        f"{value:.2f}."
    )
    if found is not None:
        pair = " and ".join(symbol(name) for name in found.names)
        parts.append(
            f"Top right: the objective over {pair} with everything else refitted, as a rise above "
            "its minimum; the draws in grey."
        )
    return " ".join(parts)


def _strongest(draws: _Draws) -> tuple[str, str, float]:
    """Return the pair of parameters whose ranks are most correlated."""
    ranks = np.argsort(np.argsort(draws.values, axis=0), axis=0)
    tied = np.atleast_2d(np.corrcoef(ranks, rowvar=False))
    pairs = combinations(range(len(draws.names)), 2)
    i, j = max(pairs, key=lambda pair: abs(tied[pair]))
    return draws.names[i], draws.names[j], float(tied[i, j])


PLOT = Plot(
    name="params",
    title="Parameters",
    shows="bootstrap draws pair by pair, and the refitted objective over the two exponents",
    needs=("law", "draws"),
    draw=draw,
)
