"""Read and write numbers as people do: 1e18, 70M, 1.4T, 0.5%, 2h30m, 32GB."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from scalekit.errors import InputError

SUFFIXES = {"k": 3, "K": 3, "M": 6, "G": 9, "B": 9, "T": 12, "P": 15}
"""Powers of ten by suffix."""

LARGEST_WHOLE = 2**63 - 1
"""The largest whole number that is read; other programs hold no larger one."""

NUMBER_PATTERN = r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d{1,4})?( ?[kKMGBTP]|%)?"
"""What `read_number` accepts, as a regular expression (for editors and schemas)."""

DURATION_PATTERN = r"(\d+(\.\d+)?(d|h|m|s))+|\d+(\.\d+)?|(\d+-)?\d+:\d\d:\d\d"
"""What `read_duration` accepts."""

_NUMBER = re.compile(NUMBER_PATTERN, re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)\s*", re.ASCII)
_DURATION = re.compile(f"(?:{_DURATION_PART.pattern})+", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,4})-)?(\d{1,4}):(\d\d):(\d\d)", re.ASCII)
_SECONDS = {"d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}
_MEMORY = re.compile(r"([\d.]+(?:[eE]\d+)?)\s*(?:([KMGT])(i?)B?)?", re.IGNORECASE | re.ASCII)
_BEYOND_SUFFIXES = 1e15  # counts, or seconds, whose digits nobody would count
_LONGEST = 100  # characters of a number; longer ones are a mistake, and int() of them is slow


def _decimal(text: str) -> Decimal:
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if found is None:
        raise InputError(
            f"{text[:_LONGEST]!r}: not a number; write it like 3e-4, 70M, 1e18 or 0.5%"
        )
    suffix = (found.group(3) or "").strip()
    digits = text.strip().removesuffix(suffix).strip().replace("_", "")
    value = Decimal(digits).scaleb(-2 if suffix == "%" else SUFFIXES.get(suffix, 0))
    if value and not -308 <= value.adjusted() < 308:
        raise InputError(f"{text!r}: too large or too small; write a number within 1e-308 to 1e308")
    return value


def read_number(text: str) -> float:
    """Read a number with an optional suffix or percent sign.

    >>> read_number("1.4T"), read_number("3e-4"), read_number("0.5%")
    (1400000000000.0, 0.0003, 0.005)

    Raises:
        InputError: Not a number, or not finite.
    """
    return float(_decimal(text))


def read_whole(text: str) -> int:
    """Read a whole number exactly, in any of the forms of `read_number`.

    >>> read_whole("1e18"), read_whole("70M"), read_whole("010")
    (1000000000000000000, 70000000, 10)

    Raises:
        InputError: Not a number, or not a whole one.
    """
    value = _decimal(text)
    if value != value.to_integral_value():
        raise InputError(f"{text!r}: not a whole number; round it")
    if abs(value) > LARGEST_WHOLE:
        raise InputError(f"{text!r}: too large for a whole number; keep it below 9e18")
    return int(value)


def read_duration(text: str) -> float:
    """Read a length of time in seconds: 2h30m, 90s, 1d12h, 1:30:00, 1-12:00:00; bare is seconds.

    >>> read_duration("2h30m"), read_duration("1:30:00"), read_duration("45")
    (9000.0, 5400.0, 45.0)

    Raises:
        InputError: Not a duration, or one that can be read in two ways, like 12:30.
    """
    word = text.strip()
    clock = _CLOCK.fullmatch(word)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    if re.fullmatch(r"[0-9]+:[0-9]+", word):
        left, right = word.split(":")
        raise InputError(
            f"{text!r}: may be hours or minutes; write {left}h{right}m or {left}m{right}s"
        )
    if len(word) <= _LONGEST and _DURATION.fullmatch(word):
        return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(word))
    try:
        seconds_alone = read_number(word)
    except InputError:
        seconds_alone = -1.0
    if seconds_alone < 0:
        raise InputError(
            f"{text[:_LONGEST]!r}: not a duration; write it like 2h30m, 90s or 1:30:00"
        )
    return seconds_alone


def read_memory(text: str) -> float:
    """Read an amount of memory in gigabytes (1e9 bytes): 32GB, 512MB, 16GiB; bare is gigabytes.

    >>> read_memory("32GB"), read_memory("512M"), read_memory("1GiB")
    (32.0, 0.512, 1.073741824)

    Raises:
        InputError: Not an amount of memory.
    """
    found = _MEMORY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    try:
        amount = float(found.group(1)) if found else math.nan
    except ValueError:
        amount = math.nan
    if found is None or not math.isfinite(amount):
        raise InputError(
            f"{text[:_LONGEST]!r}: not an amount of memory; write it like 32GB or 512MB"
        )
    power = "KMGT".index(found.group(2).upper()) + 1 if found.group(2) else 3
    unit = 1024**power if found.group(3) else 1000**power
    return amount * unit / 1e9


def write_count(value: float, *, digits: int = 3) -> str:
    """Write a count with a suffix, or as a power of ten, to `digits` significant digits.

    >>> write_count(1.2e9), write_count(70_000_000), write_count(512), write_count(943, digits=2)
    ('1.2B', '70M', '512', '940')
    """
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) >= _BEYOND_SUFFIXES:
        return write_flops(rounded, digits=digits)
    for suffix, power in (("T", 12), ("B", 9), ("M", 6), ("k", 3)):
        if abs(rounded) >= 10**power:
            scaled = rounded / 10**power
            return (
                f"{scaled:.0f}" if abs(scaled) >= 10**digits else f"{scaled:.{digits}g}"
            ) + suffix
    return f"{rounded:.0f}" if abs(rounded) >= 10**digits else f"{rounded:.{digits}g}"


def write_flops(value: float, *, digits: int = 3) -> str:
    """Write FLOPs as a power of ten.

    >>> write_flops(1e18), write_flops(3.25e15)
    ('1e18', '3.25e15')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def write_duration(seconds: float) -> str:
    """Write a length of time with its two largest units.

    >>> write_duration(9000), write_duration(45.2), write_duration(0.5), write_duration(90061)
    ('2h30m', '45s', '0.5s', '1d1h')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return "-" + write_duration(-seconds)
    if seconds >= _BEYOND_SUFFIXES:
        return f"{write_flops(seconds / _SECONDS['d'])}d"
    if seconds < 9.95:
        return f"{seconds:.2g}s"
    units = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
    for i, (name, size) in enumerate(units[:-1]):
        small_name, small = units[i + 1]
        # Rounding to the smaller unit may carry: 3599.7 s is an hour.
        parts = round(seconds / small)
        if parts * small >= size:
            large, rest = divmod(parts, size // small)
            return f"{large}{name}" + (f"{rest}{small_name}" if rest else "")
    return f"{round(seconds)}s"


def write_ratio(ratio: float) -> str:
    """Write how many times as large something is, to three digits.

    >>> write_ratio(10.0), write_ratio(5880.0), write_ratio(2.2e7), write_ratio(0.3)
    ('10', '5,880', '2.2e7', '0.3')
    >>> write_ratio(1e-9)
    '1e-9'
    """
    if ratio >= 1e6 or 0 < ratio < 1e-4:
        return write_flops(ratio)
    rounded = float(f"{ratio:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def count_words(n: int, word: str) -> str:
    """Write how many of something there are, in the singular where it is one.

    >>> count_words(1, "run"), count_words(40, "run")
    ('1 run', '40 runs')
    """
    return f"{n} {word}" + ("" if n == 1 else "s")
