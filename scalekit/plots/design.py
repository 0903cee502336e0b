"""The design: where the runs lie on parameters and tokens, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patheffects import withStroke

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import is_drawn, rows_of, scatter_runs
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RAYS = (0.2, 1.0, 5.0, 20.0, 100.0, 500.0, 2500.0)
"""Tokens per parameter of which those that cross the figure are drawn."""

_APART = 0.05
"""Share of the figure's height that two named lines are apart at least."""

_PRIOR = 20.0
"""Tokens per parameter expected before any run (Hoffmann et al. 2022)."""


def draw(study: Study) -> Drawing:
    """Draw runs, planned runs, budget lines, rays of tokens per parameter and the optimum."""
    planned = _planned(study)
    N = np.concatenate([study.column("params"), planned["params"]])
    D = np.concatenate([study.column("tokens"), planned["tokens"]])
    known = (N > 0) & (D > 0)
    if not known.any():
        raise CannotDrawError("no run, done or planned, has both a size and a number of tokens")
    figure = _look.new_figure(_look.SINGLE, 3.2)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(*_axes.widen(N[known], 0.09))
    axes.set_ylim(*_axes.widen(D[known], 0.09))
    # A budget whose runs were all dropped says nothing of the design.
    ahead = planned["budget"][np.isfinite(planned["budget"])]
    budgets = np.unique(np.concatenate([study.budgets, ahead]))
    own = np.where(np.isfinite(study.column("budget")), study.column("budget"), study.flops)
    norm = _look.compute_norm(np.concatenate([own[study.is_used], budgets]))
    _draw_budget_lines(axes, study, budgets, norm)
    _draw_rays(axes)
    handles = _draw_optimum(axes, study)
    middle = np.sqrt(norm.vmin * norm.vmax)  # type: ignore[operator]
    colors = _look.SEQUENCE(norm(np.where(np.isfinite(own), own, middle)))
    handles = [
        *scatter_runs(axes, study, study.column("params"), study.column("tokens"), colors),
        *_draw_planned(axes, planned),
        *handles,
    ]
    axes.set_xlabel(_axes.params_label(study.params_kind))
    axes.set_ylabel(_axes.tokens_label())
    _axes.finish_log(axes.xaxis)
    _axes.finish_log(axes.yaxis)
    _look.legend_below(figure, handles)
    return Drawing(figure, _rows(study, planned), _caption(study, planned["run"].size))


def _planned(study: Study) -> dict[str, np.ndarray]:
    """Return run, params, tokens, budget of the plan's runs that are not in the table's rows."""
    seen = set(study.runs[study.roles != "unfinished"])
    todo = [line for line in study.plan if line["id"] not in seen]
    kind = study.params_kind
    return {
        "run": np.array([line["id"] for line in todo], dtype=object),
        "params": np.array([_params(line["plan"], kind) for line in todo], dtype=float),
        "tokens": np.array([_number(line["plan"].get("tokens")) for line in todo], dtype=float),
        "budget": np.array([_number(line["plan"].get("budget")) for line in todo], dtype=float),
    }


def _params(plan: Mapping[str, Any], kind: str) -> float:
    """Return a planned run's parameters by the table's count, else by the plan's own choice."""
    counts = plan.get("params")
    if isinstance(counts, Mapping):
        return _number(counts.get(kind or plan.get("params_kind")))
    return _number(counts)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _draw_planned(axes: Axes, planned: Mapping[str, np.ndarray]) -> list[Any]:
    count = planned["run"].size
    if not count:
        return []
    style: dict[str, Any] = {"marker": "s", "facecolors": "none", "edgecolors": _look.MUTED}
    axes.scatter(planned["params"], planned["tokens"], s=14, linewidths=0.7, zorder=3, **style)
    word = f"planned, not done ({count})"
    hollow = {"markerfacecolor": "none", "markeredgecolor": _look.MUTED}
    return [_look.key(word, linestyle="none", marker="s", markersize=4, **hollow)]


