"""Residuals: predicted against observed loss, and what is left over C, N, D and D/N."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.fit.own_law import find_law
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import colors_by_compute, rows_of, scatter_runs
from scalekit.plots.base import Drawing, Plot
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_QUARTERS = ("1st", "2nd", "3rd", "4th")


def draw(study: Study) -> Drawing:
    """Draw up to six panels; a held-out run is judged by the fit that did not see it."""
    assert study.fit is not None
    predicted = _surface.predictions(study, study.fit)
    L = study.column("loss")
    residual = 100.0 * (L / predicted - 1.0)
    figure = _look.new_figure(_look.DOUBLE, 4.3)
    handles: list[Any] = []
    over = _inputs(study)
    columns = 3 if len(over) > 2 else 2
    grid = figure.subplots(2, columns)
    panels = grid.flat[: len(over) + 2]
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    limit = _limit(residual[study.is_used])
    _draw_agreement(panels[0], study, predicted, limit)
    for axes, (x, label, text) in zip(panels[1:-1], over, strict=True):
        handles = _draw_over(axes, study, x, residual, limit)
        axes.set_xlabel(label)
        _axes.finish_log(axes.xaxis, text, most=4)
    _draw_per_budget(panels[-1], study, residual, limit)
    for axes in (grid[0, 1], grid[1, 0]):
        axes.set_ylabel("Residual (% of predicted)")
    for letter, axes in zip("abcdef", panels, strict=False):
        _look.panel_letter(axes, letter)
    _look.legend_below(figure, handles)
    more = {"predicted": predicted, "residual_percent": residual}
    shown = rows_of(study, np.isfinite(residual), **more)
    return Drawing(figure, shown, _caption(study, residual, limit))


def _inputs(study: Study) -> list[tuple[np.ndarray, str, Any]]:
    """Return what residuals are drawn over, four at most: values (n,), label and text of a tick.

    What the runs in use do not tell is left out; an input of the law that is none of C, N and D
    comes in before D/N.
    """
    assert study.fit is not None
    N, D = study.column("params"), study.column("tokens")
    law = find_law(study.fit.law)
    own = [
        (study.column(column), f"{symbol} ({column})", _axes.count_text)
        for symbol, column in zip(law.inputs, law.columns, strict=True)
        if symbol not in ("N", "D", "C", *law.coded)
    ]
    every = [
        (study.flops, _axes.flops_label(study.flops_kind, short=True), _axes.power_text),
        (N, _axes.params_label(study.params_kind, short=True), _axes.count_text),
        (D, _axes.tokens_label(), _axes.count_text),
        *own,
        (D / N, "D/N (tokens per parameter)", _axes.count_text),
    ]
    return [one for one in every if np.isfinite(one[0][study.is_used]).any()][:4]


def _limit(residual: np.ndarray) -> float:
    """Return a symmetric limit that one wild run cannot blow up."""
    size = np.sort(np.abs(residual[np.isfinite(residual)]))
    if size.size == 0:
        return 1.0
    typical = float(size[int(0.75 * (size.size - 1))])
    return max(min(float(size[-1]), 5.0 * typical) * 1.15, 1e-3)


def _draw_agreement(axes: Axes, study: Study, predicted: np.ndarray, limit: float) -> None:
    """Draw observed over predicted loss, as far as the residuals beside it reach."""
    L = study.column("loss")
    seen = study.is_used & (100.0 * np.abs(L / predicted - 1.0) <= limit)
    limits = _axes.widen(np.concatenate([L[seen], predicted[seen]]))
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.plot(limits, limits, color=_look.INK, lw=0.7, zorder=1)
    colors = colors_by_compute(study, study.flops)
    scatter_runs(axes, study, predicted, L, colors, size=0.7)
    axes.set_xlabel(_axes.loss_label(study.loss_unit, "Predicted loss"))
    axes.set_ylabel(_axes.loss_label(study.loss_unit, "Observed loss"))
    _axes.finish_loss(axes.xaxis, most=5)
    _axes.finish_loss(axes.yaxis, most=5)


def _draw_over(
    axes: Axes, study: Study, x: np.ndarray, residual: np.ndarray, limit: float
) -> list[Any]:
    """Draw residuals over one input; what lies outside the limits stands at the edge, marked."""
    axes.set(xscale="log", xlim=_axes.widen(x[study.is_used]), ylim=(-limit, limit))
    axes.axhline(0.0, color=_look.INK, lw=0.7, zorder=1)
    colors = colors_by_compute(study, study.flops)
    is_beyond = (np.abs(residual) > limit) & study.is_used
    inside = np.where(is_beyond, np.nan, residual)
    handles = scatter_runs(axes, study, x, inside, colors, size=0.7)
    for k in np.flatnonzero(is_beyond).tolist():
        mark = "^" if residual[k] > 0 else "v"
        edge = np.sign(residual[k]) * limit
        axes.scatter(x[k], edge, marker=mark, s=14, color=colors[k], clip_on=False, zorder=5)
    return handles


def _draw_per_budget(axes: Axes, study: Study, residual: np.ndarray, limit: float) -> None:
    """Draw each budget's median residual and the middle two thirds; or of quarters of compute."""
    axes.set(ylim=(-limit, limit))
    axes.axhline(0.0, color=_look.INK, lw=0.7, zorder=1)
    groups, texts = _groups(study)
    for place, here in enumerate(groups):
        part = residual[here]
        seen = part[np.abs(part) <= limit]
        axes.scatter(np.full(seen.shape, place), seen, s=6, color=_look.FAINT, zorder=2)
        low, middle, high = np.quantile(part, (0.16, 0.5, 0.84))
        axes.errorbar(
            place,
            middle,
            yerr=[[middle - low], [high - middle]],
            color=_look.INK,
            marker="o",
            ms=3.5,
            lw=0.9,
            capsize=2,
            zorder=3,
        )
    # Four short labels fit side by side, of those with decimals only three.
    step = max(1, -(-len(texts) // (3 if any("." in text for text in texts) else 4)))
    axes.set_xticks(range(0, len(texts), step), texts[::step])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    by_size = not np.isfinite(study.flops[study.is_used]).any()
    quarter = "Quarter by parameters" if by_size else "Quarter by compute (FLOPs)"
    axes.set_xlabel("Budget (FLOPs)" if study.budgets.size else quarter)


def _groups(study: Study) -> tuple[list[np.ndarray], list[str]]:
    has_flops = np.isfinite(study.flops[study.is_used]).any()
    place_by = study.flops if has_flops else study.column("params")
    used = study.is_used & np.isfinite(place_by)
    budget = study.column("budget")
    if study.budgets.size:
        groups = [used & (budget == value) for value in study.budgets]
        return groups, [_axes.power_text(value) for value in study.budgets]
    edges = np.quantile(place_by[used], [0.0, 0.25, 0.5, 0.75, 1.0])
    place = np.clip(np.searchsorted(edges, place_by, side="right") - 1, 0, 3)
    groups = [used & (place == k) for k in range(4)]
    kept = [(g, _QUARTERS[k]) for k, g in enumerate(groups) if g.any()]
    return [g for g, _ in kept], [text for _, text in kept]


def _caption(study: Study, residual: np.ndarray, limit: float) -> str:
    fitted = residual[study.roles == "fitted"]
    parts = [
        "Observed against predicted loss (a) and the residual over each input, with the median and "
        "the middle two thirds of each group (the last panel)."
    ]
    if fitted.size:
        rms = float(np.sqrt(np.mean(fitted**2)))
        parts.append(f"Root mean square of the {fitted.size} fitted runs: {rms:.2g} %.")
    beyond = int((np.abs(residual[study.is_used]) > limit).sum())
    if beyond:
        parts.append(f"Triangles: {count_words(beyond, 'run')} beyond {limit:.2g} %.")
    held = residual[study.roles == "held_out"]
    if held.size:
        # As the hold-out check counts: of the observed loss.
        mean = float(np.mean(np.abs(held / (1 + held / 100))))
        parts.append(
            f"Hollow: {held.size} held-out runs, predicted by a fit that did not see them, mean "
            f"absolute error {mean:.2g} %."
        )
    return " ".join(parts)


PLOT = Plot(
    name="residuals",
    title="Residuals",
    shows="how far each run lies from the fitted law, and whether that depends on C, N, D or D/N",
    needs=("runs", "predictions"),
    draw=draw,
)
