"""A law of loss curves over its curves: measured and predicted loss, the rates, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from scalekit.analysis.study import Study
from scalekit.fit.holdout import held_out
from scalekit.fit.prepare import prepare
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 250
_MOST_NAMED = 12
_SHOWN = 0.96
"""Share of the losses, from the lowest, that the figure's height is for."""


@dataclass(frozen=True)
class _Fitted:
    """One curve, by rising step: each array (n,), `is_held` whether a check left it out."""

    run: str
    step: np.ndarray
    lr: np.ndarray
    loss: np.ndarray
    predicted: np.ndarray
    is_held: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """Observed above predicted, in per cent."""
        return 100.0 * (self.loss / self.predicted - 1.0)


def draw(study: Study) -> Drawing:
    """Draw the curves with the law through them (a), their rates (b) and the residuals (c)."""
    curves = _curves(study)
    if not any(c.loss.size for c in curves):
        raise CannotDrawError("no line of a curve is in use")
    figure = _look.new_figure(_look.DOUBLE, 3.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1.0))
    left = figure.add_subplot(grid[:, 0])
    rates = figure.add_subplot(grid[0, 1])
    rest = figure.add_subplot(grid[1, 1], sharex=rates)
    rest.axhline(0.0, color=_look.INK, lw=0.7, zorder=1)
    shown: list[dict[str, Any]] = []
    for place, curve in enumerate(curves):
        shown += _draw_curve((left, rates, rest), curve, _color(place, len(curves)))
    steps = np.concatenate([c.step for c in curves])
    loss = np.concatenate([c.loss for c in curves])
    left.set_yscale("log")
    # The first steps fall so far that they would press the rest into a line.
    left.set_ylim(*_axes.widen(loss[loss <= np.quantile(loss, _SHOWN)], 0.05))
    for axes in (left, rates, rest):
        axes.set_xlim(steps.min() - 0.02 * np.ptp(steps), steps.max() + 0.02 * np.ptp(steps))
        axes.xaxis.set_major_formatter(FuncFormatter(_step_text))
    residual = np.concatenate([c.residual for c in curves])
    reach = max(float(np.quantile(np.abs(residual), 0.995)) * 1.2, 1e-3)
    rest.set_ylim(-reach, reach)
    _finish((left, rates, rest), study)
    _look.legend_below(figure, _keys(curves))
    return Drawing(figure, shown, _caption(study, curves))


def _curves(study: Study) -> list[_Fitted]:
    """Predict each line in use; one that a check held out by the fit that did not see it."""
    assert study.table is not None
    assert study.fit is not None
    fit = study.fit
    asked = fit.diagnostics.get("asked") or {}
    law, runs = prepare(
        fit.law, study.table, drop=asked.get("drop") or (), cluster=asked.get("cluster")
    )
    predicted = law.predict(fit.theta, runs.inputs)
    is_held = np.zeros(len(runs), dtype=bool)
    without = fit.holdout.get("theta")
    if without and asked.get("hold_out"):
        is_held, _ = held_out(asked["hold_out"], runs, study.table)
        predicted = np.where(is_held, law.predict(without, runs.inputs), predicted)
    names, rate = np.array(runs.names, dtype=object), study.column("lr")[runs.rows]
    found = []
    for name in dict.fromkeys(runs.names):
        mine = np.flatnonzero(names == name)
        mine = mine[np.argsort(runs.inputs["t"][mine], kind="stable")]
        columns = (runs.inputs["t"], rate, runs.loss, predicted, is_held)
        found.append(_Fitted(str(name), *(column[mine] for column in columns)))
    return found


def _color(place: int, count: int) -> Any:
    """Return a colour: groups' where there are few curves, else the sequence's."""
    if count <= len(_look.GROUPS):
        return _look.GROUPS[place]
    return _look.SEQUENCE(place / (count - 1))


def _draw_curve(panels: Sequence[Axes], curve: _Fitted, color: Any) -> list[dict[str, Any]]:
    left, rates, rest = panels
    step = max(1, -(-curve.step.size // _MOST_POINTS))
    some = slice(None, None, step)
    x, held = curve.step[some], curve.is_held[some]
    left.plot(x, curve.loss[some], color=color, lw=2.2, alpha=0.35, zorder=2)
    for part, dash in ((held, _look.EXTRAPOLATED), (~held, "-")):
        y = np.where(part, curve.predicted[some], np.nan)
        left.plot(x, y, color=_look.text_color(color), lw=0.8, ls=dash, zorder=3)
    rates.plot(x, curve.lr[some], color=color, lw=0.9, zorder=2)
    rest.plot(x, curve.residual[some], color=color, lw=0.7, zorder=2)
    return [
        {
            "what": "held_out" if curve.is_held[k] else "fitted",
            "run": curve.run,
            "step": curve.step[k],
            "lr": curve.lr[k],
            "loss": curve.loss[k],
            "predicted": curve.predicted[k],
            "residual_percent": curve.residual[k],
        }
        for k in range(0, curve.step.size, step)
    ]


def _step_text(value: float, _: float | None = None) -> str:
    return _axes.count_text(value) if value else "0"


def _finish(panels: Sequence[Axes], study: Study) -> None:
    left, rates, rest = panels
    left.set_ylabel(_axes.loss_label(study.loss_unit))
    rates.set_ylabel("Learning rate (per step)")
    rest.set_ylabel("Residual (% of predicted)")
    for axes in (left, rest):
        axes.set_xlabel("Step (1)")
    rates.tick_params(labelbottom=False)
    rates.set_ylim(bottom=0.0)
    high = rates.get_ylim()[1]
    ticks = _axes.round_ticks(0.0, float(high), 4)
    rates.set_yticks(ticks, [_axes.rate_text(v) if v else "0" for v in ticks])
    _axes.finish_loss(left.yaxis)
    _axes.finish_plain(rest.yaxis)
    for letter, axes in zip("abc", panels, strict=True):
        _look.panel_letter(axes, letter)


def _keys(curves: Sequence[_Fitted]) -> list[Any]:
    style = {"color": _look.MUTED}
    keys = [
        _look.key("measured", lw=2.2, alpha=0.35, **style),
        _look.key("law, fitted", lw=0.8, **style),
    ]
    if any(c.is_held.any() for c in curves):
        keys.append(_look.key("law, fitted without these", lw=0.8, ls=_look.EXTRAPOLATED, **style))
    if len(curves) <= _MOST_NAMED:
        for place, curve in enumerate(curves):
            keys.append(_look.key(curve.run, lw=1.6, color=_color(place, len(curves))))
    return keys


def _caption(study: Study, curves: Sequence[_Fitted]) -> str:
    assert study.fit is not None
    parts = [
        f"Measured and predicted loss of {count_words(len(curves), 'curve')} by the law "
        f"{study.fit.law} (a), their learning rates (b) and what is left (c)."
    ]
    held = np.concatenate([c.is_held for c in curves])
    residual = np.concatenate([c.residual for c in curves])
    for part, word in ((~held, "fitted"), (held, "held-out")):
        if part.any():
            rms = float(np.sqrt(np.mean(residual[part] ** 2)))
            parts.append(f"Root mean square of {int(part.sum())} {word} lines: {rms:.2g} %.")
    return " ".join(parts)


PLOT = Plot(
    name="curve_fit",
    title="Fitted loss curves",
    shows="measured and predicted loss of every curve, its learning rate, and what is left over",
    needs=("runs", "curve_law"),
    draw=draw,
)
