"""Noise: the spread of the loss between seeds, over the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.noise import Repeats, pooled, pooled_words, repeats, spread_interval
from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POOLED: Any = "-"
_RESIDUAL: Any = (0, (5, 1.6))
_EVALUATION: Any = (0, (1, 2))


def draw(study: Study) -> Drawing:
    """Draw each setting's spread between seeds beside the fit's residuals and the evaluation."""
    found = repeats(study)
    if not found:
        raise CannotDrawError("no setting was run with two seeds or more")
    if not any(one.spread for one in found):
        raise CannotDrawError("runs that differ in their seed have equal losses, to the last digit")
    figure = _look.new_figure(_look.SINGLE, 2.8)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    loss = np.array([one.loss for one in found])
    axes.set_xlim(*_axes.widen(loss, 0.08))
    norm = _look.compute_norm(np.array([one.params for one in found]))
    for one in (one for one in found if one.spread):
        _draw_setting(axes, one, _look.SEQUENCE(norm(one.params)))
    levels = _levels(study, found)
    x = np.geomspace(*axes.get_xlim(), 33)
    for _, share, size, dash in levels:
        axes.plot(x, share * x + size, color=_look.MUTED, lw=0.9, ls=dash, zorder=1)
    axes.set_xlabel(_axes.loss_label(study.loss_unit, "Mean loss"))
    axes.set_ylabel(_axes.loss_label(study.loss_unit, "Deviation of seeds"))
    _axes.finish_loss(axes.xaxis)
    _limit(axes, found, levels)
    _axes.finish_log(axes.yaxis, _axes.rate_text)
    label = _axes.params_label(study.params_kind, short=True)
    _axes.finish_log(_axes.color_bar(figure, axes, norm, label), most=5)
    keys = [_look.key(word, color=_look.MUTED, lw=0.9, ls=dash) for word, _, _, dash in levels]
    _look.legend_below(figure, [_look.key_of_role("fitted", "a setting"), *keys])
    return Drawing(figure, _rows(found, levels), _caption(found, levels))


def _draw_setting(axes: Axes, one: Repeats, color: Any) -> None:
    axes.plot((one.loss, one.loss), (one.low, one.high), color=color, lw=0.9, zorder=3)
    axes.scatter(one.loss, one.spread, color=color, **_look.POINT["fitted"])


Level = tuple[str, float, float, Any]
"""A line: what it is, the share of the loss and the constant that make it, its dash."""


def _levels(study: Study, found: Sequence[Repeats]) -> list[Level]:
    """List the spreads to compare with: all seeds together, the fit's residuals, the evaluation."""
    levels: list[Level] = [("all settings together", pooled(found)[0], 0.0, _POOLED)]
    noise = study.fit.diagnostics.get("noise") if study.fit is not None else None
    if noise:
        levels.append(("residuals of the fit", float(noise), 0.0, _RESIDUAL))
    sem = study.column("loss_sem")[study.is_used]
    if np.isfinite(sem).any():
        size = float(np.nanmedian(sem))
        levels.append(("error of an evaluation", 0.0, size, _EVALUATION))
    return levels


def _limit(axes: Axes, found: Sequence[Repeats], levels: Sequence[Level]) -> None:
    """Hold every setting and line; the intervals of two seeds may run off."""
    middle = float(np.median([one.loss for one in found]))
    seen = [one.spread for one in found if one.spread > 0]
    seen += [share * middle + size for _, share, size, _ in levels]
    ends = np.array([end for one in found for end in (one.low, one.high)])
    axes.set_ylim(*_axes.widen_to(np.array(seen), ends, 0.12, share=0.7))


def _rows(found: Sequence[Repeats], levels: Sequence[Level]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "what": "setting",
            "runs": " ".join(one.runs),
            "params": one.params,
            "tokens": one.tokens,
            "flops": one.flops,
            "loss": one.loss,
            "spread": one.spread,
            "low": one.low,
            "high": one.high,
        }
        for one in found
    ]
    rows += [
        {"what": word, "share_of_loss": share, "constant": size} for word, share, size, _ in levels
    ]
    return rows


def _caption(found: Sequence[Repeats], levels: Sequence[Level]) -> str:
    low, high = spread_interval(*pooled(found))
    runs = sum(len(one.runs) for one in found)
    settings = f"{len(found)} settings" if len(found) > 1 else "one setting"
    text = (
        f"Standard deviation of the loss between seeds of {settings} in {runs} runs, coloured by "
        f"parameters, with 90 % intervals by chi-squared. All together: {pooled_words(found)}."
    )
    equal = sum(not one.spread for one in found)
    if equal:
        text += f" Not drawn: {count_words(equal, 'setting')} whose losses are equal."
    residual = next((level[1] for level in levels if level[3] == _RESIDUAL), None)
    if residual is not None:
        side = "within" if low <= residual <= high else "above" if residual > high else "below"
        text += f" The fit's residuals, {100 * residual:.2g} %, lie {side} that interval."
    if any(level[3] == _EVALUATION for level in levels):
        text += " Runs that share a validation set share its error, which this spread lacks."
    return text


PLOT = Plot(
    name="noise",
    title="Noise between seeds",
    shows="the spread of the loss between seeds over the loss, beside the fit's residuals",
    needs=("runs",),
    draw=draw,
)
