"""Where something stands in a file, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from scalekit.errors import InputError

SHOWN = 40
"""How many problems are written out; the rest are counted."""

_LONGEST = 300  # characters of what is wrong; a file may hold a key of a thousand
_WIDEST = 160  # characters of a source line that are shown


@dataclass(frozen=True)
class Source:
    """A text and the name that messages call it by."""

    name: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines as YAML counts them."""
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


class Place(NamedTuple):
    """A position in a source, counted from 1."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def shifted(self, columns: int) -> Place:
        """Return the place some columns to the right, on the same line."""
        return Place(self.source, self.line, self.column + columns)

    def excerpt(self) -> str:
        """Show the line with a caret under the column, or nothing where there is no such line."""
        lines = self.source.lines
        if not 1 <= self.line <= len(lines) or not lines[self.line - 1].strip():
            return ""
        line = lines[self.line - 1].replace("\t", " ")
        start = max(0, self.column - _WIDEST // 2)
        shown = "".join(c if c.isprintable() else "?" for c in line[start : start + _WIDEST])
        return f"    {shown}\n    {' ' * (self.column - 1 - start)}^"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, what is wrong and what was found, what to do."""

    place: Place
    what: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"

    @property
    def message(self) -> str:
        """What is wrong and what to do, without the place."""
        what = self.what if len(self.what) <= _LONGEST else self.what[:_LONGEST] + "..."
        return f"{what}; {self.todo}" if self.todo else what

    def written(self) -> str:
        """Return the message with the line and a caret under the place."""
        excerpt = self.place.excerpt()
        return f"{self}\n{excerpt}" if excerpt else str(self)


class ConfigError(InputError):
    """A file is refused, with every mistake found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # A shared anchor is read once for every use; it is one mistake.
        unique = list(dict.fromkeys(problems))
        files = {
            name: i for i, name in enumerate(dict.fromkeys(p.place.source.name for p in unique))
        }
        unique.sort(key=lambda p: (files[p.place.source.name], p.place.line, p.place.column))
        self.problems = tuple(unique)
        lines = [problem.written() for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - SHOWN} more problems")
        super().__init__("\n".join(lines))


class Problems(list[Problem]):
    """Mistakes as they are found, so that all of them can be told at once.

    Attributes:
        told: Where a value could not be read, so that nothing more is said of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: set[Place] = set()

    def add(self, place: Place, what: str, todo: str = "") -> None:
        """Note a mistake and go on."""
        self.append(Problem(place, what, todo))

    def raise_if_any(self) -> None:
        """Stop here when something was wrong.

        Raises:
            ConfigError: With every mistake noted so far.
        """
        if self:
            raise ConfigError(self)
