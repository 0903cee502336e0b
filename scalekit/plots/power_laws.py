"""Power laws: loss over compute, parameters and tokens, each with its lower envelope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.plots import _axes, _look, _surface
from scalekit.plots._runs import colors_by_compute, scatter_runs
from scalekit.plots.base import CannotDrawError, Drawing, Plot, has_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNLIMITED = 1e12
"""How many times the largest measured size or length stands for an unlimited one."""

_ENVELOPE: Any = (0, (4, 2))


@dataclass(frozen=True)
class _Line:
    """A straight line in log-log through the lower envelope: loss = (scale / x)^power.

    Attributes:
        symbol: C, N or D.
        x: Of the envelope's points (k,), rising.
        loss: Of the envelope's points.
        power: The line's exponent, NaN where fewer than three points make an envelope.
        scale: Where the line meets a loss of one.
    """

    symbol: str
    x: np.ndarray
    loss: np.ndarray
    power: float
    scale: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """Evaluate the line at x (n,)."""
        return (self.scale / x) ** self.power


_WORDS = {"C": "compute", "N": "params", "D": "tokens"}


def draw(study: Study) -> Drawing:
    """Draw loss over C, N and D with a power through the lower envelope, and the law's limit."""
    columns = {"C": study.flops, "N": study.column("params"), "D": study.column("tokens")}
    for symbol, x in columns.items():
        if not (x[study.is_used] > 0).any():
            raise CannotDrawError(f"no run in use tells its {_WORDS[symbol]}")
    L = study.column("loss")
    lines = {}
    for symbol, x in columns.items():
        here = study.is_used & np.isfinite(x) & (x > 0)
        lines[symbol] = _envelope(symbol, x[here], L[here])
    if all(np.isnan(line.power) for line in lines.values()):
        raise CannotDrawError("fewer than three runs lie on any lower envelope of the losses")
    figure = _look.new_figure(_look.DOUBLE, 2.7)
    panels = figure.subplots(1, 3, sharey=True)
    labels = (
        _axes.flops_label(study.flops_kind, study.params_kind),
        _axes.params_label(study.params_kind),
        _axes.tokens_label(),
    )
    rows: list[dict[str, Any]] = []
    handles: list[Any] = []
    for letter, axes, (symbol, x), label in zip(
        "abc", panels, columns.items(), labels, strict=True
    ):
        _set_limits(axes, x[study.is_used], L[study.is_used])
        colors = colors_by_compute(study, study.flops)
        handles = scatter_runs(axes, study, x, L, colors, size=0.7)
        rows += _draw_line(axes, lines[symbol])
        rows += _draw_limit(axes, study, symbol, x[study.is_used])
        axes.set_xlabel(label)
        text = _axes.power_text if symbol == "C" else _axes.count_text
        _axes.finish_log(axes.xaxis, text, most=4)
        _look.panel_letter(axes, letter)
    panels[0].set_ylabel(_axes.loss_label(study.loss_unit))
    _axes.finish_loss(panels[0].yaxis)
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    limits = list(dict.fromkeys(str(row["axis"]) for row in rows if row["what"] == "law"))
    _look.legend_below(figure, [*handles, *_keys(limits)])
    return Drawing(figure, rows, _caption(study, lines, limits))


def _envelope(symbol: str, x: np.ndarray, loss: np.ndarray) -> _Line:
    """Keep the runs that no other run beats with no more of x, and fit a line through them."""
    order = np.lexsort((loss, x))
    x, loss = x[order], loss[order]
    before = np.minimum.accumulate(np.concatenate([[np.inf], loss[:-1]]))
    x, loss = x[loss < before], loss[loss < before]
    if x.size < 3:
        return _Line(symbol, x, loss, float("nan"), float("nan"))
    slope, level = np.polyfit(np.log(x), np.log(loss), 1)
    return _Line(symbol, x, loss, float(-slope), float(np.exp(-level / slope)))