def _draw_budget_lines(axes: Axes, study: Study, budgets: np.ndarray, norm: Any) -> None:
    """Draw lines of equal FLOPs, each named where it enters the figure on the left."""
    N = np.geomspace(*axes.get_xlim(), 256)
    low, high = axes.get_ylim()
    # A label stands on its line: keep it below the top, where rays are named.
    top = high / (high / low) ** 0.07
    named: float | None = None
    for budget in budgets[::-1]:
        D = _surface.tokens_at(study, budget, N)
        color = _look.SEQUENCE(norm(budget))
        axes.plot(N, D, color=color, lw=0.7, alpha=0.8, zorder=1)
        inside = np.flatnonzero((top > D) & (low < D))
        # Lines of nearly equal budgets share the first one's name; at the top names are side by
        # side, on the left one above the other.
        is_left = inside.size > 0 and inside[0] == 0
        room = (high / low) ** _APART if is_left else (N[-1] / N[0]) ** (3.5 * _APART)
        if inside.size and (named is None or named / budget > room):
            named, start = budget, inside[0]
            text, shade = _axes.power_text(budget), _look.text_color(color)
            _note(axes, (float(N[start]), float(D[start])), text, shade, "over")


def _draw_rays(axes: Axes) -> None:
    """Draw lines of equal tokens per parameter, each named where it leaves the figure."""
    N = np.array(axes.get_xlim())
    low, high = axes.get_ylim()
    for ratio in _RAYS:
        first, last = max(N[0], low / ratio), min(N[1], high / ratio)
        if last <= first or np.log(last / first) < 0.25 * np.log(N[1] / N[0]):
            continue
        axes.plot(N, ratio * N, color=_look.FAINT, lw=0.6, ls=(0, (1, 2)), zorder=0)
        at_top = high / ratio < N[1]
        _note(axes, (last, ratio * last), f"{ratio:g}", _look.MUTED, "above" if at_top else "right")


def _note(axes: Axes, at: tuple[float, float], text: str, color: Any, where: str) -> None:
    """Write a small text at a point: `right` of it, `above` it, or `over` a falling line."""
    shift, ha, va = {
        "right": ((2, 0), "left", "center"),
        "above": ((0, 2), "center", "bottom"),
        "over": ((2, 1), "left", "bottom"),
    }[where]
    axes.annotate(
        text,
        at,
        xytext=shift,
        textcoords="offset points",
        fontsize=6,
        color=color,
        ha=ha,
        va=va,
        annotation_clip=False,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
    )


def _draw_optimum(axes: Axes, study: Study) -> list[Any]:
    """Draw the fitted compute-optimal path, or the ray expected before any run."""
    style = {"color": _look.INK, "lw": 1.1, "zorder": 2}
    N = np.array(axes.get_xlim())
    if study.fit is None or not _surface.has_frontier(study):
        axes.plot(N, _PRIOR * N, ls=_look.DASHES[1], **style)
        return [_look.key(f"prior optimum, D/N = {_PRIOR:g}", ls=_look.DASHES[1], **style)]
    used = study.flops[study.is_used]
    low, high = float(used.min()), float(used.max())
    # Far enough to leave the figure, wherever the path runs in it.
    ends = ((low / 1e4, low, _look.EXTRAPOLATED), (low, high, "-"))
    for start, stop, dash in (*ends, (high, high * 1e4, _look.EXTRAPOLATED)):
        path = _surface.frontier(study.fit, np.geomspace(start, stop, 65))
        axes.plot(path["params"], path["tokens"], ls=dash, **style)
    return [_look.key("fitted optimum", **style)]


def _rows(study: Study, planned: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    N, D = study.column("params"), study.column("tokens")
    rows = rows_of(study, is_drawn(study) & np.isfinite(N * D), tokens_per_param=D / N)
    for k, run in enumerate(planned["run"]):
        numbers = {name: planned[name][k] for name in ("budget", "params", "tokens")}
        ratio = numbers["tokens"] / numbers["params"]
        rows.append({"what": "planned", "run": run, **numbers, "tokens_per_param": ratio})
    return rows


def _caption(study: Study, n_planned: int) -> str:
    ratio = (study.column("tokens") / study.column("params"))[study.is_used]
    parts = ["The design on parameters and tokens, coloured by compute (FLOPs)."]
    if study.budgets.size:
        rule = _surface.cost_words(study)
        parts.append(f"Falling lines: equal FLOPs of {rule}, one a planned budget.")
    if ratio.size:
        parts.append(
            f"{count_words(ratio.size, 'run')} in use, of {_axes.count_text(ratio.min())} to "
            f"{_axes.count_text(ratio.max())} tokens per parameter; dotted rays name that ratio."
        )
    if n_planned:
        planned = count_words(n_planned, "planned run")
        parts.append(f"Hollow squares: {planned} without a result.")
    return " ".join(parts)


PLOT = Plot(
    name="design",
    title="Design",
    shows="where the runs lie on parameters and tokens, and what became of each",
    needs=(),
    draw=draw,
)
