"""Nodes into validated models: text is read by the declared type, every mistake keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from scalekit import quantities
from scalekit.config.nodes import Items, Node, Table, Text
from scalekit.config.problems import Place, Problem, Problems
from scalekit.errors import InputError, did_you_mean

M = TypeVar("M", bound=BaseModel)

BAD: Any = object()
"""What stands for a value that could not be read; the problem was noted."""

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Unit:
    """How the text of a number is read, where a bare number is not all: as `Annotated` metadata."""

    word: str
    read: Callable[[str], float]
    pattern: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Let the number be written as text in a JSON schema, too."""
        return {
            "anyOf": [handler(core_schema), {"type": "string", "pattern": f"^({self.pattern})$"}]
        }


SECONDS = Unit("a duration such as 2h30m", quantities.read_duration, quantities.DURATION_PATTERN)
GIGABYTES = Unit(
    "an amount of memory such as 32GB", quantities.read_memory, r"[\d.]+ ?([KMGT]i?B?)?"
)


def read_model(node: Node, model: type[M], problems: Problems) -> M | None:
    """Read a mapping into a model, noting every mistake; None where there was one."""
    before = len(problems)
    data = _read_table(node, model, problems)
    if data is BAD:
        return None
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            at = node_at(node, item["loc"])
            if at.place not in problems.told:
                problems.append(explain(item, at.place, at))
        return None
    return value if len(problems) == before else None


def read_value(node: Node, hint: Any, problems: Problems) -> Any:
    """Read a node as the type `hint`; `BAD` where it is not one, with the problem noted."""
    hint, units = _unwrap(hint)
    if hint is Any:
        return node
    members = [m for m in _members(hint) if m is not NoneType]
    if isinstance(node, Text) and node.is_null:
        if NoneType in _members(hint):
            return None
        if str not in members or not node.text:
            return _refuse(node, hint, units, problems)
    fitting = [m for m in members if _fits(node, m)]
    literals = [m for m in fitting if get_origin(m) is Literal]
    if isinstance(node, Text):
        for value in (v for m in literals for v in get_args(m)):
            if str(value) == node.text:
                return value
    others = [m for m in fitting if m not in literals]
    if not others:
        return _refuse(node, hint, units, problems)
    return _read_one(node, others[0], hint, units, problems)


def explain(item: Mapping[str, Any], place: Place, node: Node | None = None) -> Problem:
    """Turn one error of pydantic into a problem at a place, where perhaps a node was found."""
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in item.get("ctx", {}).items()}
    found = node.describe() if node else _shown(item.get("input"))
    words = {
        "greater_than": "must be above {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be below {lt}",
        "less_than_equal": "must be at most {le}",
        "int_from_float": "must be a whole number",
        "too_short": "needs at least {min_length}",
        "too_long": "takes at most {max_length}",
    }
    kind = item["type"]
    if kind == "missing":
        return Problem(place, f"key {item['loc'][-1]!r} is missing", "add it")
    if kind == "value_error":
        what, _, todo = str(context["error"]).partition("; ")
        return Problem(place, f"{what}, found {found}", todo)
    if kind == "literal_error":
        return Problem(place, f"must be {context['expected']}, found {found}", "choose one of them")
    named = [part for part in item["loc"] if isinstance(part, str)]
    name = f"{named[-1]!r} " if named else ""
    if kind in words:
        # A value without a node was computed.
        todo = "put it into round(...)" if kind == "int_from_float" and not node else "change it"
        return Problem(place, f"{name}{words[kind].format(**context)}, found {found}", todo)
    said = item["msg"][:1].lower() + item["msg"][1:]
    return Problem(place, f"{name}{said}, found {found}", "change it")


