"""Iso-loss contours on compute and parameters, the runs, and the efficient frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import is_drawn, rows_of, scatter_runs
from scalekit.plots.base import Drawing, Plot
from scalekit.quantities import write_flops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = 96


def draw(study: Study) -> Drawing:
    """Draw the fitted surface as lines of equal loss with the runs coloured by their loss."""
    fit = study.fit
    assert fit is not None
    used = study.is_used
    C, N, L = study.flops, study.column("params"), study.column("loss")
    figure = _look.new_figure(_look.SINGLE, 2.9)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    # Half a decade of room on the right shows where the frontier goes on.
    left, right = _axes.widen(C[used], 0.05)
    axes.set_xlim(left, right * 3)
    axes.set_ylim(*_axes.widen(N[used], 0.08))
    axes.axvspan(float(C[used].min()), float(C[used].max()), color=_look.MEASURED, zorder=-2, lw=0)
    best, worst = _axes.widen(_axes.tame(L[used]), 0.0)
    norm = LogNorm(best, worst)
    rows = _draw_contours(axes, study)
    colors = _look.SEQUENCE(norm(np.where(np.isfinite(L) & (L > 0), L, worst)))
    handles = scatter_runs(axes, study, C, N, colors, size=0.7)
    handles += _draw_frontier(axes, study, float(C[used].min()), float(C[used].max()), rows)
    axes.set_xlabel(_axes.flops_label(study.flops_kind, study.params_kind))
    axes.set_ylabel(_axes.params_label(study.params_kind))
    _axes.finish_log(axes.xaxis, _axes.power_text, most=5)
    _axes.finish_log(axes.yaxis)
    label = _axes.loss_label(study.loss_unit, "Measured loss")
    _axes.finish_loss(_axes.color_bar(figure, axes, norm, label))
    _look.legend_below(figure, handles)
    runs = rows_of(study, is_drawn(study))
    return Drawing(figure, [*runs, *rows], _caption(study, rows))


def _draw_contours(axes: Axes, study: Study) -> list[dict[str, Any]]:
    assert study.fit is not None
    C = np.geomspace(*axes.get_xlim(), _GRID)
    N = np.geomspace(*axes.get_ylim(), _GRID)
    mesh_C, mesh_N = np.meshgrid(C, N)
    surface = _surface.loss(study.fit, mesh_N, _surface.tokens_at(study, mesh_C, mesh_N))
    # Levels where the runs are, not in the corners where nobody trained.
    near = _axes.tame(study.column("loss")[study.is_used])
    best = float(surface.min())
    levels = [v for v in MaxNLocator(14).tick_values(best, float(near.max()) * 1.1) if v > best]
    lines = axes.contour(C, N, surface, levels=levels, colors=_look.MUTED, linewidths=0.5, zorder=1)
    texts = axes.clabel(lines, levels[:: max(1, len(levels) // 7)], fmt="%.3g", fontsize=6)
    for text in texts:
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
    return [
        {"what": "contour", "loss": level, "flops": x, "params": y}
        for level, paths in zip(levels, lines.allsegs, strict=True)
        for path in paths
        for x, y in path[:: max(1, len(path) // 24)]
    ]


def _draw_frontier(
    axes: Axes, study: Study, low: float, high: float, rows: list[dict[str, Any]]
) -> list[Any]:
    if not _surface.has_frontier(study):
        return []
    assert study.fit is not None
    style = {"color": _look.INK, "lw": 1.4, "zorder": 2}
    ends = (low, high), (high, axes.get_xlim()[1])
    for (start, stop), dash in zip(ends, ("-", _look.EXTRAPOLATED), strict=True):
        path = _surface.frontier(study.fit, np.geomspace(start, stop, 33))
        axes.plot(path["flops"], path["params"], ls=dash, **style)
        what = "frontier" if dash == "-" else "frontier, extrapolated"
        rows += [
            {"what": what, "flops": c, "params": n, "tokens": d}
            for c, n, d in zip(path["flops"], path["params"], path["tokens"], strict=True)
        ]
    return [_look.key("compute-optimal", **style)]


def _caption(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    assert study.fit is not None
    L = study.column("loss")[study.is_used]
    parts = [
        f"Lines of equal loss of the fitted {study.fit.law} law on compute and parameters; runs "
        f"are coloured by their measured loss, {L.min():.3g} to {L.max():.3g}."
    ]
    path = [row for row in rows if row["what"] == "frontier"]
    if path:
        first, last = (
            f"{_axes.count_text(row['params'])} at {write_flops(row['flops'])} FLOPs"
            for row in (path[0], path[-1])
        )
        parts.append(
            f"The heavy line is the compute-optimal path, from {first} to {last} where compute was "
            "measured (shaded), dashed beyond."
        )
    return " ".join(parts)


PLOT = Plot(
    name="contours",
    title="Loss surface",
    shows="lines of equal loss on compute and parameters, with the runs and the efficient frontier",
    needs=("runs", "law"),
    draw=draw,
)