def _set_limits(axes: Axes, x: np.ndarray, loss: np.ndarray) -> None:
    axes.set(xscale="log", yscale="log", xlim=_axes.widen(x, 0.08))
    low, high = _axes.widen(_axes.tame(loss), 0.06)
    axes.set_ylim(low / (high / low) ** 0.08, high)


def _draw_line(axes: Axes, line: _Line) -> list[dict[str, Any]]:
    told = {"what": "envelope", "axis": line.symbol}
    rows = [{**told, "x": a, "loss": b} for a, b in zip(line.x, line.loss, strict=True)]
    if np.isnan(line.power):
        return rows
    x = np.geomspace(*axes.get_xlim(), 33)
    color = _look.GROUPS[1]
    axes.plot(x, line.at(x), color=color, lw=1.1, ls=_ENVELOPE, zorder=5)
    axes.set_title(
        f"L = ({_scale_text(line)}/{line.symbol})$^{{{line.power:.3f}}}$",
        fontsize=7,
        loc="right",
        pad=4,
        color=_look.text_color(color),
    )
    told = {"what": "power", "axis": line.symbol}
    return rows + [{**told, "x": a, "loss": b} for a, b in zip(x, line.at(x), strict=True)]


def _scale_text(line: _Line) -> str:
    if line.symbol == "C" or line.scale >= 1e15:
        return _axes.power_text(line.scale)
    return _axes.count_text(line.scale)


def _draw_limit(axes: Axes, study: Study, symbol: str, x: np.ndarray) -> list[dict[str, Any]]:
    """Draw what the fitted law leaves where only this one quantity is scarce."""
    if not has_law(study):
        return []
    assert study.fit is not None
    at = np.geomspace(float(x.min()), float(x.max()), 65)
    if symbol == "C":
        if not _surface.has_frontier(study):
            return []
        L = _surface.frontier(study.fit, at)["loss"]
    else:
        other = study.column("tokens" if symbol == "N" else "params")[study.is_used]
        plenty = np.full(at.shape, _UNLIMITED * float(np.nanmax(other)))
        N, D = (at, plenty) if symbol == "N" else (plenty, at)
        L = _surface.loss(study.fit, N, D)
    # Where most of it lies far below the runs, a stub in a corner explains nothing.
    low, high = axes.get_ylim()
    if not np.isfinite(L).all() or np.mean((low < L) & (high > L)) < 1 / 3:
        return []
    axes.plot(at, L, color=_look.INK, lw=1.1, zorder=4)
    return [{"what": "law", "axis": symbol, "x": a, "loss": b} for a, b in zip(at, L, strict=True)]


def _keys(limits: Sequence[str]) -> list[Any]:
    keys = [_look.key("power through the envelope", color=_look.GROUPS[1], lw=1.1, ls=_ENVELOPE)]
    if limits:
        keys.append(_look.key("fitted law's limit", color=_look.INK, lw=1.1))
    return keys


_LIMITS = {
    "C": "at the compute-optimal size (a)",
    "N": "with unlimited tokens (b)",
    "D": "with unlimited parameters (c)",
}


def _caption(study: Study, lines: Mapping[str, _Line], limits: Sequence[str]) -> str:
    told = [line for line in lines.values() if not np.isnan(line.power)]
    parts = [
        "Loss over compute (a), parameters (b) and tokens (c). Dashed: a power law without "
        "irreducible loss through the lower envelope, the runs that none beats with less; "
        + ", ".join(f"L ~ {x.symbol}^-{x.power:.3f} ({x.x.size} runs)" for x in told)
        + "."
    ]
    if limits and study.fit is not None:
        words = ", ".join(_LIMITS[axis] for axis in limits)
        parts.append(f"Solid: the fitted {study.fit.law} law {words}.")
    return " ".join(parts)


PLOT = Plot(
    name="power_laws",
    title="Power laws",
    shows="loss over compute, parameters and tokens, with the lower envelope and its power",
    needs=("runs",),
    draw=draw,
)
