"""Hyperparameters: loss over the learning rate by batch and size, and the best of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.analysis.tuning import Cell, Minimum, cells, power_of, spread_over
from scalekit.fit.own_law import find_law
from scalekit.plots import _axes, _look
from scalekit.plots.base import CannotDrawError, Drawing, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import SubFigure

_MOST = 6
"""Sizes whose curves are drawn."""

_HEADROOM = 0.05
"""Losses higher than this above a size's best are cut off: a diverged run flattens the rest."""

_EXPONENTS = {"exponent_N": "N", "exponent_D": "D"}
_LR = "Learning rate (per step)"
_BATCH = "Batch (tokens)"


def draw(study: Study) -> Drawing:
    """Draw loss over learning rate for some sizes, and the best rate and batch of all."""
    found = cells(study)
    if not found:
        raise CannotDrawError("no size was trained at three or more learning rates")
    some = spread_over(found, _MOST)
    columns = min(3, len(some))
    rows = -(-len(some) // columns)
    figure = _look.new_figure(_look.DOUBLE, 1.65 * rows + 2.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.65 * rows, 2.3))
    top, bottom = parts
    norm = _look.compute_norm(np.array([line.batch for cell in found for line in cell.lines]))
    panels = top.subplots(rows, columns, sharex=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place < len(some):
            _draw_cell(axes, some[place], norm)
        else:
            axes.set_axis_off()
    _finish_cells(top, panels, study, norm, some)
    _draw_best(bottom, study, found)
    _look.legend_below(figure, _keys(found))
    return Drawing(figure, _rows(found), _caption(study, found, some))


def _draw_cell(axes: Axes, cell: Cell, norm: LogNorm) -> None:
    axes.set(xscale="log", yscale="log")
    best = cell.best
    worst = max(float(line.loss.max()) for line in cell.lines)
    # No higher than what was run: a fit that kept only the best leaves no curve up there.
    reach = min(_HEADROOM, max(1.15 * (worst / best - 1), 0.1 * _HEADROOM))
    axes.set_ylim(best * (1 - 0.15 * reach), best * (1 + reach))
    for line in cell.lines:
        color = _color(norm, line.batch)
        axes.plot(line.lr, line.loss, color=color, lw=0.7, marker="o", ms=2.0, zorder=2)
        if line.minimum is not None:
            _draw_minimum(axes, line.minimum, color)
    text = f"N = {_axes.count_text(cell.params)}, D = {_axes.count_text(cell.tokens)}"
    axes.set_title(text, fontsize=7, pad=3)
    _axes.finish_loss(axes.yaxis, most=4)


def _color(norm: LogNorm, value: float) -> Any:
    return _look.SEQUENCE(norm(value)) if np.isfinite(value) else _look.SEQUENCE(0.5)


def _draw_minimum(axes: Axes, bottom: Minimum, color: Any) -> None:
    style = {**_look.POINT["minimum"], "s": 26, "linewidths": 0.4}
    if bottom.edge:
        style |= {"facecolors": "white", "edgecolors": color, "linewidths": 0.8}
    else:
        style |= {"color": color}
    low, high = axes.get_ylim()
    if low < bottom.loss < high:
        axes.scatter(bottom.place, bottom.loss, **style)


def _finish_cells(
    top: SubFigure, panels: np.ndarray, study: Study, norm: LogNorm, some: Sequence[Cell]
) -> None:
    seen = [
        line.lr[line.loss <= cell.best * (1 + _HEADROOM)] for cell in some for line in cell.lines
    ]
    rates = np.concatenate(seen)
    for axes in panels.flat:
        axes.set_xlim(*_axes.widen(rates, 0.05))
        _axes.finish_log(axes.xaxis, _axes.rate_text, most=4)
    for axes in panels[:, 0]:
        axes.set_ylabel(_axes.loss_label(study.loss_unit))
    for axes in panels[-1]:
        axes.set_xlabel(_LR)
    _look.panel_letter(panels[0, 0], "a", beside=True)
    if np.isfinite(norm.vmin or np.nan) and any(np.isfinite(x.batch) for x in some[0].lines):
        _bar(top, panels, norm, _BATCH)


def _bar(figure: Any, panels: Any, norm: LogNorm, label: str) -> None:
    _axes.finish_log(_axes.color_bar(figure, panels, norm, label, aspect=25), most=5)


def _draw_best(bottom: SubFigure, study: Study, found: Sequence[Cell]) -> None:
    """Draw the best rate over N and, where batches were tried, the best batch over D."""
    tuned = [cell for cell in found if cell.batch is not None]
    panels = np.atleast_1d(bottom.subplots(1, 2 if tuned else 1))
    N, D = (np.array([getattr(cell, name) for cell in found]) for name in ("params", "tokens"))
    edges = np.array(["lr" in cell.edge for cell in found])
    norm = _look.compute_norm(D)
    lr = np.array([cell.lr for cell in found])
    _draw_optima(panels[0], N, lr, edges, _look.SEQUENCE(norm(D)))
    inner = power_of(lr[~edges], N=N[~edges], D=D[~edges])
    _write_power(panels[0], "lr*", _fitted_power(study, "lr") or inner)
    panels[0].set_xlabel(_axes.params_label(study.params_kind))
    panels[0].set_ylabel(f"Best {_LR[0].lower()}{_LR[1:]}")
    _axes.finish_log(panels[0].yaxis, _axes.rate_text, most=5)
    _bar(bottom, panels[0], norm, "D (tokens)")
    _look.panel_letter(panels[0], "b")
    if not tuned:
        return
    N, D = (np.array([getattr(cell, name) for cell in tuned]) for name in ("params", "tokens"))
    edges = np.array(["batch" in cell.edge for cell in tuned])
    batch = np.array([cell.batch.place for cell in tuned if cell.batch is not None])
    norm = _look.compute_norm(N)
    _draw_optima(panels[1], D, batch, edges, _look.SEQUENCE(norm(N)))
    inner = power_of(batch[~edges], N=N[~edges], D=D[~edges])
    _write_power(panels[1], "batch*", _fitted_power(study, "batch_tokens") or inner)
    panels[1].set_xlabel(_axes.tokens_label())
    panels[1].set_ylabel(f"Best {_BATCH[0].lower()}{_BATCH[1:]}")
    _axes.finish_log(panels[1].yaxis, most=5)
    _bar(bottom, panels[1], norm, _axes.params_label(study.params_kind, short=True))
    _look.panel_letter(panels[1], "c")


def _draw_optima(
    axes: Axes, x: np.ndarray, y: np.ndarray, edges: np.ndarray, colors: np.ndarray
) -> None:
    axes.set(xscale="log", yscale="log", xlim=_axes.widen(x, 0.08), ylim=_axes.widen(y, 0.12))
    style = {**_look.POINT["minimum"], "s": 42}
    axes.scatter(x[~edges], y[~edges], color=colors[~edges], **style)
    hollow = {"facecolors": "white", "linewidths": 0.9}
    axes.scatter(x[edges], y[edges], **{**style, **hollow, "edgecolors": [*colors[edges]]})
    _axes.finish_log(axes.xaxis, most=5)


def _fitted_power(study: Study, response: str) -> dict[str, float] | None:
    """Return the exponents of N and D of a trusted fit of the rate or the batch; None without."""
    fits = () if study.fit is None else (study.fit, *study.fit.others)
    for fit in fits:
        is_of_it = fit.approach == "parametric" and find_law(fit.law).response == response
        if is_of_it and fit.is_trusted and _EXPONENTS.keys() <= fit.theta.keys():
            return {symbol: fit.theta[name] for name, symbol in _EXPONENTS.items()}
    return None


def _write_power(axes: Axes, name: str, power: dict[str, float] | None) -> None:
    """Write the fitted power law, or that through the inner optima, above the panel."""
    if power is None:
        return
    symbols = " ".join(f"${k}^{{{v:.2f}}}$" for k, v in power.items() if k != "scale")
    axes.set_title(f"{name} ∝ {symbols}", fontsize=7, loc="right", pad=4)


def _keys(found: Sequence[Cell]) -> list[Any]:
    keys = [_look.key_of_role("minimum", "interpolated minimum")]
    if any(cell.edge for cell in found):
        keys.append(_look.key_of_role("edge", "at the edge of what was tried"))
    return keys


def _rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    rows = []
    for cell in found:
        keys = {"params": cell.params, "tokens": cell.tokens}
        batch = cell.batch.place if cell.batch is not None else None
        rows.append({"what": "best", **keys, "lr": cell.lr, "batch_tokens": batch} | _end(cell))
        for line in cell.lines:
            at = {**keys, "batch_tokens": line.batch}
            if line.minimum is not None:
                told = line.minimum
                one = {"what": "minimum", **at, "lr": told.place, "loss": told.loss}
                rows.append(one | {"edge": told.edge})
            for lr, loss in zip(line.lr, line.loss, strict=True):
                rows.append({"what": "runs", **at, "lr": lr, "loss": loss})
    return rows


def _end(cell: Cell) -> dict[str, Any]:
    loss = cell.batch.loss if cell.batch is not None else None
    return {"loss": loss, "edge": cell.edge}


def _caption(study: Study, found: Sequence[Cell], some: Sequence[Cell]) -> str:
    runs = sum(cell.n_runs for cell in found)
    parts = [
        f"Loss over the learning rate, a curve a batch, at {len(some)} of {len(found)} sizes and "
        f"lengths (a; {runs} settings in all, losses more than {100 * _HEADROOM:g} % above a "
        "size's best are cut off). Stars: the bottom of a parabola in the logarithm, not the best "
        "run."
    ]
    edges = [cell for cell in found if cell.edge]
    if edges:
        words = "; ".join(
            f"N = {_axes.count_text(c.params)}, D = {_axes.count_text(c.tokens)} ({c.edge})"
            for c in edges[:4]
        )
        more = f" and {len(edges) - 4} more" if len(edges) > 4 else ""
        parts.append(
            f"Warning, best at the edge of what was tried (hollow, {len(edges)} of {len(found)}): "
            f"{words}{more}; widen the sweep there."
        )
    else:
        parts.append("All have their best inside what was tried.")
    inner = [cell for cell in found if "lr" not in cell.edge]
    lr, N, D = (np.array([getattr(c, k) for c in inner]) for k in ("lr", "params", "tokens"))
    power, fitted = power_of(lr, N=N, D=D), _fitted_power(study, "lr")
    if fitted is not None:
        parts.append(f"By the fit the best rate goes as {_words(fitted)}.")
    if power is not None:
        parts.append(f"By least squares through the stars the best rate goes as {_words(power)}.")
    return " ".join(parts)


def _words(power: Mapping[str, float]) -> str:
    return " ".join(f"{k}^{v:.2f}" for k, v in power.items() if k != "scale")


PLOT = Plot(
    name="hparam",
    title="Learning rate and batch",
    shows="loss over the learning rate by batch and size, and the best rate and batch",
    needs=("runs", "lr"),
    draw=draw,
)
