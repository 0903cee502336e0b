"""All loss curves over compute with their lower envelope and its hull (approach 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot

_MOST_LINES = 400


def draw(study: Study) -> Drawing:
    """Draw held-out loss over compute, coloured by size, and the points that the hull keeps."""
    curves = [c for c in study.curves if {"flops", "val_loss"} <= set(c.evals)]
    lines = [(c.run, c.params, c.evals["flops"], c.evals["val_loss"]) for c in curves]
    if not lines:
        raise CannotDrawError("no run record holds evaluations with their FLOPs")
    figure = _look.new_figure(_look.SINGLE, 2.7)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    norm = _look.compute_norm(np.array([params for _, params, _, _ in lines]))
    rows: list[dict[str, Any]] = []
    for run, params, flops, loss in lines[:_MOST_LINES]:
        keep = (flops > 0) & (loss > 0)
        axes.plot(flops[keep], loss[keep], color=_look.SEQUENCE(norm(params)), lw=0.7, zorder=2)
        for c, value in zip(flops[keep], loss[keep], strict=True):
            rows.append({"what": "curve", "run": run, "params": params, "flops": c, "loss": value})
    lower = _lower(lines)
    axes.plot(*lower, color=_look.MUTED, lw=0.9, ls=_look.EXTRAPOLATED, zorder=3)
    rows += [{"what": "envelope", "flops": c, "loss": v} for c, v in zip(*lower, strict=True)]
    hull = _hull(study)
    handles = [_look.key("lower envelope", color=_look.MUTED, lw=0.9, ls=_look.EXTRAPOLATED)]
    if hull:
        C, L = (np.array([p[name] for p in hull]) for name in ("flops", "loss"))
        axes.plot(C, L, color=_look.INK, lw=1.2, zorder=3)
        axes.scatter(C, L, color=_look.INK, s=5, zorder=4)
        rows += [{"what": "hull", **point} for point in hull]
        handles.append(_look.key("hull of the fit", color=_look.INK, marker="o", ms=2.5))
    axes.set_xlabel(_axes.flops_label(study.flops_kind, study.params_kind))
    axes.set_ylabel(_axes.loss_label(study.loss_unit, "Held-out loss"))
    _axes.finish_log(axes.xaxis, _axes.power_text, most=5)
    _axes.finish_loss(axes.yaxis)
    label = _axes.params_label(study.params_kind, short=True)
    _axes.finish_log(_axes.color_bar(figure, axes, norm, label))
    _look.legend_below(figure, handles)
    return Drawing(figure, rows, _caption(study, len(lines), hull))


def _lower(lines: Sequence[tuple[str, float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return compute and the least loss that any curve reaches with no more of it: (2, k)."""
    C = np.concatenate([flops for _, _, flops, _ in lines])
    L = np.concatenate([loss for _, _, _, loss in lines])
    known = (C > 0) & (L > 0)
    order = np.argsort(C[known])
    C, least = C[known][order], np.minimum.accumulate(L[known][order])
    kept = np.concatenate([[True], np.diff(least) < 0])
    return np.stack([C[kept], least[kept]])


def _hull(study: Study) -> list[dict[str, Any]]:
    fit = study.other("envelope")
    return [dict(p) for p in fit.diagnostics.get("hull", ())] if fit is not None else []


def _caption(study: Study, count: int, hull: list[dict[str, Any]]) -> str:
    parts = [
        f"Held-out loss of {count} runs over compute, coloured by parameters. Dashed: the least "
        "loss that any run reached with no more compute, schedules half-way included."
    ]
    fit = study.other("envelope")
    if hull and fit is not None:
        parts.append(f"Heavy: the hull that approach 1 fits, {fit.message}.")
    if count > _MOST_LINES:
        parts.append(f"The first {_MOST_LINES} are drawn.")
    return " ".join(parts)


PLOT = Plot(
    name="envelope",
    title="Envelope of the loss curves",
    shows="held-out loss of every run over compute, with the hull of the lower envelope",
    needs=("curves",),
    draw=draw,
)
