"""Two steps to a task: its loss from the run, its accuracy from the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.analysis.words import loss_words
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import is_drawn, rows_of, scatter_runs
from scalekit.plots.base import CannotDrawError, Drawing, Plot, is_of_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scalekit.fit.result import FitResult

_MOST = 8
"""Sizes for which the first step is drawn."""


def draw(study: Study) -> Drawing:
    """Draw task loss over compute with its law, and accuracy over task loss with its link."""
    loss, accuracy = task_loss(study), study.column("accuracy")
    used = study.is_used & np.isfinite(loss * accuracy)
    if used.sum() < 2:
        raise CannotDrawError("fewer than two runs in use have both a task loss and an accuracy")
    figure = _look.new_figure(_look.DOUBLE, 2.9)
    panels = figure.subplots(1, 2)
    N = study.column("params")
    norm = _look.compute_norm(N[used])
    colors = _look.SEQUENCE(norm(np.where(N > 0, N, float(np.nanmin(N[used])))))
    rows = rows_of(study, is_drawn(study), task_loss=loss, accuracy=accuracy)
    rows += _draw_first(panels[0], study, loss, used, norm)
    handles = scatter_runs(panels[0], study, study.flops, loss, colors, size=0.9)
    rows += _draw_second(panels[1], study, loss, used)
    scatter_runs(panels[1], study, loss, accuracy, colors, size=0.9)
    for letter, axes in zip("ab", panels, strict=True):
        _look.panel_letter(axes, letter)
    label = _axes.params_label(study.params_kind)
    _axes.finish_log(_axes.color_bar(figure, panels, norm, label, aspect=25))
    _look.legend_below(figure, [*handles, *_keys(study)])
    return Drawing(figure, rows, _caption(study, loss, accuracy, used))


def task_loss(study: Study) -> np.ndarray:
    """Return the task's loss (n,): its own column, or the table's loss where there is none."""
    own = study.column("task_loss")
    return own if np.isfinite(own).any() else study.column("loss")


def _first_fit(study: Study) -> FitResult | None:
    """Return the first step's fit: a law of the run, where the table's loss is the task's."""
    is_same = np.array_equal(task_loss(study), study.column("loss"), equal_nan=True)
    for fit in _fits(study) if is_same else ():
        if is_of_loss(fit) and set(registry.find("laws", fit.law).inputs) <= {"N", "D", "C"}:
            return fit
    return None


def _link_fit(study: Study) -> FitResult | None:
    """Return the fit of the second step: of a law of the loss alone."""
    links = (f for f in _fits(study) if registry.find("laws", f.law).inputs == ("L",))
    return next(links, None)


def _fits(study: Study) -> list[FitResult]:
    every = (study.fit, *study.fit.others) if study.fit is not None else ()
    return [fit for fit in every if fit.approach == "parametric"]


def _linked(
    fit: FitResult, loss: np.ndarray, theta: Mapping[str, float] | None = None
) -> np.ndarray:
    """Return the accuracy (n,) that a link gives losses (n,), NaN where there is no loss."""
    law = registry.find("laws", fit.law)
    out = np.full(loss.shape, np.nan)
    known = np.isfinite(loss)
    out[known] = law.predict(theta or fit.theta, {"L": loss[known]})
    return out


def _loss_label(study: Study) -> str:
    return f"Task loss ({loss_words(study.loss_unit)})"


def _draw_first(
    axes: Axes, study: Study, loss: np.ndarray, used: np.ndarray, norm: Any
) -> list[dict[str, Any]]:
    axes.set(xscale="log", yscale="log")
    axes.set(xlim=_axes.widen(study.flops[used], 0.06), ylim=_axes.widen(loss[used], 0.08))
    axes.set_xlabel(_axes.flops_label(study.flops_kind, study.params_kind))
    axes.set_ylabel(_loss_label(study))
    _axes.finish_log(axes.xaxis, _axes.power_text, most=5)
    _axes.finish_loss(axes.yaxis)
    fit = _first_fit(study)
    if fit is None:
        return []
    N, D = study.column("params"), study.column("tokens")
    sizes = np.unique(N[used])
    sizes = sizes[np.linspace(0, sizes.size - 1, min(_MOST, sizes.size)).round().astype(int)]
    rows = []
    for size in sizes.tolist():
        mine = D[used & (size == N)]
        tokens = np.geomspace(float(mine.min()) / 1.3, float(mine.max()) * 1.3, 33)
        flops = tokens / _surface.tokens_at(study, 1.0, np.array([size]))
        L = _surface.loss(fit, np.full(tokens.shape, size), tokens)
        axes.plot(flops, L, color=_look.SEQUENCE(norm(size)), lw=0.9, zorder=2)
        told = {"what": "law", "params": size}
        rows += [
            {**told, "flops": a, "tokens": b, "task_loss": c}
            for a, b, c in zip(flops[::4], tokens[::4], L[::4], strict=True)
        ]
    return rows


