"""What a JSON file of ours must hold, told in words where one that was changed by hand does not.

A shape is `NUMBER`, `POSITIVE`, `TEXT`, `TRUTH` or None; a tuple of shapes, of which one must fit;
a list of one, which all items fit, or of one for each item; or a mapping by key, where `name?` may
be left out, `...` stands for every other key, and keys that it does not name are free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from scalekit.laws.base import Law

NUMBER = "a number"
POSITIVE = "a positive number"
TEXT = "text"
TRUTH = "true or false"

Shape = Any
_LONGEST = 40


def read_json(text: str) -> Any:
    """Read JSON all of whose numbers are finite.

    Raises:
        ValueError: Not JSON, or a number that no file of ours holds (NaN, Infinity, 1e400).
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:_LONGEST]} is no finite number")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def plain(value: Any) -> Any:
    """Turn numpy numbers into Python's and what is not finite into null, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def check_shape(value: Any, shape: Shape, name: str = "") -> None:
    """Compare a value with a shape.

    Raises:
        ValueError: It is not of that shape; the message names the first place that is not.
    """
    if isinstance(shape, Mapping) and isinstance(value, Mapping):
        for key in shape:
            if key is not ... and key.rstrip("?") not in value and not key.endswith("?"):
                raise ValueError(f"{_below(name, key)} is missing")
        own = {key.rstrip("?"): one for key, one in shape.items() if key is not ...}
        for key, item in value.items():
            if key in own or ... in shape:
                check_shape(item, own.get(key, shape.get(...)), _below(name, key))
    elif isinstance(shape, list) and isinstance(value, list | tuple):
        if len(shape) > 1 and len(shape) != len(value):
            raise ValueError(f"{name} has {len(value)} items, not {len(shape)}")
        for position, item in enumerate(value):
            one = shape[position if len(shape) > 1 else 0]
            # A fit may hold thousands of draws: what is right is not given a name first.
            if not (type(item) is float and type(one) is tuple and NUMBER in one):
                check_shape(item, one, f"{name}[{position}]")
    elif isinstance(shape, tuple):
        _check_one_of(value, shape, name)
    elif not _fits(value, shape):
        raise ValueError(f"{name} is {repr(value)[:_LONGEST]}, not {_words(shape)}")


def _below(name: str, key: str) -> str:
    return f"{name}.{key.rstrip('?')}" if name else key.rstrip("?")


def _check_one_of(value: Any, shapes: tuple[Shape, ...], name: str) -> None:
    told = []
    for shape in shapes:
        try:
            return check_shape(value, shape, name)
        except ValueError as error:
            told.append(error)
    raise told[0]


def _fits(value: Any, shape: Shape) -> bool:
    if shape in (NUMBER, POSITIVE):
        return type(value) in (int, float) and (shape == NUMBER or value > 0)
    if shape is None:
        return value is None
    return isinstance(value, str if shape == TEXT else bool) and shape in (TEXT, TRUTH)


def _words(shape: Shape) -> str:
    if isinstance(shape, Mapping):
        return "names and values"
    return "a list" if isinstance(shape, list) else str(shape)


def check_theta(law: Law, theta: Mapping[str, Any]) -> None:
    """Look at whether a law's parameters are numbers that it may have.

    Raises:
        ValueError: One is left out, or is negative where the law takes its logarithm.
    """
    for param in law.params:
        check_shape(theta, {param.name: NUMBER}, "theta")
        if param.transform != "linear" and theta[param.name] < 0:
            raise ValueError(f"theta.{param.name} is {theta[param.name]:g}, below zero")


def check_rows(name: str, rows: Any, width: int, *, square: bool = False) -> None:
    """Look at whether a table of numbers has a row for, or of, every parameter.

    Raises:
        ValueError: It does not.
    """
    if rows is None:
        return
    lengths = {len(row) for row in rows} | ({len(rows)} if square else set())
    if wrong := lengths - {width}:
        raise ValueError(f"{name} is of {min(wrong)} parameters, there are {width}")
