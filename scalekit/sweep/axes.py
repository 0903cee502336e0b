"""Read the settings and lists of a sweep file: base, grid, zip, cases, sizes."""

from __future__ import annotations

import math
from typing import Any

from scalekit import registry
from scalekit.config.nodes import Items, Node, Table, Text
from scalekit.config.problems import Place, Problems
from scalekit.config.validate import BAD, read_value
from scalekit.errors import did_you_mean
from scalekit.sweep.keys import (
    KEYS,
    SECTIONS,
    UnknownKeyError,
    ValueProblemError,
    check_value,
    resolve_key,
)
from scalekit.sweep.sweep_spec import Axis, Option

MAX_VALUES = 100_000

_FAMILY = {"model.arch": "models", "data.source": "datasets"}
_SPREADS = {"logspace": "num", "linspace": "num", "range": "step"}
_EXAMPLE = "write [a, b], {logspace: [a, b], num: n}, {linspace: ...} or {range: [a, b], step: s}"


def flatten(node: Node, problems: Problems, prefix: str = "") -> Table:
    """Return the settings of a section under their dotted names, however they were written."""
    flat = Table(node.place)
    if isinstance(node, Text) and node.is_null:
        return flat
    if not isinstance(node, Table):
        problems.add(node.place, f"must be a mapping, found {node.describe()}", "give it keys")
        return flat
    for word, child in node.entries.items():
        place = node.keys[word]
        for name, (key_place, value) in _named(word, child, place, problems, prefix).items():
            if name in flat.entries:
                what = f"duplicate key {name!r}, first on line {flat.keys[name].line}"
                problems.add(key_place, what, "keep one of them")
            else:
                flat.entries[name], flat.keys[name] = value, key_place
    return flat


def _named(
    word: str, child: Node, place: Place, problems: Problems, prefix: str
) -> dict[str, tuple[Place, Node]]:
    """Return the settings that one entry of a section holds."""
    if prefix + word in SECTIONS:
        inner = flatten(child, problems, f"{prefix}{word}.")
        return {name: (inner.keys[name], value) for name, value in inner.entries.items()}
    try:
        return {resolve_key(word, prefix): (place, child)}
    except UnknownKeyError as error:
        problems.add(place, error.what, error.todo)
        return {}


def read_setting(name: str, node: Node, problems: Problems) -> Any:
    """Read one setting by its declared type and range; `BAD` where it does not fit."""
    value = read_value(node, KEYS[name].hint, problems)
    if value is BAD:
        return BAD
    try:
        value = check_value(name, value, node.place, node)
    except ValueProblemError as error:
        problems.append(error.problem)
        return BAD
    family = _FAMILY.get(name)
    if family and not value.endswith(".py") and value not in registry.names(family):
        todo = did_you_mean(value, registry.names(family))
        problems.add(node.place, f"unknown {name} {value!r}", todo)
        return BAD
    return value


def read_option(node: Node, problems: Problems) -> Option:
    """Read settings that go together."""
    flat = flatten(node, problems)
    read = {name: read_setting(name, child, problems) for name, child in flat.entries.items()}
    return Option(
        {name: value for name, value in read.items() if value is not BAD},
        {name: child.place for name, child in flat.entries.items()},
    )


def read_grid(node: Node, problems: Problems) -> tuple[Axis, ...]:
    """Read the axes of a grid; a null takes an inherited axis away."""
    flat = flatten(node, problems)
    axes = []
    for name, child in flat.entries.items():
        if isinstance(child, Text) and child.is_null:
            continue
        axes.append(_axis([name], [_read_list(name, child, problems)]))
    return tuple(axes)


