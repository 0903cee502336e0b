"""Axes that say what they count: labels with units, and ticks that read 30M, 1B and 10^18."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter, NullLocator

from scalekit.analysis.words import flops_words, loss_words, params_words
from scalekit.plots._look import SEQUENCE

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.colors import LogNorm

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

_FINER = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    tuple(np.round(np.arange(1.0, 10.0, 0.5), 1)),
    tuple(np.round(np.arange(1.0, 10.0, 0.2), 1)),
    tuple(np.round(np.arange(1.0, 10.0, 0.1), 1)),
)
"""Leading digits of labelled ticks, from coarse to fine."""


def params_label(kind: str, *, short: bool = False) -> str:
    """Label an axis of parameters; `short` for a third of a page."""
    return f"N ({params_words(kind)})" if short else f"Parameters N ({params_words(kind)})"


def tokens_label() -> str:
    """Label an axis of training tokens."""
    return "Training tokens D (tokens)"


def flops_label(kind: str, params_kind: str = "", *, short: bool = False) -> str:
    """Label an axis of training compute; 6ND needs no second word on N where the count agrees."""
    if short:
        return "Compute C (FLOPs)"
    agrees = params_kind and kind == f"6N_{params_kind}"
    return f"Training compute C ({'FLOPs, 6ND' if agrees else flops_words(kind)})"


def loss_label(unit: str, what: str = "Loss") -> str:
    """Label an axis of loss."""
    return f"{what} ({loss_words(unit)})"


def count_text(value: float) -> str:
    """Write a count short, for a tick or a label.

    >>> [count_text(v) for v in (850, 3e4, 3e7, 1.5e9, 1e12)]
    ['850', '30k', '30M', '1.5B', '1T']
    """
    if value < 1e-2:
        return f"{value:.1g}"
    for size, letter in _SUFFIXES:
        # 999.6M reads 1B, not 1000M
        if value >= size * 0.9995:
            return f"{_short(value / size)}{letter}"
    return _short(value)


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def rate_text(value: float) -> str:
    """Write a small number such as a learning rate for a tick."""
    return power_text(value) if value < 0.1 else f"{value:.3g}"


def power_text(value: float) -> str:
    r"""Write compute as a power of ten, in matplotlib's mathematics.

    >>> power_text(1e18), power_text(3e18)
    ('$10^{18}$', '$3{\\times}10^{18}$')
    """
    power = math.floor(math.log10(value) + 1e-9)
    digits = f"{value / 10.0**power:.2g}"
    if digits == "1":
        return f"$10^{{{power}}}$"
    return f"${digits}{{\\times}}10^{{{power}}}$"


def log_ticks(
    low: float, high: float, most: int, *, long: bool = False
) -> tuple[list[float], list[float]]:
    """Choose labelled and bare ticks of a log axis.

    Over 1.2 decades the labels are 1 and 3, over 0.6 they are 1, 2 and 5, under that denser; where
    that is more than `most`, coarser. An axis of many decades keeps every second, third, ... one.
    Where the labels are `long` two suffice.

    Returns:
        The labelled ticks and the bare ones, rising.
    """
    decades = math.log10(high / low)
    place = 1 if decades > 1.2 else 2 if decades > 0.6 or long else 3
    major = _leading(low, high, _FINER[place])
    while len(major) < (2 if long else 3) and place + 1 < len(_FINER):
        place += 1
        major = _leading(low, high, _FINER[place])
    while len(major) > most and place > 0:
        place -= 1
        major = _leading(low, high, _FINER[place])
    if len(major) > most:
        major = _every(major, math.ceil(len(major) / most))
    if len(major) < 2:
        major = [float(v) for v in MaxNLocator(4).tick_values(low, high) if low <= v <= high]
    bare = _leading(low, high, tuple(range(1, 10))) if decades < 6 else _leading(low, high, (1.0,))
    return major, [v for v in bare if not _holds(major, v)]


def _leading(low: float, high: float, digits: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    ticks = (d * 10.0**p for p in range(first, last) for d in digits)
    return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def _every(decades: list[float], step: int) -> list[float]:
    """Keep the decades whose power is divisible by `step`, so that the kept ones are round."""
    kept = [t for t in decades if round(math.log10(t)) % step == 0]
    return kept if len(kept) > 1 else decades[::step]


def _holds(ticks: list[float], value: float) -> bool:
    return any(abs(t - value) <= 1e-9 * value for t in ticks)


def finish_log(
    axis: Axis, text: Callable[[float], str] = count_text, most: int = 6, *, bare: bool = True
) -> None:
    """Put ticks on a log axis once its limits stand."""
    low, high = sorted(axis.get_view_interval())
    major, minor = log_ticks(float(low), float(high), most, long=text is power_text)
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(FixedFormatter([text(v) for v in major]))
    axis.set_minor_locator(FixedLocator(minor) if bare else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def finish_loss(axis: Axis, most: int = 6) -> None:
    """Put round ticks on a log axis of loss: losses span far less than a decade."""
    low, high = sorted(axis.get_view_interval())
    low, high = float(low), float(high)
    if high / low > 6:
        finish_log(axis, lambda v: f"{v:.3g}", most)
        return
    ticks = round_ticks(low, high, most)
    _set_ticks(axis, ticks)


def finish_plain(axis: Axis, most: int = 5) -> None:
    """Put round ticks, all with equally many decimals, on a linear axis."""
    low, high = sorted(axis.get_view_interval())
    _set_ticks(axis, round_ticks(float(low), float(high), most))


def _set_ticks(axis: Axis, ticks: list[float]) -> None:
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(tick_texts(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write evenly spaced ticks with the decimals that their step needs.

    >>> tick_texts([0.35, 0.4, 0.45]), tick_texts([10.0, 20.0])
    (['0.35', '0.40', '0.45'], ['10', '20'])
    >>> tick_texts([2.25, 2.5, 2.75])
    ['2.25', '2.50', '2.75']
    """
    step = ticks[1] - ticks[0] if ticks[1:] else ticks[0] if ticks else 1.0
    digits = max(0, -math.floor(math.log10(abs(step) or 1.0) + 1e-9))
    # A step of 2.5 needs one more.
    if abs(round(step, digits) - step) > 1e-9 * abs(step):
        digits += 1
    return [f"{v:.{digits}f}" for v in ticks]


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` ticks, 1, 2, 2.5 or 5 times a power of ten apart, within [low, high].

    >>> round_ticks(1.63, 2.13, 6)
    [1.7, 1.8, 1.9, 2.0, 2.1]
    """
    values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    # Limits that rounding alone parts have one tick, not several that read alike.
    return list(dict.fromkeys(float(f"{v:.12g}") for v in values if low <= v <= high))


def color_bar(figure: Any, axes: Any, norm: LogNorm, label: str, *, aspect: int = 30) -> Axis:
    """Say beside some axes of a figure what the sequence's colours count; return the bar's axis."""
    bar = figure.colorbar(ScalarMappable(norm, SEQUENCE), ax=axes, aspect=aspect, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar.ax.yaxis


def widen(values: np.ndarray, by: float = 0.06) -> tuple[float, float]:
    """Return limits of a log axis around positive `values`, with room of `by` of their span."""
    known = values[np.isfinite(values) & (values > 0)]
    low, high = math.log(float(known.min())), math.log(float(known.max()))
    room = max((high - low) * by, 0.02)
    return math.exp(low - room), math.exp(high + room)


def tame(values: np.ndarray) -> np.ndarray:
    """Leave out losses so high that they would press all others into a line.

    Those above the upper quartile by twice its distance from the best, in logarithms: a diverged
    rate, not a small model.
    """
    known = values[np.isfinite(values) & (values > 0)]
    top = float(np.quantile(known, 0.75))
    return known[known <= top * (top / known.min()) ** 2 * (1 + 1e-9)]


def widen_to(
    values: np.ndarray, others: np.ndarray, by: float = 0.06, share: float = 0.25
) -> tuple[float, float]:
    """Return limits around `values` that reach to those `others` which lie near enough.

    What is farther away than `share` of the span of `values` does not press them together.
    """
    low, high = widen(values, by)
    room = (high / low) ** share
    near = others[np.isfinite(others) & (others > low / room) & (others < high * room)]
    return widen(np.concatenate([values, near]), by)
