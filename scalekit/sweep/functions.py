"""The operators and functions that expressions may use."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scalekit import registry

_MAX_BITS = 2048  # of a whole power; floats end at 1024


def _power(base: float, exponent: float) -> float:
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent >= 0 and base.bit_length() * exponent > _MAX_BITS:
            raise OverflowError("a power is too large")
        return base**exponent
    result = float(base) ** exponent
    if isinstance(result, complex):
        raise ValueError("a root of a negative number")
    return result


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _pow2(value: float) -> int:
    """Return the power of two that is nearest in log space."""
    exponent = round(math.log2(value))
    if exponent < 0:
        raise ValueError("pow2 needs a number of at least 1")
    return 2**exponent


@dataclass(frozen=True)
class Function:
    """What may be called, with the fewest and the most arguments.

    Attributes:
        inputs: What the arguments are, where they have names.
    """

    act: Callable[..., Any]
    fewest: int
    most: int
    inputs: tuple[str, ...] = ()

    def refuse(self, name: str, n: int) -> tuple[str, str] | None:
        """Say what is wrong with calling it with `n` arguments, and what to do."""
        if self.fewest <= n <= self.most:
            return None
        found = f"found {n} argument{'s' if n != 1 else ''}"
        if self.inputs:
            listed = ", ".join(self.inputs)
            return f"{name} takes {listed}, {found}", f"write {name}({listed})"
        many = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
        plural = "" if many == "1" else "s"
        return f"{name} takes {many} argument{plural}, found {n}", "change it"


ARITHMETICAL: dict[str, Function] = {
    "min": Function(min, 2, 16),
    "max": Function(max, 2, 16),
    "round": Function(round, 1, 1),
    "floor": Function(math.floor, 1, 1),
    "ceil": Function(math.ceil, 1, 1),
    "log": Function(math.log, 1, 2),
    "log2": Function(math.log2, 1, 1),
    "log10": Function(math.log10, 1, 1),
    "sqrt": Function(math.sqrt, 1, 1),
    "exp": Function(math.exp, 1, 1),
    "clamp": Function(_clamp, 3, 3),
    "pow2": Function(_pow2, 1, 1),
}
"""The functions that are no published rule."""


def function_names() -> tuple[str, ...]:
    """List what may be called: the arithmetical functions and the rules for hyperparameters."""
    return (*ARITHMETICAL, *registry.names("hyperparameters"))


def find_function(name: str) -> Function | None:
    """Return a function by its name; of the rules only those that are called are imported."""
    if name in ARITHMETICAL:
        return ARITHMETICAL[name]
    if name not in registry.names("hyperparameters"):
        return None
    rule = registry.find("hyperparameters", name)
    return Function(rule, len(rule.inputs), len(rule.inputs), rule.inputs)


ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
"""Operators between numbers."""

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
"""Comparisons between two of a kind."""
