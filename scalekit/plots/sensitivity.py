"""Sensitivity: a forest of the exponent under choices that papers rarely record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.sensitivity import exponent_table
from scalekit.analysis.study import Study
from scalekit.analysis.words import params_words
from scalekit.plots import _axes, _look, _surface
from scalekit.plots.base import CannotDrawError, Drawing, Plot, is_of_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 0.17
"""Inches of a line of the forest."""

_WORDS = {
    "hoffmann": "Huber, delta 0.001",
    "mse_log": "least squares, log loss",
    "mse": "least squares, loss",
    "huber, delta 0.01": "Huber, delta 0.01",
    "huber, delta 0.0001": "Huber, delta 0.0001",
    "isoflop": "parabolas",
    "isoflop_akima": "Akima's curves",
}

Entry = Mapping[str, Any]


def draw(study: Study) -> Drawing:
    """Draw the exponent of N* refitted under each choice, with its interval, group by group."""
    assert study.table is not None
    assert study.fit is not None
    if not _surface.has_frontier(study):
        raise CannotDrawError("the fitted law gives no exponent of the compute-optimal size")
    tied = study.fit.exponents["params"]
    if tied.get("low") is not None and tied["low"] == tied["high"]:
        raise CannotDrawError(
            f"{study.fit.law} has one exponent for params and tokens, so that of the "
            f"compute-optimal size is {tied['value']:.3g} whatever the runs say"
        )
    # A link from loss to accuracy may stand beside the law; it has no exponent to move.
    kept = tuple(f for f in study.fit.others if f.approach != "parametric" or is_of_loss(f))
    entries = exponent_table(study.table, replace(study.fit, others=kept))
    lines = _lines(entries)
    figure = _look.new_figure(_look.DOUBLE, _HEIGHT * len(lines) + 0.6)
    axes = figure.add_subplot()
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(*_limits(entries))
    _draw_headline(axes, entries[0])
    for place, line in enumerate(lines):
        if isinstance(line, str):
            _write(axes, line, place, "left", fontweight="bold")
        else:
            _draw_entry(axes, line, place, _group_of(line, entries))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Exponent a of N* ∝ $C^a$ (1)")
    _axes.finish_plain(axes.xaxis, most=6)
    return Drawing(figure, [dict(entry) for entry in entries], _caption(entries))


def _lines(entries: Sequence[Entry]) -> list[str | Entry]:
    """List the forest's lines from the top: each group's name above its variants."""
    lines: list[str | Entry] = []
    group = ""
    for entry in entries:
        if entry["group"] != group:
            group = entry["group"]
            lines.append(f"{group[0].upper()}{group[1:]}")
        lines.append(entry)
    return lines


def _group_of(entry: Entry, entries: Sequence[Entry]) -> int:
    return list(dict.fromkeys(e["group"] for e in entries)).index(entry["group"])


def _limits(entries: Sequence[Entry]) -> tuple[float, float]:
    """Hold every value, and the intervals as far as they do not press the values together."""
    told = [e for e in entries if e["value"] is not None]
    values = np.array([e["value"] for e in told])
    head = [entries[0][end] for end in ("low", "high") if entries[0][end] is not None]
    low, high = min(values.min(), *head), max(values.max(), *head)
    room = max(0.5 * (high - low), 0.01)
    ends = [e[end] for e in told for end in ("low", "high") if e[end] is not None]
    near = [v for v in ends if low - room < v < high + room]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _draw_headline(axes: Axes, head: Entry) -> None:
    """Shade the fit's own interval and draw its value down the whole forest."""
    if head["low"] is not None:
        axes.axvspan(head["low"], head["high"], color=_look.MEASURED, lw=0, zorder=-2)
    axes.axvline(head["value"], color=_look.MUTED, lw=0.7, zorder=-1)


def _write(axes: Axes, text: str, place: int, side: str, **style: Any) -> None:
    """Write a line's text outside the axes, left or right of them."""
    is_left = side == "left"
    axes.annotate(
        text,
        (0 if is_left else 1, place),
        xycoords=("axes fraction", "data"),
        xytext=(-6 if is_left else 6, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
        fontsize=7,
        annotation_clip=False,
        **style,
    )


def _draw_entry(axes: Axes, entry: Entry, place: int, group: int) -> None:
    _write(axes, _words(entry), place, "left")
    if entry["value"] is None:
        _write(axes, shorten(f"none: {entry['status']}", 34), place, "right", color=_look.MUTED)
        return
    style = _look.group_style(group)
    color, low, high = style["color"], entry["low"], entry["high"]
    if low is not None:
        axes.plot((low, high), (place, place), color=color, lw=1.1, solid_capstyle="butt")
    axes.scatter(
        entry["value"], place, marker=style["marker"], s=17, color=color, edgecolors=_look.INK,
        linewidths=0.4, zorder=4,
    )  # fmt: skip
    text = f"{entry['value']:.3f}"
    if low is not None:
        text += f"  [{low:.3f}, {high:.3f}]"
    _write(axes, f"{text}   n = {entry['n_runs']}", place, "right")


def _words(entry: Entry) -> str:
    variant = str(entry["variant"])
    if entry["group"] == "params count":
        return params_words(variant)
    return _WORDS.get(variant, variant)


def _caption(entries: Sequence[Entry]) -> str:
    head = entries[0]
    told = [e for e in entries[1:] if e["value"] is not None]
    parts = ["The exponent of N* refitted with one choice changed at a time."]
    if told:
        values = [e["value"] for e in told]
        far = max(told, key=lambda e: abs(e["value"] - head["value"]))
        parts.append(
            f"It runs from {min(values):.3f} to {max(values):.3f}; farthest from the fit's own "
            f"{head['value']:.3f} is {_words(far)} ({far['group']})."
        )
    if head["low"] is not None:
        inside = sum(head["low"] <= e["value"] <= head["high"] for e in told)
        parts.append(
            f"{inside} of {len(told)} variants lie inside the fit's own interval (shaded)."
        )
    silent = len(entries) - 1 - len(told)
    if silent:
        parts.append(f"{silent} {'variants give' if silent > 1 else 'variant gives'} no exponent.")
    return " ".join(parts)


PLOT = Plot(
    name="sensitivity",
    title="Sensitivity of the exponent",
    shows="the exponent of N* under other objectives, counts, approaches and slices of the runs",
    needs=("runs", "law"),
    draw=draw,
)
