"""The compute-optimal frontier: N* and D* over compute, by every approach, with its band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from scalekit.analysis.study import Study
from scalekit.analysis.words import is_tied, local_words
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._valleys import valleys
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import write_flops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scalekit.fit.result import FitResult

_REACH = 30.0
"""How far beyond the largest measured compute the frontier is drawn, unless a budget asks more."""

_STRIP_TICKS = (1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0)
"""What may be labelled above one in the strip; below it stands its inverse."""


def draw(study: Study) -> Drawing:
    """Draw N* and D* over C with a strip each of every approach's ratio to the best fit."""
    approaches = _surface.approaches(study)
    if not approaches:
        raise CannotDrawError("no fit gives a compute-optimal path")
    used = study.flops[study.is_used]
    measured = float(used.min()), float(used.max())
    assert study.fit is not None
    asked = [float(row["flops"]) for row in study.fit.optimum if row.get("flops")]
    span = measured[0] / 1.5, max([measured[1] * _REACH, *(c * 1.5 for c in asked)])
    figure = _look.new_figure(_look.DOUBLE, 3.9)
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(3.0, 1.0))
    rows: list[dict[str, Any]] = []
    for column, axis in enumerate(("params", "tokens")):
        top, strip = panels[0, column], panels[1, column]
        for axes in (top, strip):
            axes.set(xscale="log", yscale="log", xlim=span)
            axes.axvspan(*measured, color=_look.MEASURED, zorder=-2, lw=0)
        rows += _draw_axis((top, strip), study, axis, np.geomspace(*span, 121), measured)
        _write_exponents(top, approaches, axis)
        _finish(top, strip, axis, study)
        _look.panel_letter(top, "ab"[column])
    _look.legend_below(figure, _keys(study, approaches))
    figure.align_ylabels()
    return Drawing(figure, rows, _caption(approaches, measured))


def _style(place: int) -> dict[str, Any]:
    style = _look.group_style(place)
    return {"color": style["color"], "ls": style["linestyle"]}


def _draw_axis(
    pair: tuple[Axes, Axes], study: Study, axis: str, C: np.ndarray, measured: tuple[float, float]
) -> list[dict[str, Any]]:
    """Draw one of N* and D* over compute (n,) in its two panels; return the rows shown."""
    top, strip = pair
    rows: list[dict[str, Any]] = []
    best: np.ndarray | None = None
    for place, fit in enumerate(_surface.approaches(study)):
        path = _path(fit, axis, C)
        best = path["value"] if best is None else best
        style = _style(place)
        for axes, by in ((top, np.ones_like(C)), (strip, best)):
            _draw_path(axes, C, path["value"] / by, measured, style, is_head=place == 0)
            if "low" in path:
                shade = {"color": style["color"], "alpha": 0.18, "lw": 0, "zorder": 1}
                axes.fill_between(C, path["low"] / by, path["high"] / by, **shade)
        for k in range(0, C.size, 6):
            row = {"what": fit.approach, "axis": axis, "flops": C[k]}
            rows.append(row | {name: values[k] for name, values in path.items()})
    assert best is not None
    rows += _draw_minima(top, strip, study, axis, lambda c: np.interp(np.log(c), np.log(C), best))
    return rows


def _path(fit: FitResult, axis: str, C: np.ndarray) -> dict[str, np.ndarray]:
    """Return value, low and high of N* or D* over compute (n,)."""
    if fit.approach == "parametric":
        found = _surface.frontier(fit, C)
        path = {"value": found[axis]}
        if np.isfinite(found[f"{axis}_low"]).all():
            path |= {"low": found[f"{axis}_low"], "high": found[f"{axis}_high"]}
        return path
    return {"value": _surface.on_line(fit, axis, C)}


def _draw_path(
    axes: Axes,
    C: np.ndarray,
    y: np.ndarray,
    measured: tuple[float, float],
    style: dict[str, Any],
    *,
    is_head: bool,
) -> None:
    """Draw a path, heavy where compute was measured; the headline is dashed beyond it."""
    inside = (measured[0] * 0.999 <= C) & (measured[1] * 1.001 >= C)
    after, before = measured[1] <= C, measured[0] >= C
    color = style["color"]
    if is_head:
        axes.plot(C[inside], y[inside], color=color, lw=1.5, zorder=3)
        for part in (before, after):
            axes.plot(C[part], y[part], color=color, lw=1.2, ls=_look.EXTRAPOLATED, zorder=3)
    else:
        axes.plot(C, y, lw=0.9, zorder=2, **style)


