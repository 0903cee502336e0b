"""Over-training: loss over tokens per parameter, and what leaving the optimum costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import is_drawn, rows_of, scatter_runs
from scalekit.plots.base import CannotDrawError, Drawing, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 6
"""Sizes for which the law is drawn."""


def draw(study: Study) -> Drawing:
    """Draw loss over D/N by size with the law, and each run's excess over the optimum at its C."""
    assert study.fit is not None
    N, D, L = (study.column(name) for name in ("params", "tokens", "loss"))
    ratio, used = D / N, study.is_used
    if np.ptp(np.log(ratio[used])) < 0.1:
        raise CannotDrawError("all runs have the same number of tokens per parameter")
    norm = _look.compute_norm(N[used])
    colors = _look.SEQUENCE(norm(np.where(N > 0, N, N[used].min())))
    has_excess = _surface.has_frontier(study)
    figure = _look.new_figure(_look.DOUBLE if has_excess else _look.SINGLE, 2.8)
    panels = np.atleast_1d(figure.subplots(1, 2 if has_excess else 1))
    axes = panels[0]
    axes.set(xscale="log", yscale="log", xlim=_axes.widen(ratio[used], 0.06))
    axes.set_ylim(*_axes.widen(_axes.tame(L[used]), 0.06))
    rows = _draw_sizes(axes, study, ratio, norm)
    handles = scatter_runs(axes, study, ratio, L, colors, size=0.8)
    axes.set_ylabel(_axes.loss_label(study.loss_unit))
    _axes.finish_loss(axes.yaxis)
    excess = np.full(L.shape, np.nan)
    if has_excess:
        excess = 100.0 * (L / _optimal_loss(study) - 1.0)
        rows += _draw_excess(panels[1], study, ratio, excess, colors)
    for letter, axes in zip("ab", panels, strict=False):
        axes.set_xlabel("D/N (tokens per parameter)")
        _axes.finish_log(axes.xaxis)
        _look.panel_letter(axes, letter)
    label = _axes.params_label(study.params_kind)
    _axes.finish_log(_axes.color_bar(figure, panels, norm, label, aspect=25))
    _look.legend_below(figure, [*handles, *_keys(rows, has_excess=has_excess)])
    runs = rows_of(study, is_drawn(study), tokens_per_param=ratio, excess_percent=excess)
    return Drawing(figure, [*runs, *rows], _caption(study, ratio, excess))


def _optimal_loss(study: Study) -> np.ndarray:
    """Return the law's loss (n,) at the optimum of each run's own compute."""
    assert study.fit is not None
    known = np.isfinite(study.flops) & (study.flops > 0)
    out = np.full(study.flops.shape, np.nan)
    out[known] = _surface.frontier(study.fit, study.flops[known])["loss"]
    return out


def _draw_sizes(axes: Axes, study: Study, ratio: np.ndarray, norm: Any) -> list[dict[str, Any]]:
    """Draw the law over D/N for a few sizes: solid over each size's own runs, dashed beyond."""
    assert study.fit is not None
    N, used = study.column("params"), study.is_used
    sizes = np.unique(N[used])
    if sizes.size > _MOST:
        sizes = sizes[np.linspace(0, sizes.size - 1, _MOST).round().astype(int)]
    low, high = axes.get_xlim()
    rows = []
    for size in sizes.tolist():
        mine = ratio[used & (size == N)]
        color = _look.SEQUENCE(norm(size))
        parts = (
            ("law", mine.min(), mine.max(), "-"),
            ("law, extrapolated", low, mine.min(), _look.EXTRAPOLATED),
            ("law, extrapolated", mine.max(), high, _look.EXTRAPOLATED),
        )
        for what, first, last, dash in parts:
            if last <= first * 1.001:
                continue
            x = np.geomspace(float(first), float(last), 33)
            L = _surface.loss(study.fit, np.full(x.shape, size), size * x)
            axes.plot(x, L, color=color, lw=0.9, ls=dash, zorder=2)
            told = {"what": what, "params": size}
            rows += [
                {**told, "tokens_per_param": a, "predicted": b}
                for a, b in zip(x[::4], L[::4], strict=True)
            ]
    return rows