def _draw_second(
    axes: Axes, study: Study, loss: np.ndarray, used: np.ndarray
) -> list[dict[str, Any]]:
    """Draw the link, solid over the losses it was fitted to and dashed beyond."""
    low, high = _axes.widen(loss[used], 0.08)
    axes.set(xscale="log", xlim=(low, high))
    shown = study.column("accuracy")[used]
    room = 0.08 * max(float(np.ptp(shown)), 0.01)
    axes.set_ylim(float(shown.min()) - room, float(shown.max()) + room)
    axes.set_xlabel(_loss_label(study))
    axes.set_ylabel("Accuracy (share of right answers)")
    _axes.finish_loss(axes.xaxis)
    _axes.finish_plain(axes.yaxis)
    fit = _link_fit(study)
    if fit is None:
        return []
    fitted = loss[used & (study.roles == "fitted")]
    ends = (low, float(fitted.min())), (float(fitted.max()), high)
    parts = [("link", (float(fitted.min()), float(fitted.max())), "-")]
    parts += [("link, extrapolated", end, _look.EXTRAPOLATED) for end in ends]
    rows = []
    for what, (start, stop), dash in parts:
        x = np.geomspace(start, stop, 49)
        y = _linked(fit, x)
        axes.plot(x, y, color=_look.INK, lw=1.1, ls=dash, zorder=2)
        rows += [
            {"what": what, "task_loss": a, "accuracy": b}
            for a, b in zip(x[::4], y[::4], strict=True)
        ]
    return rows


def _keys(study: Study) -> list[Any]:
    keys = []
    if (first := _first_fit(study)) is not None:
        keys.append(_look.key(f"{first.law}, by size (a)", color=_look.MUTED, lw=0.9))
    if (link := _link_fit(study)) is not None:
        keys.append(_look.key(f"{_name(link)} (b)", color=_look.INK, lw=1.1))
    return keys


def _name(fit: FitResult) -> str:
    return registry.find("laws", fit.law).name.replace("_", " ")


def _caption(study: Study, loss: np.ndarray, accuracy: np.ndarray, used: np.ndarray) -> str:
    shown = accuracy[used]
    parts = [
        f"Task loss over compute (a) and accuracy over task loss (b) of {int(used.sum())} runs, "
        f"whose accuracy runs from {shown.min():.3g} to {shown.max():.3g}."
    ]
    first, link = _first_fit(study), _link_fit(study)
    if link is None:
        parts.append("No link from loss to accuracy was fitted.")
        return " ".join(parts)
    miss = 100.0 * np.abs(_linked(link, loss) - accuracy)
    parts.append(f"The link misses the accuracies by {np.nanmean(miss[used]):.2g} points on mean.")
    held = used & (study.roles == "held_out")
    if first is not None and held.any():
        # Neither step may have seen them.
        predicted = _surface.predictions(study, first)
        unseen = link.holdout.get("theta")
        both = 100.0 * np.abs(_linked(link, predicted, unseen) - accuracy)
        parts.append(
            f"Through both steps the {int(held.sum())} held-out runs are missed by "
            f"{np.nanmean(both[held]):.2g} points."
        )
    return " ".join(parts)


PLOT = Plot(
    name="two_step",
    title="Two steps to a task",
    shows="a task's loss over compute, and its accuracy over that loss",
    needs=("runs", "accuracy"),
    draw=draw,
)
