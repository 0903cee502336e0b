"""Cost: device time as planned against device time as used, by run and by budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look
from scalekit.plots._runs import ROLES, colors_by_compute, role_words
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ((3600.0 * 2, 3600.0, "h"), (60.0 * 2, 60.0, "min"), (0.0, 1.0, "s"))
"""From which seconds on a unit is used, its seconds, and its sign."""


@dataclass(frozen=True)
class _Spent:
    """Device time of the planned runs.

    Attributes:
        runs: Names (n,).
        roles: What became of each (n,): a role of the study, or unfinished.
        budget: Planned FLOPs (n,), NaN where none.
        flops: Training FLOPs (n,), planned where not done.
        planned: Seconds (n,), NaN where nobody estimated them.
        used: Seconds (n,), NaN where the record does not say.
        colors: (n, 4).
    """

    runs: np.ndarray
    roles: np.ndarray
    budget: np.ndarray
    flops: np.ndarray
    planned: np.ndarray
    used: np.ndarray
    colors: np.ndarray


def draw(study: Study) -> Drawing:
    """Draw used over planned device time of each run, and both summed by budget."""
    spent = _spent(study)
    both = np.isfinite(spent.planned * spent.used) & (spent.planned > 0) & (spent.used > 0)
    if not both.any():
        raise CannotDrawError("no run has both a planned and a used device time")
    figure = _look.new_figure(_look.DOUBLE, 2.8)
    left, right = figure.subplots(1, 2)
    handles = _draw_runs(left, study, spent, both)
    rows = _draw_budgets(right, spent)
    for letter, axes in zip("ab", (left, right), strict=True):
        _look.panel_letter(axes, letter)
    _look.legend_below(figure, [*handles, *_keys()])
    runs = [
        {
            "what": spent.roles[k],
            "run": spent.runs[k],
            "budget": spent.budget[k],
            "flops": spent.flops[k],
            "planned_s": spent.planned[k],
            "used_s": spent.used[k],
        }
        for k in range(len(spent.runs))
    ]
    return Drawing(figure, [*runs, *rows], _caption(spent, both))


def _spent(study: Study) -> _Spent:
    """Join the plan's estimates with what the records say was used."""
    place = {str(run): k for k, run in enumerate(study.runs)}
    lines = [line for line in study.plan if line["id"] in place]
    rows = [place[line["id"]] for line in lines]
    return _Spent(
        study.runs[rows],
        study.roles[rows],
        study.column("budget")[rows],
        study.flops[rows],
        np.array([_planned(line) for line in lines]),
        study.column("device_s")[rows],
        colors_by_compute(study, study.flops)[rows],
    )


def _planned(line: Mapping[str, Any]) -> float:
    """Return a planned run's device-seconds: its time on every one of its GPUs."""
    seconds = line["plan"].get("estimate")
    gpus = line.get("resources", {}).get("gpus") or 1
    return float("nan") if seconds is None else float(seconds) * max(1, int(gpus))


def _unit(seconds: float) -> tuple[float, str]:
    return next((size, sign) for start, size, sign in _UNITS if seconds >= start)


def _draw_runs(axes: Axes, study: Study, spent: _Spent, both: np.ndarray) -> list[Any]:
    x, y = spent.planned, spent.used
    size, sign = _unit(float(np.median(y[both])))
    limits = _axes.widen(np.concatenate([x[both], y[both]]) / size, 0.08)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.plot(limits, limits, color=_look.INK, lw=0.7, zorder=1)
    handles = []
    for role in ROLES:
        here = both & (spent.roles == role)
        if not here.any():
            continue
        style = dict(_look.POINT[role])
        if role == "held_out":
            style["edgecolors"] = [*spent.colors[here]]
        elif role != "dropped":
            style["color"] = spent.colors[here]
        axes.scatter(x[here] / size, y[here] / size, **style)
        handles.append(_look.key_of_role(role, f"{role_words(study)[role]} ({int(here.sum())})"))
    axes.set_xlabel(f"Planned device time ({sign})")
    axes.set_ylabel(f"Used device time ({sign})")
    for axis in (axes.xaxis, axes.yaxis):
        _axes.finish_log(axis, lambda v: f"{v:.3g}")
    return handles


def _draw_budgets(axes: Axes, spent: _Spent) -> list[dict[str, Any]]:
    """Draw planned and used device time of each budget as two bars; return a row each."""
    budgets = np.unique(spent.budget[np.isfinite(spent.budget)])
    groups = [(_axes.power_text(b), spent.budget == b) for b in budgets]
    others = ~np.isfinite(spent.budget)
    if others.any():
        groups.append(("no budget" if budgets.size else "all runs", others))
    sums = [(np.nansum(spent.planned[g]), np.nansum(spent.used[g])) for _, g in groups]
    size, sign = _unit(float(np.max(sums)))
    rows = []
    for place, ((text, here), (planned, used)) in enumerate(zip(groups, sums, strict=True)):
        for shift, value, style in ((-0.2, planned, _PLANNED), (0.2, used, _USED)):
            axes.bar(place + shift, value / size, width=0.36, **style)
        rows.append(
            {"what": "sum", "budget": budgets[place] if place < budgets.size else None}
            | {"n_runs": int(here.sum()), "planned_s": planned, "used_s": used, "label": text}
        )
    step = max(1, -(-len(groups) // 6))
    axes.set_xticks(range(0, len(groups), step), [text for text, _ in groups[::step]])
    axes.set_xlabel("Budget (FLOPs)")
    axes.set_ylabel(f"Device time ({sign})")
    return rows


_PLANNED: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": _look.MUTED,
    "linewidth": 0.8,
    "hatch": "////",
}
_USED: dict[str, Any] = {"facecolor": _look.GROUPS[0], "edgecolor": _look.INK, "linewidth": 0.5}


def _keys() -> list[Any]:
    return [Patch(label="planned", **_PLANNED), Patch(label="used", **_USED)]


def _caption(spent: _Spent, both: np.ndarray) -> str:
    planned, used = float(spent.planned[both].sum()), float(spent.used[both].sum())
    ratio = np.log(spent.used[both] / spent.planned[both])
    size, sign = _unit(max(planned, used))
    parts = [
        f"Device time used over planned of {int(both.sum())} runs (a) and by budget (b): "
        f"{used / size:.3g} {sign} used, {planned / size:.3g} {sign} planned, a factor of "
        f"{used / planned:.3g}; of a single run typically {np.exp(np.median(ratio)):.3g}, within a "
        f"factor of {np.exp(np.std(ratio)):.2g} of that."
    ]
    todo = int((spent.roles == "unfinished").sum())
    if todo:
        parts.append(f"Not ended: {count_words(todo, 'planned run')}.")
    silent = len(spent.runs) - int(both.sum()) - todo
    if silent > 0:
        parts.append(f"Without both numbers: {count_words(silent, 'run')}.")
    return " ".join(parts)


PLOT = Plot(
    name="cost",
    title="Cost",
    shows="device time planned against used, by run and by budget",
    needs=("table", "plan"),
    draw=draw,
)
