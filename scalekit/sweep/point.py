"""One run's settings, each computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scalekit.counting import Shape, count_flops_per_token, count_params
from scalekit.sweep.keys import SPANS
from scalekit.sweep.sections import CountSpec

SHAPE = tuple(Shape.__dataclass_fields__)
"""The fields of a shape, in order."""

_MAY_FOLLOW = (*(f"model.{field}" for field in SHAPE), *SPANS.values())


class RunProblemError(Exception):
    """A run's settings do not go together.

    Attributes:
        keys: Whose values are to blame; the first of them that was written gives the place.
    """

    def __init__(self, key: str, what: str, todo: str, also: tuple[str, ...] = ()) -> None:
        self.keys = (key, *also)
        self.what = what if key in what else f"{key}: {what}"
        self.todo = todo
        super().__init__(f"{self.what}; {todo}")


class MissingSettingError(RunProblemError):
    """A run lacks a setting that follows from no other."""


def indivisible(key: str, value: int, by: str, divisor: int) -> RunProblemError:
    """Say that a value is not a multiple, with the nearest that are."""
    below = value // divisor * divisor
    near = f"{below} or {below + divisor}" if below else str(divisor)
    return RunProblemError(
        key, f"{key} {value} is not a multiple of {by} {divisor}", f"take {near}"
    )


@dataclass(frozen=True)
class Counted:
    """Parameters and FLOPs per token of a shape, by every convention."""

    params: Mapping[str, int]
    flops_per_token: Mapping[str, float]


@lru_cache(maxsize=65536)
def counted(*shape: Any) -> Counted:
    """Count a shape given by the fields of `Shape`, in order."""
    built = Shape(*shape)
    return Counted(count_params(built), count_flops_per_token(built))


Rule = Callable[["Point"], Any]


class Point(dict[str, Any]):
    """The settings of one run; what is not given is computed by a rule when first read."""

    __slots__ = ("_given", "count", "open", "rules")

    def __init__(
        self,
        given: Mapping[str, Any],
        rules: Mapping[str, Rule],
        derived: Container[str],
        count: CountSpec,
    ) -> None:
        super().__init__(given)
        # Noted now, for what is computed later joins the same dict.
        self._given = {key for key in _MAY_FOLLOW if key in derived or key in given}
        self.rules = rules
        self.count = count
        self.open: list[str] = []

    def __missing__(self, name: str) -> Any:
        if name in self.open:
            chain = " -> ".join([*self.open[self.open.index(name) :], name])
            raise RunProblemError(name, f"depends on itself, {chain}", "give one of them")
        self.open.append(name)
        value = self.rules[name](self)
        self.open.pop()
        self[name] = value
        return value

    def is_given(self, key: str) -> bool:
        """Whether a setting that may follow from others was written or derived instead."""
        return key in self._given
