"""The keys of a run's configuration, flat: dotted names, short names, and reading one value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from scalekit.config.nodes import Node
from scalekit.config.problems import Place, Problem
from scalekit.config.validate import explain, hint_of
from scalekit.errors import nearest
from scalekit.quantities import LARGEST_WHOLE
from scalekit.sweep.spec import RunConfig

Kind = Literal["number", "text", "truth"]

QUANTITIES = ("N", "N_total", "N_embedding", "D", "C", "steps", "flops_per_token")
"""What expressions may name beside the keys; all are numbers."""

HORIZON = ("train.tokens", "train.steps", "train.flops", "train.tokens_per_param")
"""How long to train may be said by any one of these."""


SPANS = {"train.warmup_tokens": "train.warmup_frac", "train.decay_tokens": "train.decay_frac"}
"""Parts of a schedule in tokens, and the shares of the run in which they are resolved."""


@dataclass(frozen=True)
class Key:
    """One setting of a run."""

    name: str
    model: type[BaseModel]
    field: str
    hint: Any
    default: Any
    kind: Kind


class UnknownKeyError(Exception):
    """A word that names no key, or more than one."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo


def _kind(hint: Any) -> Kind:
    members = {m for m in (get_args(hint) or (hint,)) if m is not NoneType}
    if get_origin(hint) is Literal or str in members:
        return "text"
    return "truth" if bool in members else "number"


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Key | str]:
    for name, field in model.model_fields.items():
        hint = field.annotation
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            yield prefix + name
            yield from _walk(hint, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            yield Key(prefix + name, model, name, hint_of(field), default, _kind(hint))


_ALL = list(_walk(RunConfig, ""))
KEYS: dict[str, Key] = {key.name: key for key in _ALL if isinstance(key, Key)}
"""Every setting by its dotted name."""

SECTIONS = frozenset(name for name in _ALL if isinstance(name, str))
"""The dotted names that hold settings."""

DEFAULTS: dict[str, Any] = {name: key.default for name, key in KEYS.items()}
"""Every setting's default."""


@cache
def _by_ending() -> dict[str, list[str]]:
    """Index the keys by every ending of their dotted names."""
    found: dict[str, list[str]] = {}
    for name in KEYS:
        parts = name.split(".")
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(name)
    return found


def resolve_key(word: str, prefix: str = "") -> str:
    """Find the dotted name that a word stands for.

    Args:
        word: A dotted name, or an ending of one that only one key has.
        prefix: The section that the word was found in, with its dot, or nothing.

    Raises:
        UnknownKeyError: No such key, or several.
    """
    if prefix + word in KEYS:
        return prefix + word
    found = [] if prefix else _by_ending().get(word, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownKeyError(f"ambiguous key {word!r}", f"write {' or '.join(found)}")
    if word in SECTIONS and not prefix:
        raise UnknownKeyError(f"{word!r} is a section", f"name one of its keys, {word}.KEY")
    inside = [n.removeprefix(prefix) for n in (*KEYS, *SECTIONS) if n.startswith(prefix)]
    elsewhere = _by_ending().get(word, [])
    close = nearest(word, inside) or nearest(word, _by_ending())
    if prefix and elsewhere:
        todo = f"move it to {' or '.join(elsewhere)}"
    elif close:
        todo = f"did you mean {close!r}?"
    else:
        todo = f"choose from {_few(inside)}" if prefix else "see `scalekit schema` for the keys"
    raise UnknownKeyError(f"unknown key {prefix + word!r}", todo)


def _few(words: list[str]) -> str:
    return ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")


def check_value(name: str, value: Any, place: Place, node: Node | None = None) -> Any:
    """Validate one setting's value, perhaps read from a node, by its model.

    Raises:
        ValueProblemError: Out of range or of another type.
    """
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueProblemError(Problem(place, f"{name!r} is too large", "keep it below 9e18"))
    try:
        return _checked(name, value)
    except ValidationError as error:
        problem = explain(error.errors(include_url=False)[0], place, node)
        raise ValueProblemError(problem) from error


@lru_cache(maxsize=65536, typed=True)
def _checked(name: str, value: Any) -> Any:
    key = KEYS[name]
    if value is None and key.default is None:
        return None
    return getattr(key.model.model_validate({key.field: value}), key.field)


class ValueProblemError(Exception):
    """A value that its key refuses."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
