"""Numbers with as many digits as their interval supports, alike in terminal, report and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scalekit.quantities import write_ratio

_FEWEST_DIGITS = 5
_MOST_DIGITS = 12
_ROUNDING = 1e-9
"""Half-width over value of an interval that only rounding left, as exact runs give."""

_PLAIN_DIGITS = 6
"""Of a number without an interval."""

_BEYOND_SUFFIXES = 1e15
"""Counts from which a power of ten says more than thousands of T."""

_SMALLEST = 1e-4
"""Numbers below which a power of ten says more than zeros."""

_SHARE_PLACES = 4
"""Decimal places of a share, two more than of its per cent: below that nobody decides."""

_WIDE = 3.0
"""High over low of an interval from which its ends are written each by itself."""


def number(value: Any, low: Any = None, high: Any = None) -> str:
    """Write a law's parameter with two digits below its half-width, and never fewer than five.

    Rounding a law's parameters to what their errors justify moves its optimum by far more than
    those errors do, because they are correlated.

    >>> number(0.347310499, 0.32, 0.37), number(None), number(330472.0), number(2.6361e8)
    ('0.34731', '-', '330470', '2.6361e8')
    >>> number(1.2e-8, 1e-300, math.inf)
    '1.2e-8'
    """
    if value is None or not math.isfinite(value):
        return "-"
    digits = _FEWEST_DIGITS
    # Of an end beyond the largest float nothing follows.
    wide = 0.0 if low is None or high is None else high - low
    sharp = abs(2 * value) / wide if wide > 0 else 0.0
    if sharp > 0:
        digits = min(max(digits, 2 + math.ceil(math.log10(sharp))), _MOST_DIGITS)
    text = _fixed(value, digits - 1 - _decade(value))
    mantissa, power, exponent = text.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return mantissa + power + exponent


def span(ends: Mapping[str, Any] | None) -> str:
    """Write a parameter's interval, both ends to the same place, or a dash.

    >>> span({"low": 0.481, "high": 0.55}), span({"low": 1458.0, "high": 5788.7})
    ('0.481 to 0.550', '1460 to 5790')
    >>> span({"low": 8.44e4, "high": 8.24e11}), span({"low": -0.43, "high": -0.199})
    ('84400 to 8.24e11', '-0.430 to -0.199')
    """
    if not ends or ends.get("low") is None or ends.get("high") is None:
        return "-"
    low, high = float(ends["low"]), float(ends["high"])
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    if low > 0 and high / low > _WIDE:
        return f"{_fixed(low, 2 - _decade(low))} to {_fixed(high, 2 - _decade(high))}"
    digits = 3
    if high > low and high:
        digits = min(max(3, 2 + math.ceil(math.log10(abs(high) / (high - low)))), _MOST_DIGITS)
    places = digits - 1 - _decade(max(abs(low), abs(high)))
    return f"{_fixed(low, places)} to {_fixed(high, places)}"


def _fixed(value: float, places: int) -> str:
    """Write a number to decimal places, fewer than none for tens and hundreds; huge as a power."""
    decade = _decade(value)
    if value and not -5 < decade < 6:
        mantissa, power = f"{value:.{max(places + decade, 0)}e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{round(value, places):.{max(places, 0)}f}"


def told(value: float, ends: Mapping[str, Any] | None, kind: str = "plain") -> tuple[str, str]:
    """Write a number to two digits of its half-width, three at least, and its interval likewise.

    `kind` is plain, count (suffixes), flops (powers of ten) or share (per cent). The interval is
    empty where there is none; an end that is not finite is a word.

    >>> told(2.8516e9, {"low": 2.7302e9, "high": 2.9783e9}, "count")
    ('2.85B', '2.73B to 2.98B')
    >>> told(2.310549, {"low": 2.304007, "high": 2.317109})
    ('2.3105', '2.3040 to 2.3171')
    >>> told(4.6e23, {"low": 2.6e23, "high": math.inf}, "flops"), told(0.2541, None, "share")
    (('4.60e23', '2.60e23 or more'), ('25.4 %', ''))
    >>> told(4.1722812e16, {"low": 4.1e16, "high": 4.3e16}, "count")
    ('4.17e16', '4.10e16 to 4.30e16')
    >>> told(6.11e-9, {"low": 2.73e-9, "high": 1.37e-8}), told(1.23e-5, None)
    (('6.11e-9', '2.73e-9 to 1.37e-8'), ('1.23e-5', ''))
    >>> told(9.57418039878, {"low": 9.57418039877, "high": 9.57418039879})
    ('9.57418', '9.57418 to 9.57418')
    """
    low, high = _ends(ends)
    if low is None and kind == "share":
        return own(value, kind), ""
    if low is None:
        return _write(value, value, _PLAIN_DIGITS - 1 - _decade(value), kind, zeros=False), ""
    if not math.isfinite(high):
        text = f"{own(low, kind)} or more" if math.isfinite(low) else "any"
        return own(value, kind), text
    if low > 0 and high / low > _WIDE:
        return own(value, kind), f"{own(low, kind)} to {own(high, kind)}"
    half = (high - low) / 2
    is_sure = half <= _ROUNDING * abs(value)
    places = _PLAIN_DIGITS - 1 - _decade(value) if is_sure else 1 - _decade(half)
    places = min(max(places, 2 - _decade(value)), _MOST_DIGITS - 1 - _decade(value))
    if kind == "share":
        places = min(places, _SHARE_PLACES)
    words = [_write(x, value, places, kind) for x in (value, low, high)]
    return words[0], f"{words[1]} to {words[2]}"


def _ends(ends: Mapping[str, Any] | None) -> tuple[float | None, float]:
    """Return an interval's ends; what JSON has no word for comes back as no upper end."""
    if not ends or ends.get("low") is None:
        return None, math.nan
    high = ends.get("high")
    low = float(ends["low"])
    return (None if math.isnan(low) else low), (math.inf if high is None else float(high))


def _decade(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def own(value: float, kind: str) -> str:
    """Write a number by itself, to three digits."""
    return _write(value, value, 2 - _decade(value), kind)


def _write(value: float, like: float, places: int, kind: str, *, zeros: bool = True) -> str:
    """Write a number to `places` decimal places, at the power of ten at which `like` is written."""
    shift, suffix = 0, ""
    is_written_out = not like or _SMALLEST <= abs(like) < _BEYOND_SUFFIXES
    if kind == "flops" or (kind != "share" and not is_written_out):
        shift = _decade(like)
        suffix = f"e{shift}"
    elif kind == "count":
        shift, suffix = _suffix(like)
    elif kind == "share":
        shift, suffix = -2, " %"
    text = f"{value / 10.0**shift:.{max(places + shift, 0)}f}"
    if not zeros and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text + suffix


def _suffix(like: float) -> tuple[int, str]:
    for word, power in (("T", 12), ("B", 9), ("M", 6), ("k", 3)):
        if abs(like) >= 10.0**power:
            return power, word
    return 0, ""


def times(ratio: float | None) -> str:
    """Write a ratio of budgets.

    >>> times(10.0), times(5880.0), times(2.2e7), times(0.3), times(None)
    ('10x', '5,880x', '2.2e7x', '0.3x', '-')
    """
    return "-" if ratio is None or not math.isfinite(ratio) else f"{write_ratio(ratio)}x"