def read_zip(node: Node, problems: Problems) -> Axis | None:
    """Read lists that are walked together."""
    flat = flatten(node, problems)
    kept = {
        name: child
        for name, child in flat.entries.items()
        if not (isinstance(child, Text) and child.is_null)
    }
    before = len(problems)
    columns = [_read_list(name, child, problems) for name, child in kept.items()]
    if not columns or len(problems) > before:
        return None
    lengths = {name: len(column) for name, column in zip(kept, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        problems.add(node.place, f"lists of different lengths, {shown}", "give them one length")
        return None
    return _axis(list(kept), columns)


def read_cases(node: Node, problems: Problems) -> tuple[Option, ...]:
    """Read single runs."""
    if isinstance(node, Text) and node.is_null:
        return ()
    if not isinstance(node, Items):
        problems.add(node.place, f"must be a list, found {node.describe()}", "write [{...}, {...}]")
        return ()
    return tuple(read_option(item, problems) for item in node.items)


def _axis(names: list[str], columns: list[list[tuple[Any, Place]]]) -> Axis:
    options = [
        Option(
            {name: value for name, (value, _) in zip(names, row, strict=True)},
            {name: place for name, (_, place) in zip(names, row, strict=True)},
        )
        for row in zip(*columns, strict=True)
    ]
    return Axis(tuple(names), tuple(options))


def _read_list(name: str, node: Node, problems: Problems) -> list[tuple[Any, Place]]:
    """Read the values that one key takes, each with its place."""
    if isinstance(node, Table):
        return _read_spread(name, node, problems)
    if not isinstance(node, Items):
        what = f"{name!r} needs a list, found {node.describe()}"
        problems.add(node.place, what, f"write [{getattr(node, 'text', '')}], or set it in base")
        return []
    if not node.items:
        problems.add(node.place, f"{name!r} has an empty list", "give it values, or remove it")
    read = [(read_setting(name, item, problems), item.place) for item in node.items]
    return [(value, place) for value, place in read if value is not BAD]


def _read_spread(name: str, node: Table, problems: Problems) -> list[tuple[Any, Place]]:
    """Read a `logspace`, `linspace` or `range`."""
    kinds = [kind for kind in _SPREADS if kind in node.entries]
    if len(kinds) != 1 or set(node.entries) != {kinds[0], _SPREADS[kinds[0]]}:
        problems.add(node.place, f"not a list of values, found {node.describe()}", _EXAMPLE)
        return []
    if KEYS[name].kind != "number":
        problems.add(node.place, f"{name!r} takes no numbers", "write a list")
        return []
    (kind,) = kinds
    before = len(problems)
    ends = read_value(node.entries[kind], list[float], problems)
    step = read_value(node.entries[_SPREADS[kind]], int if kind != "range" else float, problems)
    if len(problems) > before:
        return []
    try:
        values = _spread(kind, ends, step)
    except ValueError as error:
        what, _, todo = str(error).partition("; ")
        problems.add(node.place, what, todo)
        return []
    whole = "int" in str(KEYS[name].hint)
    found = []
    for value in values:
        # Twelve digits, so that 10 ** -3 is 0.001 on every machine.
        exact = float(f"{value:.12g}")
        text = str(round(exact)) if whole and kind != "range" else repr(exact)
        found.append((read_setting(name, Text(node.place, text), problems), node.place))
    return [(value, place) for value, place in found if value is not BAD]


def _spread(kind: str, ends: list[float], step: float) -> list[float]:
    if len(ends) != 2:
        raise ValueError(f"{kind} needs two ends, found {len(ends)}; {_EXAMPLE}")
    low, high = ends
    if kind == "range":
        if step == 0 or (high - low) / step < 0:
            raise ValueError(f"step {step:g} does not lead from {low:g} to {high:g}; change it")
        number = math.floor((high - low) / step + 1e-9) + 1
        if number > MAX_VALUES:
            raise ValueError(f"{number} values, more than {MAX_VALUES}; take a larger step")
        return [low + i * step for i in range(number)]
    if not 2 <= step <= MAX_VALUES:
        raise ValueError(f"num must be from 2 to {MAX_VALUES}, found {step}; change it")
    shares = [i / (step - 1) for i in range(int(step))]
    if kind == "linspace":
        return [low + (high - low) * share for share in shares]
    if low <= 0 or high <= 0:
        raise ValueError(f"logspace needs positive ends, found {low:g} and {high:g}; change them")
    return [math.exp(math.log(low) + (math.log(high) - math.log(low)) * share) for share in shares]
