"""What a format of documents must offer: cut a source into pieces, read the texts of a piece.

A member of `documents/` binds `FORMAT`, a `Format`. Pieces depend on the source and on what was
asked alone, never on how many processes read them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from scalekit.errors import InputError, did_you_mean

Unit = Literal["file", "blank", "line"]


@dataclass(frozen=True)
class Ask:
    """How documents are found in a source.

    Attributes:
        column: The field that holds the text, in formats with fields.
        unit: What a document is in plain text: a whole file, what lies between blank lines, a line.
        split: Which split of a dataset that has them.
        config: Which configuration of a dataset that has them.
    """

    column: str = "text"
    unit: Unit = "file"
    split: str = "train"
    config: str | None = None


@dataclass(frozen=True)
class Piece:
    """A share of a source, from `start` up to `stop`, counted as its format counts.

    Attributes:
        weight: About how many bytes it is, for sharing out work and for a progress bar.
    """

    source: str
    start: int
    stop: int
    weight: int


@dataclass(frozen=True)
class Format:
    """A member of the family.

    Attributes:
        name: The file name.
        suffixes: Endings of files that are of this format.
        package: The package that reading needs; None where it needs none.
        cut: From (source, bytes a piece, ask) to the pieces of a source in order.
        read: From (piece, ask) to its texts in order.
        digest: From (source, ask) to a hash, or what else says which content a source has.
    """

    name: str
    suffixes: tuple[str, ...]
    package: str | None
    cut: Callable[[str, int, Ask], list[Piece]]
    read: Callable[[Piece, Ask], Iterator[str]]
    digest: Callable[[str, Ask], str]


def size_of(source: str) -> int:
    """Return the bytes of a file.

    Raises:
        InputError: It cannot be read, or holds nothing.
    """
    try:
        size = Path(source).stat().st_size
    except OSError as error:
        raise InputError(f"{source}: cannot be read, {error.strerror}; name a file") from error
    if size == 0:
        raise InputError(f"{source}: is empty; leave it out")
    return size


def hash_file(source: str, ask: Ask) -> str:
    """Return the sha256 of a file's bytes."""
    try:
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{source}: cannot be read, {error.strerror}; mend it") from error


def cut_at_lines(source: str, piece_bytes: int, ask: Ask) -> list[Piece]:
    """Cut a file into ranges of bytes that end with a line."""
    size = size_of(source)
    cuts = [0]
    with Path(source).open("rb") as file:
        while cuts[-1] + piece_bytes < size:
            file.seek(cuts[-1] + piece_bytes - 1)
            file.readline()
            cuts.append(file.tell())
    if cuts[-1] < size:
        cuts.append(size)
    return [Piece(source, a, b, b - a) for a, b in pairwise(cuts)]


def decode_text(data: bytes, where: str, offset: int = 0) -> str:
    """Decode UTF-8.

    Raises:
        InputError: It is none; with the place of the first byte that cannot be read.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8, byte {data[error.start]:#04x} at {offset + error.start}; convert "
            "the file or leave it out"
        ) from error


def check_text(value: object, column: str, where: str) -> str:
    """Return a field's value if it is text.

    Raises:
        InputError: It is something else, or text that no UTF-8 can hold.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise InputError(
            f"{where}: {column!r} is {kind}, not text; mend the row or name another --column"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {column!r} holds a lone surrogate, which is no Unicode text; mend the row"
        ) from error
    return value


def unknown_column(where: str, column: str, columns: list[str]) -> InputError:
    """Say that a source has no such column, and which ones it has."""
    return InputError(
        f"{where}: no column {column!r}; {did_you_mean(column, columns)} (--column NAME)"
    )
