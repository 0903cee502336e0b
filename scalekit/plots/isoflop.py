"""IsoFLOP curves: loss over parameters and over tokens, one valley a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _labels, _look, _surface
from scalekit.plots._runs import is_drawn, rows_of, scatter_runs
from scalekit.plots._valleys import Valley, valleys
from scalekit.plots.base import CannotDrawError, Drawing, Plot, has_law
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PARABOLA: Any = (0, (4, 1.5))


def draw(study: Study) -> Drawing:
    """Draw runs, each budget's parabola (dashed) and the fitted surface (solid), and the minima."""
    in_valley = study.is_used & np.isfinite(study.column("budget"))
    if not in_valley.any():
        raise CannotDrawError("no run in use names a planned budget")
    figure = _look.new_figure(_look.DOUBLE, 3.3)
    panels = figure.subplots(1, 2, sharey=True)
    shown = rows_of(study, is_drawn(study))
    handles: list[Any] = []
    L, is_dropped = study.column("loss"), study.roles == "dropped"
    for axes, name in zip(panels, ("params", "tokens"), strict=True):
        axes.set(xscale="log", yscale="log")
        x = study.column(name)
        axes.set_xlim(*_limits(x[in_valley], x[is_dropped]))
        low, high = _axes.widen_to(_axes.tame(L[in_valley]), L[is_dropped], 0.05)
        axes.set_ylim(low / (high / low) ** 0.04, high)
        handles = _draw_valleys(axes, study, name, shown)
    panels[0].set_xlabel(_axes.params_label(study.params_kind))
    panels[0].set_ylabel(_axes.loss_label(study.loss_unit))
    panels[1].set_xlabel(_axes.tokens_label())
    for letter, axes in zip("ab", panels, strict=True):
        _look.panel_letter(axes, letter)
        _axes.finish_log(axes.xaxis)
    _axes.finish_loss(panels[0].yaxis)
    panels[1].tick_params(labelleft=False)
    _look.legend_below(figure, handles)
    figure.draw_without_rendering()
    for axes, name in zip(panels, ("params", "tokens"), strict=True):
        _label_budgets(axes, study, name)
    return Drawing(figure, shown, _caption(study))


def _limits(x: np.ndarray, dropped: np.ndarray) -> tuple[float, float]:
    low, high = _axes.widen_to(x, dropped, 0.05)
    return low, high * (high / low) ** 0.07  # room for the budgets' labels


def _color(study: Study, budget: float) -> Any:
    return _look.SEQUENCE(_look.compute_norm(study.budgets)(budget))


def _draw_valleys(axes: Axes, study: Study, name: str, shown: list[dict[str, Any]]) -> list[Any]:
    """Draw one panel and return its legend's entries."""
    norm = _look.compute_norm(study.budgets)
    budget = study.column("budget")
    known = np.where(np.isfinite(budget), budget, study.budgets[0])
    x = np.where(np.isfinite(budget), study.column(name), np.nan)
    colors = _look.SEQUENCE(norm(known))
    entries = scatter_runs(axes, study, x, study.column("loss"), colors, size=0.8)
    if has_law(study):
        for value in study.budgets.tolist():
            shown += _draw_surface(axes, study, name, value)
        entries.append(_look.key("fitted surface", color=_look.MUTED, lw=1.0))
    found = valleys(study, name)
    for valley in found:
        shown += _draw_parabola(axes, study, valley)
    if found:
        entries.append(_look.key("parabola", color=_look.MUTED, lw=0.7, ls=_PARABOLA))
    if any(not v.rejected for v in found):
        entries.append(_look.key_of_role("minimum", "its minimum"))
    if any(v.rejected for v in found):
        entries.append(_rejected_key())
    return entries


def _rejected_key() -> Any:
    hollow = {"markerfacecolor": "none", "markeredgecolor": _look.MUTED}
    return _look.key("minimum refused", linestyle="none", marker="*", markersize=7.5, **hollow)


def _span(study: Study, name: str, budget: float) -> np.ndarray:
    """Return places (n,) from a budget's smallest to its largest run."""
    x = study.column(name)[(study.column("budget") == budget) & study.is_used]
    return np.geomspace(float(x.min()), float(x.max()), 65)


def _draw_surface(axes: Axes, study: Study, name: str, budget: float) -> list[dict[str, Any]]:
    assert study.fit is not None
    x = _span(study, name, budget)
    N, D = _surface.along_budget(study, name, budget, x)
    L = _surface.loss(study.fit, N, D)
    axes.plot(x, L, color=_color(study, budget), lw=1.0, zorder=2)
    keys = {"what": "surface", "axis": name, "budget": budget}
    places = range(0, x.size, 4)
    return [{**keys, "params": N[k], "tokens": D[k], "predicted": L[k]} for k in places]


def _draw_parabola(axes: Axes, study: Study, valley: Valley) -> list[dict[str, Any]]:
    color = _color(study, valley.budget)
    x = _span(study, valley.axis, valley.budget)
    if valley.curve:
        axes.plot(x, valley.losses(x), color=color, lw=0.7, ls=_PARABOLA, zorder=3)
    style = dict(_look.POINT["minimum"])
    if valley.rejected:
        hollow = {"facecolors": "none", "edgecolors": color, "linewidths": 0.8}
        axes.scatter(valley.best, valley.loss, **{**style, **hollow})
    else:
        axes.scatter(valley.best, valley.loss, color=color, **style)
    what = "minimum refused" if valley.rejected else "minimum"
    row = {"what": what, "axis": valley.axis, "budget": valley.budget, valley.axis: valley.best}
    return [row | {"predicted": valley.loss, "reason": valley.rejected}]


def _label_budgets(axes: Axes, study: Study, name: str) -> None:
    """Write each budget beside its rightmost run."""
    ends = []
    L, x = study.column("loss"), study.column(name)
    for value in study.budgets.tolist():
        here = np.flatnonzero((study.column("budget") == value) & study.is_used)
        last = here[np.argmax(x[here])]
        text, color = _axes.power_text(value), _look.text_color(_color(study, value))
        ends.append((float(x[last]), float(L[last]), text, color))
    _labels.label_ends(axes, ends)


def _caption(study: Study) -> str:
    count = count_words(study.budgets.size, "budget")
    parts = [f"Loss over parameters (a) and tokens (b) at {count} of compute (FLOPs)."]
    if has_law(study):
        assert study.fit is not None
        parts.append(f"Solid: the fitted {study.fit.law} surface along the budget's runs.")
    found = valleys(study, "params")
    if found:
        parts.append("Dashed: a parabola through the budget's own runs, with its minimum starred.")
    refused = [v for v in found if v.rejected]
    for valley in refused:
        parts.append(f"Refused: {valley.rejected.split(';')[0]}.")
    return " ".join(parts)


PLOT = Plot(
    name="isoflop",
    title="IsoFLOP valleys",
    shows="loss over parameters and tokens at each budget: parabola dashed, fitted surface solid",
    needs=("runs", "budgets"),
    draw=draw,
)
