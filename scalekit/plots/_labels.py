"""Labels beside curves instead of a legend, moved apart where they would touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.patheffects import withStroke

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 6.5
"""Of a label, points."""
_APART = 4.0
"""Points between a curve's end and its label."""


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label places apart by at least `gap` while keeping their order, inside [low, high].

    >>> spread([0.0, 0.1, 5.0], 1.0, -10, 10)
    [-0.45, 0.55, 5.0]
    """
    order = sorted(range(len(places)), key=lambda k: places[k])
    blocks: list[list[float]] = []  # each: sum of (place - offset), count
    for k in order:
        blocks.append([places[k], 1.0])
        while len(blocks) > 1 and _start(blocks[-1], gap) < _stop(blocks[-2], gap) - 1e-12:
            last = blocks.pop()
            shifted = last[0] - last[1] * gap * blocks[-1][1]
            blocks[-1] = [blocks[-1][0] + shifted, blocks[-1][1] + last[1]]
    out = [0.0] * len(places)
    taken = 0
    for total, count in blocks:
        first = min(max(total / count, low), high - gap * (count - 1))
        for j in range(int(count)):
            out[order[taken]] = round(first + gap * j, 9)
            taken += 1
    return out


def _start(block: list[float], gap: float) -> float:
    return block[0] / block[1] - gap * 0.5


def _stop(block: list[float], gap: float) -> float:
    return block[0] / block[1] + gap * (block[1] - 0.5)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]]) -> None:
    """Write a label to the right of each curve's end, moved apart where they would touch.

    Args:
        axes: Axes whose limits stand and whose figure has its size.
        ends: x, y, text and colour of each.
    """
    figure = axes.get_figure()
    assert figure is not None
    height = axes.get_window_extent().height * 72.0 / figure.dpi
    to_points = axes.transData.transform
    bottom = axes.transAxes.transform((0, 0))[1]
    ys = [(float(to_points((x, y))[1]) - bottom) * 72.0 / figure.dpi for x, y, _, _ in ends]
    moved = spread(ys, _SIZE * 1.15, 0.0, height)
    for (x, y, text, color), was, now in zip(ends, ys, moved, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(_APART, now - was),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=_SIZE,
            color=color,
            annotation_clip=False,
            zorder=7,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
