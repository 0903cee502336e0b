"""Runs as points: one mark a role, coloured by compute, the same in every figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.plots import _look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from scalekit.analysis.study import Study

_MANY = 1000
"""Runs from which marks are drawn as one picture: as shapes they would weigh megabytes."""

_ABOVE: dict[str, Any] = {"marker": "^", "clip_on": False}
"""How a used run is marked whose loss lies above the limits."""

ROLES = ("fitted", "held_out", "dropped", "diverged")


def role_words(study: Study) -> dict[str, str]:
    """Say in a legend what each role means here."""
    return {
        "fitted": "run" if study.fit is None else "in the fit",
        # The law is fitted to all of them; the check refits it without these.
        "held_out": "also held out once",
        "dropped": "dropped",
        "diverged": "diverged",
    }


def colors_by_compute(study: Study, compute: np.ndarray) -> np.ndarray:
    """Return a colour (n, 4) a row from its compute; the middle one where it is unknown."""
    norm = _look.compute_norm(compute[study.is_used] if study.is_used.any() else compute)
    middle = float(np.sqrt(norm.vmin * norm.vmax))  # type: ignore[operator]
    return _look.SEQUENCE(norm(np.where(np.isfinite(compute), compute, middle)))


def scatter_runs(
    axes: Axes, study: Study, x: np.ndarray, y: np.ndarray, colors: np.ndarray, *, size: float = 1.0
) -> list[Line2D]:
    """Draw each run at (x, y) by its role and return the legend's entries with counts.

    A diverged run has no loss worth a place: where y is missing it stands at the top edge, as does
    a used run above the limits. A dropped run outside them is not drawn. The legend counts both.
    """
    handles = []
    for role in ROLES:
        here = (study.roles == role) & np.isfinite(x)
        if not here.any():
            continue
        words = f"{role_words(study)[role]} ({_count(axes, role, x[here], y[here])})"
        if role != "diverged":
            here &= np.isfinite(y)
        style = dict(_look.POINT[role])
        style |= {"s": style["s"] * size, "rasterized": here.sum() > _MANY}
        if role == "diverged":
            _at_top_edge(axes, x[here], y[here], colors[here], style)
        elif role == "dropped":
            here &= is_inside(axes, x, y)
            axes.scatter(x[here], y[here], **style)
        else:
            above = here & (y > axes.get_ylim()[1])
            _at_top_edge(axes, x[above], y[above], colors[above], {**style, **_ABOVE})
            here &= ~above
            edge = role == "held_out"
            style["edgecolors" if edge else "color"] = [*colors[here]] if edge else colors[here]
            axes.scatter(x[here], y[here], **style)
        handles.append(_look.key_of_role(role, words))
    return handles


def is_inside(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether each point (n,) lies within the axes' limits."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return (x >= left) & (x <= right) & (y >= low) & (y <= high)


def _count(axes: Axes, role: str, x: np.ndarray, y: np.ndarray) -> str:
    if role == "dropped":
        missing, word = int((~is_inside(axes, x, y)).sum()), "outside"
    else:
        missing, word = int((y > axes.get_ylim()[1]).sum()), "above"
    return f"{x.size}, {missing} {word}" if missing and role != "diverged" else str(x.size)


def _at_top_edge(
    axes: Axes, x: np.ndarray, y: np.ndarray, colors: np.ndarray, style: dict[str, Any]
) -> None:
    """Draw what lies within the limits in its place, the rest at the top edge."""
    low, high = axes.get_ylim()
    inside = np.isfinite(y) & (y >= low) & (y <= high)
    if inside.any():
        axes.scatter(x[inside], y[inside], color=colors[inside], **style)
    if not inside.all():
        top = np.ones(int((~inside).sum()))
        edge = {**style, "transform": axes.get_xaxis_transform()}
        axes.scatter(x[~inside], top, color=colors[~inside], **edge)


def rows_of(study: Study, keep: np.ndarray, **more: np.ndarray) -> list[dict[str, Any]]:
    """Describe the table's rows where `keep` (n,) for a figure's CSV, with `more` columns (n,)."""
    columns = {
        "what": study.roles,
        "run": study.runs,
        "budget": study.column("budget"),
        "params": study.column("params"),
        "tokens": study.column("tokens"),
        "flops": study.flops,
        "loss": study.column("loss"),
        **more,
    }
    return [{name: v[k] for name, v in columns.items()} for k in np.flatnonzero(keep).tolist()]


def is_drawn(study: Study) -> np.ndarray:
    """Rows (n,) that a figure marks: all but unfinished ones."""
    return np.isin(study.roles, ROLES)
