"""Loss curves: training and held-out loss, learning rate and gradient norm over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Curve, Study
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPIKE = 5.0
"""A gradient norm this many times its own running median is flagged."""

_WINDOW = 7
"""Points of the running median."""


def draw(study: Study) -> Drawing:
    """Draw four panels over tokens: training loss, held-out loss, learning rate, gradient norm."""
    curves = [c for c in study.curves if c.steps or c.evals]
    figure = _look.new_figure(_look.DOUBLE, 4.4)
    panels = figure.subplots(2, 2, sharex=True)
    labels = {
        "loss": _axes.loss_label(study.loss_unit, "Training loss"),
        "val_loss": _axes.loss_label(study.loss_unit, "Held-out loss"),
        "lr": "Learning rate (per step)",
        "grad_norm": "Gradient norm (before clipping)",
    }
    norm = _look.compute_norm(np.array([c.params for c in curves]))
    shown: list[dict[str, Any]] = []
    for letter, axes, (name, label) in zip("abcd", panels.flat, labels.items(), strict=True):
        for curve in curves:
            shown += _draw_curve(axes, curve, name, norm, _most_points(len(curves)))
        axes.set_ylabel(label)
        _look.panel_letter(axes, letter)
    for axes in panels[1]:
        axes.set_xlabel(_axes.tokens_label())
    flagged = _flag_spikes(panels[1, 1], curves)
    _finish(panels, curves)
    label = _axes.params_label(study.params_kind)
    _axes.finish_log(_axes.color_bar(figure, panels, norm, label, aspect=40))
    return Drawing(figure, shown, _caption(curves, flagged))


def _lines(curve: Curve, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and a quantity (n,) of one run where both are positive numbers."""
    lines = curve.evals if name == "val_loss" else curve.steps
    if name not in lines or "tokens" not in lines:
        return np.empty(0), np.empty(0)
    x, y = lines["tokens"], lines[name]
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    return x[keep], y[keep]


def _draw_curve(axes: Axes, curve: Curve, name: str, norm: Any, most: int) -> list[dict[str, Any]]:
    x, y = _lines(curve, name)
    if x.size == 0:
        return []
    place = _thin(x.size, most)
    color, diverged = _look.SEQUENCE(norm(curve.params)), curve.status == "diverged"
    axes.plot(x[place], y[place], color=color, lw=0.7, ls=_look.DASHES[1] if diverged else "-")
    if diverged and name in ("loss", "val_loss"):
        axes.scatter(x[-1:], y[-1:], color=color, **_look.POINT["diverged"])
    keys = {"run": curve.run, "params": curve.params, "quantity": name}
    return [{**keys, "tokens": x[k], "value": y[k]} for k in place.tolist()]


def _most_points(n_curves: int) -> int:
    """Return how many points to draw a curve: more are invisible and make the SVG heavy."""
    return max(25, min(300, 3000 // max(1, n_curves)))


def _thin(size: int, most: int) -> np.ndarray:
    """Choose at most `most` places, evenly in log steps so that the start is kept."""
    if size <= most:
        return np.arange(size)
    return np.unique(np.geomspace(1, size, most).astype(int)) - 1


def _flag_spikes(axes: Axes, curves: list[Curve]) -> int | None:
    """Mark gradient norms far above their surroundings; None where none was recorded."""
    flagged = None
    for curve in curves:
        x, y = _lines(curve, "grad_norm")
        if y.size < _WINDOW:
            continue
        padded = np.pad(y, _WINDOW // 2, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)
        spike = y > _SPIKE * np.median(windows, axis=1)
        axes.scatter(x[spike], y[spike], marker="x", s=10, color=_look.GROUPS[1], lw=0.8, zorder=5)
        flagged = (flagged or 0) + int(spike.sum())
    return flagged


def _finish(panels: np.ndarray, curves: list[Curve]) -> None:
    for axes in panels.flat:
        axes.set(xscale="log", yscale="log")
        if not axes.lines:
            axes.set_axis_off()
    for axes, text in zip(panels.flat, (None, None, _axes.rate_text, _axes.rate_text), strict=True):
        if text is None:
            _axes.finish_loss(axes.yaxis)
        else:
            _axes.finish_log(axes.yaxis, text)
    firsts = [_first_tokens(c) for c in curves]
    lasts = [float(g["tokens"].max()) for c in curves for g in (c.steps, c.evals) if "tokens" in g]
    if not lasts:
        raise CannotDrawError("the run records hold no tokens to draw curves over")
    panels[0, 0].set_xlim(min(firsts) * 0.9, max(lasts) * 1.1)
    for axes in panels.flat:
        _axes.finish_log(axes.xaxis)


def _first_tokens(curve: Curve) -> float:
    tokens = curve.steps.get("tokens", curve.evals.get("tokens", np.array([1.0])))
    positive = tokens[tokens > 0]
    return float(positive.min()) if positive.size else 1.0


def _caption(curves: list[Curve], flagged: int | None) -> str:
    parts = [f"Curves of {count_words(len(curves), 'run')}, coloured by parameters."]
    bad = sorted(c.run for c in curves if c.status == "diverged")
    if bad:
        parts.append(f"Dashed with a triangle: diverged ({', '.join(bad)}).")
    if flagged:
        norms = count_words(flagged, "gradient norm")
        parts.append(f"Crosses: {norms} more than {_SPIKE:g} times their surroundings.")
    elif flagged == 0:
        parts.append("No gradient norm stands out from its surroundings.")
    return " ".join(parts)


PLOT = Plot(
    name="curves",
    title="Loss curves",
    shows="every run's training and held-out loss, learning rate and gradient norm over tokens",
    needs=("curves",),
    draw=draw,
)
