"""Answers of a law as lines for a terminal: digits by their interval, the interval beside them.

`fit --predict`, `predict` and `forecast` all print through this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.commands._output import format_table
from scalekit.fit.result import FitResult
from scalekit.quantities import write_count, write_flops

Entry = Mapping[str, Any]

_FEWEST_DIGITS = 5
_MOST_DIGITS = 12
_PLAIN_DIGITS = 6
"""Of a number without an interval."""

_SHARE_PLACES = 4
"""Decimal places of a share, two more than of its per cent: below that nobody decides."""

_WIDE = 3.0
"""High over low of an interval from which its ends are written each by itself."""


def number(value: Any, low: Any = None, high: Any = None) -> str:
    """Write a law's parameter with two digits below its half-width, and never fewer than five.

    Rounding a law's parameters to what their errors justify moves its optimum by far more than
    those errors do, because they are correlated.

    >>> number(0.347310499, 0.32, 0.37), number(None)
    ('0.34731', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    digits = _FEWEST_DIGITS
    if low is not None and high is not None and high > low and value:
        digits = max(digits, 2 + math.ceil(math.log10(abs(2 * value) / (high - low))))
        digits = min(digits, _MOST_DIGITS)
    return f"{value:.{digits}g}"


def span(ends: Mapping[str, Any] | None) -> str:
    """Write a parameter's interval, or a dash."""
    if not ends or ends.get("low") is None or ends.get("high") is None:
        return "-"
    low, high = float(ends["low"]), float(ends["high"])
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    digits = 3
    if high > low and high:
        digits = min(max(3, 2 + math.ceil(math.log10(abs(high) / (high - low)))), _MOST_DIGITS)
    return f"{low:.{digits}g} to {high:.{digits}g}"


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
    """
    low, high = _ends(ends)
    if low is None and kind == "share":
        return _own(value, kind), ""
    if low is None:
        return _write(value, value, _PLAIN_DIGITS - 1 - _decade(value), kind, zeros=False), ""
    if not math.isfinite(high):
        text = f"{_own(low, kind)} or more" if math.isfinite(low) else "any"
        return _own(value, kind), text
    if low > 0 and high / low > _WIDE:
        return _own(value, kind), f"{_own(low, kind)} to {_own(high, kind)}"
    half = (high - low) / 2
    places = (1 - _decade(half)) if half else _PLAIN_DIGITS - 1 - _decade(value)
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


def _own(value: float, kind: str) -> str:
    """Write a number by itself, to three digits."""
    return _write(value, value, 2 - _decade(value), kind)


def _write(value: float, like: float, places: int, kind: str, *, zeros: bool = True) -> str:
    """Write a number to `places` decimal places, at the power of ten at which `like` is written."""
    shift, suffix = 0, ""
    if kind == "flops":
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
    if ratio is None or not math.isfinite(ratio):
        return "-"
    if ratio >= 1e6:
        return f"{write_flops(ratio)}x"
    rounded = float(f"{ratio:.3g}")
    return f"{rounded:,.0f}x" if rounded >= 100 else f"{rounded:g}x"


@dataclass(frozen=True)
class Column:
    """A column of answers: its heading, the word of an entry, how the number is written."""

    head: str
    word: str
    kind: str = "plain"


FLOPS = Column("FLOPs", "flops", "flops")
PARAMS = Column("params", "params", "count")
TOKENS = Column("tokens", "tokens", "count")
RATIO = Column("tokens/param", "tokens_per_param")
EPOCHS = Column("epochs", "epochs")
LOSS = Column("loss", "loss")
WASTE = Column("wasted", "waste", "share")

OPTIMUM = (FLOPS, PARAMS, TOKENS, RATIO, EPOCHS, LOSS)
RUN = (FLOPS, PARAMS, TOKENS, RATIO, EPOCHS, LOSS, WASTE)
PRICE = (LOSS, FLOPS, PARAMS, TOKENS, RATIO, EPOCHS)


def optimum_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe the optimum at the asked budgets."""
    return ["optimum", *entry_table(OPTIMUM, entries)]


def miss_lines(entries: Sequence[Entry]) -> list[str]:
    """Say what half and double the optimal size would waste of each budget."""
    said = {}
    for entry in entries:
        parts = [told(entry[w], entry["intervals"].get(w), "share") for w in _MISSES]
        half, double = (f"{value}{_in(ends)}" for value, ends in parts)
        said[write_flops(entry["flops"])] = f"half the size wastes {half} of it, double {double}"
    if len(set(said.values())) == 1:
        # On a frontier that is a power law the waste is the same at every budget.
        return [f"  of a budget, {next(iter(said.values()))}"]
    return [f"  of {flops} FLOPs, {text}" for flops, text in said.items()]


_MISSES = ("waste_at_half", "waste_at_double")


def run_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe runs of given sizes, and what each wastes against the optimum of its budget."""
    lines = ["run" + "s" * (len(entries) > 1), *entry_table(RUN, entries)]
    if len(entries) == 1 and "waste" in entries[0]:
        lines.append(_waste_line(entries[0]))
    return lines


def _waste_line(entry: Entry) -> str:
    best = entry["params"] / entry["params_over_optimum"]
    value, ends = told(entry["waste"], entry["intervals"].get("waste"), "share")
    sure = f" ({ends})" if ends else ""
    return (
        f"  {_count(entry['params'])} params are {times(entry['params_over_optimum'])} the optimal "
        f"{_count(best)} at this budget: {value} of it{sure} buy nothing"
    )


def price_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe the cheapest runs that reach the asked losses."""
    return ["cheapest to reach a loss", *entry_table(PRICE, entries)]


def served_lines(entry: Entry) -> list[str]:
    """Describe the model to train for serving, beside the reference whose loss it reaches."""
    before = entry["reference"]
    rows = []
    for name, one in (("reference", before), ("best", entry)):
        ends = one.get("intervals", {})
        params = told(one["params"], ends.get("params"), "count")
        tokens = told(one["tokens"], ends.get("tokens"), "count")
        if one is before:
            params, tokens = (_count(before["params"]), ""), (_count(before["tokens"]), "")
        spent = [write_flops(one[w]) for w in ("training_flops", "inference_flops", "flops")]
        ratio = f"{one['tokens_per_param']:.3g}"
        rows.append([name, *params, *tokens, ratio, *spent])
    header = ("", "params", "90 %", "tokens", "90 %", "tokens/param")
    header = (*header, "training FLOPs", "inference FLOPs", "together")
    saved, ends = told(entry["saved"], entry["intervals"].get("saved"), "share")
    loss, loss_ends = told(entry["loss"], entry["intervals"].get("loss"))
    epochs = f" in {entry['epochs']:.3g} epochs" if "epochs" in entry else ""
    return [
        f"to serve {_count(entry['inference_tokens'])} tokens at loss {loss}{_in(loss_ends)}",
        *format_table(header, rows, indent=2).splitlines(),
        f"  saves {saved}{_in(ends)} of the reference's FLOPs{epochs}; its training alone is "
        f"{times(entry['extrapolation'])} the largest fitted",
        f"  reference: {before['convention']}",
    ]


def _in(ends: str) -> str:
    return f" ({ends})" if ends else ""


def _count(value: float) -> str:
    return write_count(value)


def entry_table(columns: Sequence[Column], entries: Sequence[Entry]) -> list[str]:
    """Set entries as a table: what none of them has is left out."""
    kept = [c for c in columns if any(e.get(c.word) is not None for e in entries)]
    header: list[str] = []
    cells: list[list[str]] = [[] for _ in entries]
    for column in kept:
        has_interval = any(column.word in e.get("intervals", {}) for e in entries)
        header += [column.head, "90 %"] if has_interval else [column.head]
        for entry, row in zip(entries, cells, strict=True):
            row.extend(_cells(column, entry)[: 2 if has_interval else 1])
        if column.word == "loss" and any("loss_prediction" in e["intervals"] for e in entries):
            header.append("one run")
            for entry, row in zip(entries, cells, strict=True):
                row.append(told(entry["loss"], entry["intervals"].get("loss_prediction"))[1])
    header.append("extrapolation")
    for entry, row in zip(entries, cells, strict=True):
        row.append(times(entry.get("extrapolation")))
    return format_table(header, cells, indent=2).splitlines()


def _cells(column: Column, entry: Entry) -> list[str]:
    value = entry.get(column.word)
    if value is None:
        return ["-", ""]
    ends = entry["intervals"].get(column.word)
    if ends is None and column.word != "loss":
        # Asked, or following from what was asked: no more digits than a reader wants.
        write = {"count": lambda x: write_count(x, digits=4), "flops": write_flops}
        return [write.get(column.kind, lambda x: _own(x, column.kind))(value), ""]
    return list(told(float(value), ends, column.kind))


def doubt_lines(entries: Sequence[Entry]) -> list[str]:
    """Say of each answer what it reaches beyond the fitted runs, and where no optimum was found."""
    lines = []
    for entry in entries:
        far = [f"{_WORDS.get(word, word)} {_off(ratio)}" for word, ratio in _unsaid(entry)]
        if far:
            lines.append(f"{_name(entry)}: outside the fitted runs, {', '.join(far)}")
        if "flops" in entry["intervals"] and _is_endless(entry):
            lines.append(
                f"loss {entry['loss']:g}: lies inside the interval of the irreducible loss; it may "
                "be out of reach of any compute"
            )
        if entry.get("at_search_end"):
            lines.append(
                f"{_name(entry)}: no optimum inside what was searched, the law's loss only falls "
                "towards one end; the size shown is that end"
            )
    return lines


def _is_endless(entry: Entry) -> bool:
    high = entry["intervals"]["flops"]["high"]
    return high is None or not math.isfinite(high)


_WORDS = {
    "flops": "FLOPs",
    "tokens_per_param": "tokens/param",
    "unique_tokens": "unique tokens",
    "model.d_model": "width",
    "model.n_layers": "depth",
}


def _unsaid(entry: Entry) -> list[tuple[str, float]]:
    """List what lies outside, without the budget above all others: the column says that."""
    outside = entry.get("outside", {})
    return [(w, r) for w, r in outside.items() if w != "flops" or r < 1]


def _off(ratio: float) -> str:
    return f"{times(ratio)} the largest" if ratio > 1 else f"{ratio:.2g} of the smallest"


def _name(entry: Entry) -> str:
    if entry.get("params") is None or entry.get("tokens") is None:
        return f"{write_flops(entry['flops'])} FLOPs" if entry.get("flops") else "this run"
    return f"{_count(entry['params'])} params on {_count(entry['tokens'])} tokens"


def basis_lines(fit: FitResult, method: str | None) -> list[str]:
    """Say how params, FLOPs and loss are counted, and what the intervals are if there are any."""
    data = fit.data
    kinds = [
        f"params {data.get('params_kind', 'unstated')}",
        f"FLOPs {data.get('flops_kind', 'unstated')}",
        f"loss {data.get('loss_unit', 'unstated')}",
    ]
    said = [f"{', '.join(kinds)}; extrapolation is over the largest fitted FLOPs"]
    if method is None:
        return [*said, "no intervals: the fit holds no covariance"]
    return [*said, f"90 % intervals by {method}; one run: the prediction interval of a single run"]
