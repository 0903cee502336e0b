"""How every figure looks: sizes, colours, marks and line styles, and the settings behind them.

Colour never speaks alone: a sequence is viridis without its pale end, groups take an Okabe-Ito
colour together with a marker and a dash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRINT_DPI = 300

SINGLE = 3.3
"""Width of one column, inches."""

DOUBLE = 6.9
"""Width of two columns, inches."""

INK = "#1c1c1e"
MUTED = "#6f6f75"
FAINT = "#b9b9be"
MEASURED = "#f1f1f3"
"""Shade of the compute range that was measured."""

# Okabe and Ito's palette without black (the ink) and yellow (too pale for a line on white).
GROUPS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (9, 2)),
)
EXTRAPOLATED: Any = (0, (4, 2))

SEQUENCE = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.9, 256)), "viridis_cut")

POINT: dict[str, Any] = {
    "fitted": {"marker": "o", "s": 16, "linewidths": 0.5, "edgecolors": INK, "zorder": 4},
    "held_out": {"marker": "o", "s": 18, "linewidths": 1.0, "facecolors": "white", "zorder": 4},
    # So small that a dropped run disappears under a used one at the same place.
    "dropped": {"marker": "x", "s": 9, "linewidths": 0.8, "color": FAINT, "zorder": 3},
    "diverged": {"marker": "^", "s": 22, "linewidths": 0.8, "zorder": 5, "clip_on": False},
    "minimum": {"marker": "*", "s": 70, "linewidths": 0.5, "edgecolors": INK, "zorder": 6},
    "edge": {"marker": "*", "s": 70, "linewidths": 0.8, "facecolors": "white", "zorder": 6},
}
"""How a run of each role is marked, and a minimum inside a range or at its edge."""

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.4,
    "mathtext.fontset": "dejavusans",
    "mathtext.default": "regular",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.4,
    "savefig.dpi": PRINT_DPI,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    # Venues refuse Type 3 fonts; 42 embeds TrueType.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@contextmanager
def look(salt: str) -> Iterator[None]:
    """Draw and save inside this: the settings above on top of matplotlib's own defaults.

    The defaults come first, so a user's matplotlibrc cannot change a figure.

    Args:
        salt: Seeds the identifiers inside an SVG: equal figures become equal files, and two
            figures in one HTML page do not share identifiers.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in {**_SETTINGS, "svg.hashsalt": salt}.items():
            mpl.rcParams[name] = value  # type: ignore[index]
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, off any global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def compute_norm(budgets: np.ndarray) -> LogNorm:
    """Map compute (n,) or another count to the sequence's range; a lone one sits in its middle."""
    known = budgets[np.isfinite(budgets) & (budgets > 0)]
    if known.size == 0:
        return LogNorm(1.0, 10.0)
    low, high = float(known.min()), float(known.max())
    # Counts that differ by rounding alone are one.
    if high <= low * 1.05:
        low, high = low / 3.0, high * 3.0
    return LogNorm(low, high)


def text_color(color: Any) -> tuple[float, float, float]:
    """Return a darker shade of a colour: the sequence's pale end is too faint for small letters."""
    r, g, b = to_rgb(color)
    light = 0.2126 * r + 0.7152 * g + 0.0722 * b
    scale = min(1.0, 0.5 / light) if light > 0 else 1.0
    return r * scale, g * scale, b * scale


def group_style(place: int) -> dict[str, Any]:
    """Return colour, marker and dash of the group at `place`; they repeat after six."""
    k = place % len(GROUPS)
    return {"color": GROUPS[k], "marker": MARKERS[k], "linestyle": DASHES[k]}


def key(label: str, **style: Any) -> Line2D:
    """Make a legend entry that is not tied to a drawn line."""
    return Line2D([], [], label=label, **style)


def key_of_role(role: str, label: str, color: str = MUTED) -> Line2D:
    """Make the legend entry of a role of `POINT`."""
    style = POINT[role]
    face = {"held_out": "white", "edge": "white", "dropped": FAINT}.get(role, color)
    edge = {"held_out": color, "edge": color, "dropped": FAINT, "diverged": color}.get(role, INK)
    size = {"minimum": 7.5, "edge": 7.5, "dropped": 4.0}.get(role, 4.2)
    return key(
        label,
        linestyle="none",
        marker=style["marker"],
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=style["linewidths"],
    )


def legend_below(figure: Figure, handles: list[Any]) -> None:
    """Put one legend under the whole figure, in as few even rows as its width allows."""
    if not handles:
        return
    # Inches of a letter at the legend's size, and of a handle with the space around it.
    widths = [0.053 * len(str(h.get_label())) + 0.5 for h in handles]
    rows = 1
    while rows < len(handles) and _legend_width(widths, rows) > figure.get_figwidth():
        rows += 1
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(widths) // rows))


def _legend_width(widths: list[float], rows: int) -> float:
    """Return the width of a legend of so many rows: it is filled column by column."""
    return sum(max(widths[k : k + rows]) for k in range(0, len(widths), rows))


def panel_letter(axes: Axes, letter: str, *, beside: bool = False) -> None:
    """Write the panel's letter above its top left corner; `beside` leaves room for a title."""
    if beside:
        axes.annotate(
            letter,
            (0, 1),
            xycoords="axes fraction",
            xytext=(-22, 4),
            textcoords="offset points",
            fontweight="bold",
            fontsize=8,
        )
    else:
        axes.set_title(letter, fontweight="bold", pad=4)