def node_at(node: Node, path: Sequence[str | int]) -> Node:
    """Find the value at `path`, or the deepest part of it that exists."""
    for part in path:
        if isinstance(node, Table) and part in node.entries:
            node = node.entries[str(part)]
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return node


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unwrap(hint: Any) -> tuple[Any, list[Unit]]:
    units = []
    while get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        units += [m for m in metadata if isinstance(m, Unit)]
    return hint, units


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(node: Node, hint: Any) -> bool:
    """Whether a node of this form can be a value of the type at all."""
    hint, _ = _unwrap(hint)
    origin = get_origin(hint) or hint
    if origin in (list, tuple):
        return isinstance(node, Items)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, BaseModel)):
        return isinstance(node, Table)
    return isinstance(node, Text)


def _word(hint: Any, units: Sequence[Unit] = ()) -> str:
    hint, own = _unwrap(hint)
    units = [*units, *own]
    if units:
        return units[0].word
    origin = get_origin(hint) or hint
    if origin is Literal:
        return " or ".join(str(v) for v in get_args(hint))
    if origin in (list, tuple):
        return "a list"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(origin, "a mapping")


def _refuse(node: Node, hint: Any, units: Sequence[Unit], problems: Problems) -> Any:
    members = [m for m in _members(hint) if m is not NoneType]
    literals = [str(v) for m in members if get_origin(m) is Literal for v in get_args(m)]
    expected = " or ".join(_word(m, units) for m in members)
    todo = "change it"
    if isinstance(node, Text) and literals and not node.is_null:
        todo = did_you_mean(node.text, literals) if len(literals) > 1 else f"write {literals[0]}"
    sections = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
    if isinstance(node, Text) and not node.is_null and sections:
        todo = f"write {{{next(iter(sections[0].model_fields))}: ...}}"
    problems.add(node.place, f"must be {expected}, found {node.describe()}", todo)
    return BAD


def _read_one(node: Node, member: Any, hint: Any, units: list[Unit], problems: Problems) -> Any:
    """Read a node as the one type of `hint` that its form allows."""
    member, own = _unwrap(member)
    if isinstance(node, Items):
        values = [read_value(item, get_args(member)[0], problems) for item in node.items]
        problems.told |= {i.place for i, v in zip(node.items, values, strict=True) if v is BAD}
        return [None if value is BAD else value for value in values]
    if isinstance(node, Table):
        return _read_table(node, member, problems)
    if member is str:
        return node.text
    if member is bool and node.text.lower() in _TRUTH:
        return _TRUTH[node.text.lower()]
    if member in (int, float):
        return _read_number(node, member, hint, own or units, problems)
    return _refuse(node, hint, units, problems)


def _read_number(node: Text, member: Any, hint: Any, units: list[Unit], problems: Problems) -> Any:
    read = quantities.read_whole if member is int else quantities.read_number
    try:
        return (units[0].read if units else read)(node.text)
    except InputError as error:
        what, _, todo = str(error).partition("; ")
        reason = what.partition(": ")[2]
        if reason.startswith(("not a ", "not an ")):
            others = [_word(m) for m in _members(hint) if get_origin(m) is Literal]
            reason = f"must be {' or '.join([*others, _word(member, units)])}"
            if member is int and not units:
                todo = "write it like 12, 64k or 1e6"
        problems.add(node.place, f"{reason}, found {node.describe()}", todo)
        return BAD


def _read_table(node: Node, model: type[BaseModel], problems: Problems) -> Any:
    """Read a mapping into the plain values that the model validates."""
    if not isinstance(node, Table):
        problems.add(node.place, f"must be a mapping, found {node.describe()}", "give it keys")
        return BAD
    data = {}
    for key, child in node.entries.items():
        field = model.model_fields.get(key)
        if field is None:
            todo = did_you_mean(key, model.model_fields)
            problems.add(node.keys[key], f"unknown key {key!r}", todo)
            continue
        value = read_value(child, hint_of(field), problems)
        # The placeholder keeps pydantic from missing what was already told.
        data[key] = None if value is BAD else value
        if value is BAD:
            problems.told.add(child.place)
    return data


def hint_of(field: FieldInfo) -> Any:
    """Return a field's annotation with the units that pydantic moved into its metadata."""
    units = [m for m in field.metadata if isinstance(m, Unit)]
    return Annotated[field.annotation, *units] if units else field.annotation
