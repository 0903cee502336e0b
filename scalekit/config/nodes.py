"""Read YAML as text with positions: no type is guessed, duplicate keys and tags are refused.

PyYAML's constructors read `1e18` as text, `010` as eight and `no` as false, and keep the last of
two equal keys; here every scalar stays text until the declared type of its place reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scalekit.config.problems import ConfigError, Place, Problem, Problems, Source

MAX_BYTES = 4_000_000
MAX_DEPTH = 32
MAX_NODES = 500_000

_NULLS = ("", "~", "null", "Null", "NULL")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# libyaml where PyYAML was built with it (every wheel is); it is ten times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class Text:
    """A scalar as it was written."""

    place: Place
    text: str
    plain: bool = True
    one_line: bool = True
    size: int = 1
    depth: int = 1

    @property
    def is_null(self) -> bool:
        """Whether it says that there is no value."""
        return self.plain and self.text in _NULLS

    def describe(self) -> str:
        """Say what was found, for a message."""
        if self.is_null:
            return "nothing"
        return repr(self.text if len(self.text) <= 60 else self.text[:57] + "...")


@dataclass(slots=True, eq=False)
class Items:
    """A list."""

    place: Place
    items: list[Node] = field(default_factory=list)
    size: int = 1
    depth: int = 1

    def describe(self) -> str:
        """Say what was found, for a message."""
        return f"a list of {len(self.items)}"


@dataclass(slots=True, eq=False)
class Table:
    """A mapping; `keys` holds where each key stands."""

    place: Place
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    size: int = 1
    depth: int = 1

    def describe(self) -> str:
        """Say what was found, for a message."""
        shown = ", ".join(list(self.entries)[:3]) + (", ..." if len(self.entries) > 3 else "")
        return f"a mapping with {shown}" if self.entries else "an empty mapping"


Node = Text | Items | Table


def read_source(path: Path) -> Source:
    """Read a file as UTF-8 text.

    Raises:
        ConfigError: Unreadable, too large, or not UTF-8 text.
    """
    start = Place(Source(str(path), ""), 1, 1)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([Problem(start, f"cannot be read, {reason}", "name a file")]) from error
    if len(data) > MAX_BYTES:
        what = f"larger than {MAX_BYTES // 1_000_000} MB"
        raise ConfigError([Problem(start, what, "name a YAML file, or split it")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", errors="replace")
        place = _place_at(Source(str(path), before), len(before))
        byte = error.object[error.start]
        raise ConfigError(
            [Problem(place, f"not UTF-8 text, found byte 0x{byte:02x}", "save the file as UTF-8")]
        ) from error
    return Source(str(path), text)


def read_nodes(source: Source) -> Node:
    """Read a YAML text into nodes; an empty text is a null.

    Raises:
        ConfigError: Not YAML, or YAML that a configuration has no use for.
    """
    bad = _UNPRINTABLE.search(source.text)
    if bad:
        place = _place_at(source, bad.start())
        what = f"a control character, found {bad.group()!r}"
        raise ConfigError([Problem(place, what, "name a text file, or remove it")])
    composer = _Composer(source)
    try:
        node = composer.compose()
    except yaml.YAMLError as error:
        raise ConfigError([*composer.problems, _syntax_problem(source, error)]) from error
    composer.problems.raise_if_any()
    return node


def _place_at(source: Source, index: int) -> Place:
    before = source.text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return Place(source, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def _syntax_problem(source: Source, error: yaml.YAMLError) -> Problem:
    mark, opening = (getattr(error, f"{which}_mark", None) for which in ("problem", "context"))
    end = (len(source.lines) - 1, len(source.lines[-1]))
    if mark is None or (opening is not None and (mark.line, mark.column) >= end):
        mark = opening  # what was never closed is told where it was opened
    place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source, 1, 1)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    lines = source.lines
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: max(place.column, len(line) - len(line.lstrip()))]:
        tab = Place(source, place.line, line.index("\t") + 1)
        return Problem(tab, "a tab where YAML wants spaces", "indent with spaces")
    context = getattr(error, "context", None)
    what = f"not YAML, {reason}" + (f" {context}" if context else "")
    if "mapping values are not allowed" in what:
        return Problem(place, what, "indent it as its neighbours, or quote a text with ': ' in it")
    return Problem(place, what, "mend the brackets, quotes and indentation before it")


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Items | Table
    anchor: str | None
    key: Text | None = None
    merged: list[Table] = field(default_factory=list)


class _Composer:
    """Build nodes from YAML events with a stack of its own, so that no nesting can overflow."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems = Problems()
        self.anchors: dict[str, Node | None] = {}
        self.stack: list[_Open] = []
        self.root: Node | None = None

    def compose(self) -> Node:
        documents = 0
        for event in self._events():
            place = self._place(event)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(place, "a second document", "keep one document a file")
            elif isinstance(event, yaml.NodeEvent):
                self._start(event, place)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
        return self.root or Text(Place(self.source, 1, 1), "")

    def _events(self) -> Iterator[Any]:
        loader = _Loader(self.source.text)
        try:
            while loader.check_event():
                yield loader.get_event()
        finally:
            loader.dispose()

    def _place(self, event: Any) -> Place:
        return Place(self.source, event.start_mark.line + 1, event.start_mark.column + 1)

    def _stop(self, place: Place, what: str, todo: str) -> None:
        self.problems.add(place, what, todo)
        self.problems.raise_if_any()

    def _start(self, event: Any, place: Place) -> None:
        if getattr(event, "tag", None) is not None:
            self.problems.add(place, f"a YAML tag, found {event.tag!r}", "remove the tag")
        if isinstance(event, yaml.AliasEvent):
            self._add(self._alias(event.anchor, place), place)
            return
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            one_line = event.start_mark.line == event.end_mark.line
            text = Text(place, event.value, event.style in (None, ""), one_line)
            if event.anchor is not None:
                self.anchors[event.anchor] = text
            self._add(text, place)
            return
        if len(self.stack) >= MAX_DEPTH:
            self._stop(place, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        is_table = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open(Table(place) if is_table else Items(place), event.anchor))

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self.anchors:
            self._stop(place, f"no anchor &{anchor} before this alias", "define it above")
        node = self.anchors[anchor]
        if node is None:
            self._stop(place, f"alias *{anchor} stands inside its own anchor", "write it out")
        assert node is not None
        return node

    def _end(self) -> None:
        opened = self.stack.pop()
        node = opened.node
        if isinstance(node, Table):
            for other in opened.merged:
                for key, value in other.entries.items():
                    if key not in node.entries:
                        node.entries[key], node.keys[key] = value, other.keys[key]
            children = list(node.entries.values())
        else:
            children = node.items
        node.size = 1 + sum(child.size for child in children)
        node.depth = 1 + max((child.depth for child in children), default=0)
        if node.size > MAX_NODES:
            self._stop(node.place, f"more than {MAX_NODES} values", "repeat fewer aliases")
        if node.depth > MAX_DEPTH:
            self._stop(node.place, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        if opened.anchor is not None:
            self.anchors[opened.anchor] = node
        self._add(node, node.place)

    def _add(self, node: Node, place: Place) -> None:
        if not self.stack:
            self.root = node
            return
        opened = self.stack[-1]
        if isinstance(opened.node, Items):
            opened.node.items.append(node)
        elif opened.key is None:
            if not isinstance(node, Text):
                self.problems.add(place, f"a key is a word, found {node.describe()}", "quote it")
                node = Text(place, "?")
            opened.key = Text(place, node.text, node.plain)
        else:
            self._set(opened, opened.key, node)
            opened.key = None

    def _set(self, opened: _Open, key: Text, node: Node) -> None:
        table = opened.node
        assert isinstance(table, Table)
        if key.text == "<<" and key.plain:
            parts = node.items if isinstance(node, Items) else [node]
            for part in parts:
                if isinstance(part, Table):
                    opened.merged.append(part)
                else:
                    self.problems.add(key.place, "<< merges mappings", "give it an alias of one")
        elif key.text in table.entries:
            first = table.keys[key.text]
            what = f"duplicate key {key.text!r}, first on line {first.line}"
            self.problems.add(key.place, what, "keep one of them")
        else:
            table.entries[key.text], table.keys[key.text] = node, key.place
