"""Numbers for people: rounded to what their interval says is known, never further."""

from __future__ import annotations

import math
from statistics import NormalDist

from scalekit.analysis.words import compute_number

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

NOTHING = "-"
"""What stands where there is no number."""


def decimals(error: float) -> int:
    """Return how many decimals a standard error justifies: two of its digits below 3, else one.

    >>> [decimals(e) for e in (0.024, 0.24, 4.2, 130.0)]
    [3, 2, 0, -1]
    """
    power = math.floor(math.log10(error))
    leading = error / 10.0**power
    return -power + (1 if leading < 2.95 else 0)


def fixed(value: float, places: int) -> str:
    """Write a number with `places` decimals; fewer than none rounds to tens, hundreds, ...

    >>> fixed(482.01, -1), fixed(0.34781, 3)
    ('480', '0.348')
    """
    if places <= 0:
        return f"{round(value, places):.0f}"
    return f"{value:.{places}f}"


def standard_error(low: float, high: float, level: float = 0.9) -> float:
    """Return the standard error of an interval, as if it were normal."""
    return (high - low) / (2 * NormalDist().inv_cdf((1 + level) / 2))


def is_interval(low: float | None, high: float | None) -> bool:
    """Whether both ends are there, finite and apart."""
    return (
        low is not None
        and high is not None
        and math.isfinite(low)
        and math.isfinite(high)
        and high > low
    )


def number(
    value: float | None, low: float | None = None, high: float | None = None, level: float = 0.9
) -> str:
    """Write a number rounded to its standard error, or to four digits without an interval.

    >>> number(0.34781, 0.31, 0.385), number(1.69337)
    ('0.348', '1.693')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if low is None or high is None or not is_interval(low, high):
        return f"{value:.4g}"
    return fixed(value, decimals(standard_error(low, high, level)))


def interval(low: float | None, high: float | None, level: float = 0.9) -> str:
    """Write an interval, both ends to its standard error's digits.

    >>> interval(0.31, 0.385)
    '[0.310, 0.385]'
    """
    if low is None or high is None or not is_interval(low, high):
        return NOTHING
    places = decimals(standard_error(low, high, level))
    return f"[{fixed(low, places)}, {fixed(high, places)}]"


def with_interval(
    value: float | None, low: float | None, high: float | None, level: float = 0.9
) -> str:
    """Write a number and its interval.

    >>> with_interval(0.34781, 0.31, 0.385), with_interval(2.0, None, None)
    ('0.348 [0.310, 0.385]', '2')
    """
    text = number(value, low, high, level)
    return f"{text} {interval(low, high, level)}" if interval(low, high) != NOTHING else text


def count(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a count of parameters or tokens with a suffix, with its interval where there is one.

    >>> count(7.14e10), count(7.14e10, 6.0e10, 8.5e10), count(1234.0)
    ('71.4B', '71.4B [60B, 85B]', '1.23k')
    >>> count(2.78e9, 2.5e9, 3.06e9)
    '2.78B [2.50B, 3.06B]'
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    text = _short(value)
    if low is None or high is None or not is_interval(low, high):
        return text
    digits = 3 if high - low < 0.3 * abs(value) else 2
    return f"{text} [{_end(low, digits)}, {_end(high, digits)}]"


def _end(value: float, digits: int) -> str:
    """Write an interval's end with all its digits: 2.50B beside 3.06B."""
    value = float(f"{value:.{digits}g}")
    for size, letter in _SUFFIXES:
        if abs(value) >= size:
            places = digits - 1 - math.floor(math.log10(abs(value) / size))
            return f"{value / size:.{max(0, places)}f}{letter}"
    return _plain(value)


def _short(value: float, digits: int = 3) -> str:
    value = float(f"{value:.{digits}g}")
    for size, letter in _SUFFIXES:
        if abs(value) >= size:
            return f"{_plain(value / size)}{letter}"
    return _plain(value)


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def flops(value: float | None) -> str:
    """Write compute.

    >>> flops(1e21), flops(None)
    ('1e21', '-')
    """
    return NOTHING if value is None or not math.isfinite(value) else compute_number(value)


def percent(value: float | None, digits: int = 2) -> str:
    """Write a share as per cent.

    >>> percent(0.00213), percent(None)
    ('0.21 %', '-')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.{digits}g} %"


def duration(seconds: float | None) -> str:
    """Write a time: seconds, minutes, hours or days.

    >>> duration(42.0), duration(5400.0), duration(None)
    ('42 s', '1.5 h', '-')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    for size, word in ((172800.0, "d"), (5400.0, "h"), (120.0, "min")):
        if seconds >= size:
            unit = {"d": 86400.0, "h": 3600.0, "min": 60.0}[word]
            return f"{seconds / unit:.3g} {word}"
    return f"{seconds:.3g} s"
