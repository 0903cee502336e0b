"""Numbers for people: rounded to what their interval says is known, never further."""

from __future__ import annotations

import math

from scalekit.analysis import digits
from scalekit.quantities import write_count, write_flops

_LEAST_POWER = -7
"""Of ten, from which a share is written out; below it only rounding is left."""

NOTHING = "-"
"""What stands where there is no number."""


def is_interval(low: float | None, high: float | None) -> bool:
    """Whether both ends are there, finite and apart."""
    return (
        low is not None
        and high is not None
        and math.isfinite(low)
        and math.isfinite(high)
        and high > low
    )


def parameter_interval(low: float | None, high: float | None) -> str:
    """Write a parameter's interval.

    >>> parameter_interval(1458.0, 5789.0), parameter_interval(None, None)
    ('[1460, 5790]', '-')
    """
    if low is None or high is None or not is_interval(low, high):
        return NOTHING
    return _bracket(digits.span({"low": low, "high": high}))


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a number to what its interval supports, or to four digits without one.

    >>> number(0.34781, 0.31, 0.385), number(1.69337)
    ('0.348', '1.693')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if low is None or high is None or not is_interval(low, high):
        return f"{value:.4g}"
    return digits.told(value, {"low": low, "high": high})[0]


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Write a number and its interval, to the same place.

    >>> with_interval(0.34781, 0.31, 0.385), with_interval(2.0, None, None)
    ('0.348 [0.310, 0.385]', '2')
    """
    if value is None or low is None or high is None or not is_interval(low, high):
        return number(value)
    text, ends = digits.told(value, {"low": low, "high": high})
    return f"{text} {_bracket(ends)}"


def count(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a count of parameters or tokens with a suffix, with its interval where there is one.

    >>> count(7.14e10), count(7.14e10, 6.0e10, 8.5e10), count(1234.0), count(4.2e16)
    ('71.4B', '71.4B [60.0B, 85.0B]', '1.23k', '4.2e16')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if low is None or high is None or not is_interval(low, high):
        return write_count(value)
    text, ends = digits.told(value, {"low": low, "high": high}, "count")
    return f"{text} {_bracket(ends)}"


def _bracket(ends: str) -> str:
    """Write `low to high` as reports do."""
    return f"[{ends.replace(' to ', ', ')}]"


def flops(value: float | None) -> str:
    """Write compute.

    >>> flops(1e21), flops(None)
    ('1e21', '-')
    """
    return NOTHING if value is None or not math.isfinite(value) else write_flops(value)


def percent(value: float | None) -> str:
    """Write a share as per cent, to two digits.

    >>> percent(0.00213), percent(0.0104), percent(1.234), percent(None)
    ('0.21 %', '1.0 %', '123 %', '-')
    >>> percent(1.8e-15)
    '1.8e-13 %'
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    power = math.floor(math.log10(abs(value))) if value else -2
    if power < _LEAST_POWER:
        return f"{flops(100 * value)} %"
    return f"{100 * value:.{max(-1 - power, 0)}f} %"


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