def _draw_excess(
    axes: Axes, study: Study, ratio: np.ndarray, excess: np.ndarray, colors: np.ndarray
) -> list[dict[str, Any]]:
    """Draw each run's excess over the optimum at its compute, and the law's at two budgets."""
    assert study.fit is not None
    used = study.is_used
    axes.set(xscale="log", xlim=_axes.widen(ratio[used], 0.06))
    low, high = (
        float(excess[used].min()),
        100.0 * float(_axes.tame(1 + excess[used] / 100).max() - 1),
    )
    room = 0.06 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.axhline(0.0, color=_look.INK, lw=0.7, zorder=1)
    rows = []
    ends = (float(study.flops[used].min()), float(study.flops[used].max()))
    for place, flops in enumerate(ends):
        x = np.geomspace(*axes.get_xlim(), 97)
        N = _size_at(study, flops, x)
        best = float(_surface.frontier(study.fit, np.array([flops]))["loss"][0])
        y = 100.0 * (_surface.loss(study.fit, N, N * x) / best - 1.0)
        axes.plot(x, y, color=_look.MUTED, lw=0.9, ls=_look.DASHES[2 * place], zorder=2)
        told = {"what": "law's excess", "flops": flops}
        rows += [
            {**told, "tokens_per_param": a, "excess_percent": b}
            for a, b in zip(x[::6], y[::6], strict=True)
        ]
    scatter_runs(axes, study, ratio, excess, colors, size=0.8)
    axes.set_ylabel("Above the optimum of equal C (%)")
    _axes.finish_plain(axes.yaxis)
    return rows


def _size_at(study: Study, flops: float, ratio: np.ndarray) -> np.ndarray:
    """Return the size that spends a budget at each ratio of tokens to parameters."""
    # Of C = factor N^power D with D = ratio N.
    unit = float(_surface.tokens_at(study, 1.0, np.array([1.0]))[0])
    twice = float(_surface.tokens_at(study, 1.0, np.array([2.0]))[0])
    power = np.log2(unit / twice)
    return (flops * unit / ratio) ** (1.0 / (power + 1.0))


def _keys(rows: list[dict[str, Any]], *, has_excess: bool) -> list[Any]:
    dashes = {"law": "-", "law, extrapolated": _look.EXTRAPOLATED}
    drawn = [what for what in dashes if any(row["what"] == what for row in rows)]
    words = ("law of one size (a)", "beyond its runs (a)")
    keys = [
        _look.key(word, color=_look.MUTED, lw=0.9, ls=dashes[what])
        for word, what in zip(words, drawn, strict=False)
    ]
    if has_excess:
        for place, word in enumerate(("smallest", "largest")):
            dash = _look.DASHES[2 * place]
            keys.append(_look.key(f"law at the {word} C (b)", color=_look.MUTED, lw=0.9, ls=dash))
    return keys


def _caption(study: Study, ratio: np.ndarray, excess: np.ndarray) -> str:
    used = study.is_used
    low, high = float(ratio[used].min()), float(ratio[used].max())
    parts = [
        f"Loss over tokens per parameter (a), from {_axes.count_text(low)} to "
        f"{_axes.count_text(high)}, coloured by "
        "parameters; lines are the fitted law at a few sizes, dashed where a size was not run."
    ]
    known = used & np.isfinite(excess)
    if known.any():
        far = np.flatnonzero(known)[int(np.argmax(ratio[known]))]
        most = _axes.count_text(float(ratio[far]))
        parts.append(
            "What leaving the optimum costs (b): the loss above the law's optimum at the run's own "
            f"compute; the run with most tokens per parameter, {most}, lies "
            f"{abs(excess[far]):.2g} % {'above' if excess[far] >= 0 else 'below'} it."
        )
    return " ".join(parts)


PLOT = Plot(
    name="overtrain",
    title="Over-training",
    shows="loss over tokens per parameter by size, and the excess over the optimum at equal FLOPs",
    needs=("runs", "law"),
    draw=draw,
)
