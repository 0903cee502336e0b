"""Roll-out: fit below each budget, predict above it, and watch error and exponent settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.rollout import rollout
from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot, is_of_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_SPAN = 0.01
"""Of the exponent's axis: below that only rounding differs, or nothing that a budget turns on."""

Entry = Mapping[str, Any]


def draw(study: Study) -> Drawing:
    """Draw the error of what lies above each cut, and the exponent of what lies below it."""
    assert study.table is not None
    assert study.fit is not None
    fits = (study.fit, *study.fit.others)
    laws = list(dict.fromkeys(fit.law for fit in fits if is_of_loss(fit)))
    entries = rollout(study.table, study.fit, laws)
    if not entries:
        raise CannotDrawError("no budget leaves enough runs below it to fit and any above it")
    laws = [law for law in laws if any(e["law"] == law for e in entries)]
    # A law whose form sets its exponents has none that could settle.
    has_exponent = any(e["exponent_params"] is not None for e in entries)
    size = (_look.DOUBLE, 2.7) if has_exponent else (_look.SINGLE, 3.3)
    figure = _look.new_figure(*size)
    panels = np.atleast_1d(figure.subplots(1, 2 if has_exponent else 1))
    left = panels[0]
    for place, law in enumerate(laws):
        mine = [e for e in entries if e["law"] == law]
        _draw_errors(left, mine, place)
        if has_exponent:
            _draw_exponents(panels[1], mine, place)
    _draw_baseline(left, entries, laws[0])
    for axes in panels:
        axes.set(xscale="log", xlim=_axes.widen(np.array([e["cut"] for e in entries]), 0.08))
        label = _axes.flops_label(study.flops_kind, study.params_kind)
        axes.set_xlabel(label.replace("Training compute C", "Fitted up to C"))
        _axes.finish_log(axes.xaxis, _axes.power_text, most=4)
    left.set_yscale("log")
    left.set_ylabel("Mean absolute error above the cut (%)")
    _axes.finish_log(left.yaxis, _percent_text, most=6)
    if has_exponent:
        _draw_headline(panels[1], study)
        panels[1].set_ylabel("Exponent a of N* ∝ $C^a$ (1)")
        low, high = panels[1].get_ylim()
        if high - low < _LEAST_SPAN:
            middle = (low + high) / 2
            panels[1].set_ylim(middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2)
        _axes.finish_plain(panels[1].yaxis)
        for letter, axes in zip("ab", panels, strict=True):
            _look.panel_letter(axes, letter)
    _look.legend_below(figure, _keys(laws, has_exponent=has_exponent))
    caption = _caption(entries, laws[0], has_exponent=has_exponent)
    return Drawing(figure, [dict(e) for e in entries], caption)


def _percent_text(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-3 else _axes.power_text(value)


def _draw_errors(axes: Axes, entries: Sequence[Entry], place: int) -> None:
    """Draw the error of all runs above each cut, filled, and of the next budget's, hollow."""
    style = _look.group_style(place)
    color, marker = style["color"], style["marker"]
    for name, face, dash in (("mape", color, "-"), ("next_mape", "white", _look.EXTRAPOLATED)):
        seen = [e for e in entries if e[name]]
        axes.plot(
            [e["cut"] for e in seen],
            [100.0 * e[name] for e in seen],
            color=color,
            ls=dash,
            lw=1.0,
            marker=marker,
            ms=4,
            mfc=face,
            mew=0.8,
        )


def _draw_baseline(axes: Axes, entries: Sequence[Entry], law: str) -> None:
    mine = [e for e in entries if e["law"] == law]
    errors = [100.0 * e["baseline_mape"] for e in mine]
    axes.plot([e["cut"] for e in mine], errors, color=_look.MUTED, lw=0.8, ls=(0, (1, 2)))


def _draw_exponents(axes: Axes, entries: Sequence[Entry], place: int) -> None:
    style = _look.group_style(place)
    told = [
        e for e in entries if e["exponent_params"] is not None and e["status"] != "UNIDENTIFIED"
    ]
    axes.plot(
        [e["cut"] for e in told],
        [e["exponent_params"] for e in told],
        color=style["color"],
        marker=style["marker"],
        ls="-",
        lw=1.0,
        ms=4,
    )


def _draw_headline(axes: Axes, study: Study) -> None:
    """Shade the whole fit's own exponent and its interval."""
    assert study.fit is not None
    found = study.fit.exponents.get("params", {})
    if found.get("low") is not None:
        axes.axhspan(found["low"], found["high"], color=_look.MEASURED, lw=0, zorder=-2)
    if found.get("value") is not None:
        axes.axhline(found["value"], color=_look.MUTED, lw=0.8, zorder=-1)


def _keys(laws: Sequence[str], *, has_exponent: bool) -> list[Any]:
    keys = []
    for place, law in enumerate(laws):
        style = _look.group_style(place)
        color, marker = style["color"], style["marker"]
        keys.append(_look.key(f"{law}, all above", color=color, marker=marker, ms=4))
        hollow = {"mfc": "white", "mew": 0.8, "ls": _look.EXTRAPOLATED, "ms": 4}
        keys.append(_look.key(f"{law}, next budget", color=color, marker=marker, **hollow))
    keys.append(_look.key("no fit: best loss so far", color=_look.MUTED, ls=(0, (1, 2))))
    if has_exponent:
        keys.append(_look.key("all runs, with interval", color=_look.MUTED, lw=0.8))
    return keys


def _caption(entries: Sequence[Entry], law: str, *, has_exponent: bool) -> str:
    mine = [e for e in entries if e["law"] == law]
    first, last = mine[0], mine[-1]
    shown = "its error above the cut (a) and its exponent (b)"
    parts = [
        f"The law fitted below each cut: {shown if has_exponent else 'its error above the cut'}. "
        f"Fitted to the lowest {first['n_train']} runs, {law} misses the {first['n_test']} above "
        f"by {100 * first['mape']:.2g} %; fitted to {last['n_train']}, it misses the last "
        f"{last['n_test']} by {100 * last['mape']:.2g} %, against {100 * last['baseline_mape']:.2g}"
        " % without any fit."
    ]
    poor = sorted({e["status"] for e in entries} - {"CONVERGED"})
    if poor:
        count = sum(e["status"] in poor for e in entries)
        parts.append(
            f"{count} of {len(entries)} fits did not pass their gate ({', '.join(poor)}); one that "
            "is not identified has no exponent."
        )
    return " ".join(parts)


PLOT = Plot(
    name="rollout",
    title="Roll-out",
    shows="the held-out error and the exponent as the fitted budgets grow",
    needs=("runs", "law"),
    draw=draw,
)