def _draw_minima(
    top: Axes, strip: Axes, study: Study, axis: str, best: Any
) -> list[dict[str, Any]]:
    """Draw the valleys' minima with their intervals; return a row each."""
    place = next(
        (k for k, f in enumerate(_surface.approaches(study)) if f.approach == "isoflop"), None
    )
    if place is None:
        return []
    color = _look.group_style(place)["color"]
    rows = []
    for valley in valleys(study, axis):
        if valley.rejected:
            continue
        for axes, by in ((top, 1.0), (strip, float(best(valley.budget)))):
            reach = [[valley.best - valley.low], [valley.high - valley.best]]
            bars = np.array(reach) / by if np.isfinite(reach).all() else None
            axes.errorbar(
                valley.budget,
                valley.best / by,
                yerr=bars,
                color=color,
                marker="*",
                ms=7 if by == 1.0 else 5,
                mec=_look.INK,
                mew=0.4,
                lw=0.8,
                capsize=1.5,
                zorder=4,
            )
        row = {"what": "minimum", "axis": axis, "flops": valley.budget, "value": valley.best}
        rows.append(row | {"low": valley.low, "high": valley.high})
    return rows


def _write_exponents(axes: Axes, approaches: list[FitResult], axis: str) -> None:
    """Write each approach's exponent with its interval inside the panel."""
    symbol = "N" if axis == "params" else "D"
    for place, fit in enumerate(approaches):
        found = fit.exponents[axis]
        text = f"{symbol}* ∝ $C^{{{found['value']:.3f}}}$"
        if found.get("low") is not None and not is_tied(fit):
            text += f"  [{found['low']:.3f}, {found['high']:.3f}]"
        axes.text(
            0.03,
            0.96 - 0.085 * place,
            text,
            transform=axes.transAxes,
            color=_look.text_color(_look.group_style(place)["color"]),
            fontsize=7,
            va="top",
        )


def _finish(top: Axes, strip: Axes, axis: str, study: Study) -> None:
    label = _axes.params_label(study.params_kind) if axis == "params" else _axes.tokens_label()
    top.set_ylabel(label.replace("N (", "N* (").replace("D (", "D* ("))
    strip.set_ylabel("Ratio to\nbest fit (1)")
    strip.set_xlabel(_axes.flops_label(study.flops_kind, study.params_kind))
    _axes.finish_log(top.yaxis)
    _limit_strip(strip)
    for axes in (top, strip):
        _axes.finish_log(axes.xaxis, _axes.power_text, most=5)


def _limit_strip(strip: Axes) -> None:
    """Keep the strip readable: at least 5 % and at most a factor of 3 around one."""
    low, high = sorted(strip.get_ylim())
    reach = min(max(high, 1.0 / low, 1.05), 3.0)
    strip.set_ylim(1.0 / reach, reach)
    half = max([t for t in _STRIP_TICKS if t <= reach**0.8], default=_STRIP_TICKS[0])
    ticks = [1.0 / half, 1.0, half]
    strip.yaxis.set_major_locator(FixedLocator(ticks))
    strip.yaxis.set_major_formatter(FixedFormatter([_strip_text(t) for t in ticks]))
    strip.yaxis.set_minor_locator(NullLocator())


def _strip_text(ratio: float) -> str:
    return f"{ratio:.2f}".rstrip("0").rstrip(".")


def _keys(study: Study, approaches: list[FitResult]) -> list[Any]:
    handles = []
    for place, fit in enumerate(approaches):
        style = _style(place) if place else {"color": _style(0)["color"], "ls": "-"}
        handles.append(_look.key(_surface.WORDS[fit.approach], lw=1.3, **style))
    handles.append(
        _look.key("extrapolated", color=_style(0)["color"], lw=1.2, ls=_look.EXTRAPOLATED)
    )
    place = next((k for k, f in enumerate(approaches) if f.approach == "isoflop"), None)
    if place is not None and any(not v.rejected for v in valleys(study, "params")):
        color = _look.group_style(place)["color"]
        handles.append(_look.key_of_role("minimum", "a budget's minimum", color))
    return handles


def _caption(approaches: list[FitResult], measured: tuple[float, float]) -> str:
    low, high = map(write_flops, measured)
    parts = [
        "Compute-optimal parameters (a) and tokens (b) over compute; the strips below show every "
        "approach's ratio to the first. Solid where compute was measured "
        f"(shaded, {low} to {high} FLOPs), dashed beyond; bands and error "
        "bars are 90 % intervals."
    ]
    for fit in approaches:
        found = fit.exponents["params"]
        text = f"{_surface.WORDS[fit.approach]}: N* grows as C^{found['value']:.3f}"
        if is_tied(fit):
            text += ", set beforehand and not by the runs"
        elif found.get("low") is not None:
            text += f" [{found['low']:.3f}, {found['high']:.3f}]"
        parts.append(f"{text[0].upper()}{text[1:]}{local_words(fit)}.")
    return " ".join(parts)


PLOT = Plot(
    name="frontier",
    title="Compute-optimal frontier",
    shows="N* and D* over compute by every approach, with bands, minima and extrapolation",
    needs=("runs", "fit"),
    draw=draw,
)
