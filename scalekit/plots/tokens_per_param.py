"""Tokens per parameter at the optimum over compute, by every approach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.fit.result import FitResult
from scalekit.plots import _axes, _look, _surface
from scalekit.plots.base import CannotDrawError, Drawing, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REFERENCE = 20.0
"""Tokens per parameter that Hoffmann et al. 2022 are remembered for."""

_SAME = 0.01
"""Budgets whose logarithms differ by less are one: planned ones are met within a tolerance."""

_REACH = 30.0
"""How far beyond the largest measured compute the ratio is drawn."""


def draw(study: Study) -> Drawing:
    """Draw D*/N* over compute with its band, a line at the reference, and the runs' own range."""
    fits = _surface.approaches(study)
    if not fits:
        raise CannotDrawError("no fit gives a compute-optimal path")
    used = study.flops[study.is_used]
    low, high = float(used.min()), float(used.max())
    C = np.geomspace(low / 1.5, high * _REACH, 121)
    figure = _look.new_figure(_look.SINGLE, 2.6)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlim=(C[0], C[-1]))
    axes.axvspan(low, high, color=_look.MEASURED, zorder=-2, lw=0)
    axes.axhline(_REFERENCE, color=_look.MUTED, lw=0.8, ls=(0, (1, 2)), zorder=0)
    rows = []
    for place, fit in enumerate(fits):
        rows += _draw_fit(axes, fit, place, C, (low, high))
    axes.set_xlabel(_axes.flops_label(study.flops_kind, study.params_kind))
    axes.set_ylabel("D*/N* (tokens per parameter)")
    _limit(axes, rows)
    _axes.finish_log(axes.xaxis, _axes.power_text, most=5)
    _axes.finish_log(axes.yaxis)
    _look.legend_below(figure, _keys(fits))
    return Drawing(figure, rows, _caption(study, high))


def _draw_fit(
    axes: Axes, fit: FitResult, place: int, C: np.ndarray, measured: tuple[float, float]
) -> list[dict[str, Any]]:
    """Draw one approach's ratio over compute (n,); the headline is dashed beyond the runs."""
    path = _ratio(fit, C)
    style = _look.group_style(place)
    color = style["color"]
    if place == 0:
        low, high = measured
        inside = (low * 0.999 <= C) & (high * 1.001 >= C)
        axes.plot(C[inside], path["value"][inside], color=color, lw=1.5, zorder=3)
        for part in (low >= C, high <= C):
            axes.plot(C[part], path["value"][part], color=color, ls=_look.EXTRAPOLATED)
    else:
        axes.plot(C, path["value"], color=color, lw=0.9, ls=style["linestyle"])
    if "low" in path:
        axes.fill_between(C, path["low"], path["high"], color=color, alpha=0.18, lw=0)
    return [
        {"what": fit.approach, "flops": C[k]} | {name: v[k] for name, v in path.items()}
        for k in range(0, C.size, 4)
    ]


def _keys(fits: list[FitResult]) -> list[Any]:
    keys = []
    for place, fit in enumerate(fits):
        style = _look.group_style(place)
        line = {"color": style["color"], "ls": style["linestyle"], "lw": 1.3}
        keys.append(_look.key(_surface.WORDS[fit.approach], **line))
    reference = {"color": _look.MUTED, "lw": 0.8, "ls": (0, (1, 2))}
    return [*keys, _look.key(f"{_REFERENCE:g} per parameter", **reference)]


def _ratio(fit: FitResult, C: np.ndarray) -> dict[str, np.ndarray]:
    if fit.approach != "parametric":
        return {"value": _surface.on_line(fit, "tokens", C) / _surface.on_line(fit, "params", C)}
    path = _surface.frontier(fit, C)
    found = {"value": path["tokens_per_param"]}
    if np.isfinite(path["tokens_per_param_low"]).all():
        found |= {"low": path["tokens_per_param_low"], "high": path["tokens_per_param_high"]}
    return found


def _limit(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Keep a wild band from flattening the lines: at most a factor of 30 around them."""
    values = np.array([row["value"] for row in rows] + [_REFERENCE])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, values.min() / 30.0), min(high, values.max() * 30.0))


def _at(study: Study, flops: float) -> dict[str, float]:
    """Return the first fit's ratio at a budget, with the ends of its band."""
    path = _ratio(_surface.approaches(study)[0], np.array([flops]))
    return {name: float(values[0]) for name, values in path.items()}


def _caption(study: Study, high: float) -> str:
    near = _told(study, high) or _at(study, high)
    text = (
        "Tokens per parameter at the optimum over compute; dashed beyond the measured range "
        f"(shaded). At its end the first fit says {near['value']:.3g}"
    )
    if "low" in near:
        text += f" [{near['low']:.3g}, {near['high']:.3g}]"
    return f"{text} tokens per parameter; the dotted line is {_REFERENCE:g}."


def _told(study: Study, flops: float) -> dict[str, Any] | None:
    """Return the ratio that the fit told at a budget, with its interval: one number, one interval.

    The band is made for a whole path, by another way than an interval for one point of it.
    """
    for row in study.fit.optimum if study.fit is not None else ():
        between = row.get("intervals", {}).get("tokens_per_param") or {}
        if abs(np.log(row["flops"] / flops)) < _SAME and row.get("tokens_per_param"):
            ends = {k: between[k] for k in ("low", "high") if between.get(k) is not None}
            return {"value": row["tokens_per_param"], **(ends if len(ends) == 2 else {})}
    return None


PLOT = Plot(
    name="tokens_per_param",
    title="Tokens per parameter",
    shows="the optimal ratio of tokens to parameters over compute, with its band",
    needs=("runs", "fit"),
    draw=draw,
)
