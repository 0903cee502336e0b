"""Published rules that `derive` calls for runs outside of what their authors fitted them on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from scalekit import registry
from scalekit.hyperparameters.base import Rule
from scalekit.quantities import write_count
from scalekit.sweep.review import Check, Level, Point

QUANTITIES: dict[str, tuple[str, Callable[[Point], float]]] = {
    "N": ("params", lambda p: p.N),
    "D": ("tokens", lambda p: p.D),
    "D/N": ("tokens per parameter", lambda p: p.D / p.N),
}
"""What a rule may have a range of, in words and of a run."""

_BEYOND = 2.0
"""So far beyond the range of a power law nothing is said: params are counted in several ways."""


def check_ranges(expressions: Iterable[str], points: Sequence[Point]) -> list[Check]:
    """Tell of each rule how far the runs lie outside of its range, in the worst of its inputs."""
    words = {word for text in expressions for word in re.findall(r"[a-z_]\w*", text)}
    called = [name for name in registry.names("hyperparameters") if name in words]
    rules: list[Rule] = [registry.find("hyperparameters", name) for name in called]
    return [check for rule in rules for check in _beyond(rule, points)]


def _beyond(rule: Rule, points: Sequence[Point]) -> list[Check]:
    outside = []
    for name, (least, most) in rule.fitted_range.items():
        what, read = QUANTITIES[name]
        values = [read(p) for p in points]
        low, high = min(values), max(values)
        if low < least / _BEYOND or high > most * _BEYOND:
            outside.append(f"{_span(least, most)} {what}, these runs have {_span(low, high)}")
    if not outside:
        return []
    text = f"{rule.name} was fitted on {'; on '.join(outside)}"
    todo = "a first guess at this scale: sweep around it before you trust it"
    return [Check(Level.NOTE, "rule", text, todo)]


def _span(low: float, high: float) -> str:
    ends = dict.fromkeys(write_count(value, digits=3) for value in (low, high))
    return " to ".join(ends)
