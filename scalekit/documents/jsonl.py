"""JSON lines: an object a line, the text in one of its fields; `.gz` is read as one piece."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from scalekit.documents.base import (
    Ask,
    Format,
    Piece,
    check_text,
    cut_at_lines,
    decode_text,
    hash_file,
    size_of,
    unknown_column,
)
from scalekit.errors import InputError

_GZIP = ".gz"


def cut(source: str, piece_bytes: int, ask: Ask) -> list[Piece]:
    """Cut a file at the ends of lines; a compressed one cannot be entered in its middle."""
    if source.endswith(_GZIP):
        size = size_of(source)
        return [Piece(source, 0, size, size)]
    return cut_at_lines(source, piece_bytes, ask)


def read(piece: Piece, ask: Ask) -> Iterator[str]:
    """Read the texts of a piece; blank lines are none.

    Raises:
        InputError: A line that is no object in JSON, lacks the column or holds no text there; a
            compressed file that is torn.
    """
    try:
        yield from _texts(piece, ask)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{piece.source}: torn, {error}; fetch the file again") from error


def _texts(piece: Piece, ask: Ask) -> Iterator[str]:
    path = Path(piece.source)
    is_packed = piece.source.endswith(_GZIP)
    with gzip.open(path) if is_packed else path.open("rb") as file:
        if not is_packed:
            file.seek(piece.start)
        left = None if is_packed else piece.stop - piece.start
        for number, line in enumerate(file):
            if left is not None:
                if left <= 0:
                    return
                left -= len(line)
            if line.strip():
                yield _text(line, _Place(piece, number), ask.column)


class _Place:
    """A line of a piece; its number in the file is counted only when it has to be said."""

    def __init__(self, piece: Piece, number: int) -> None:
        self._piece, self._number = piece, number

    def __str__(self) -> str:
        with Path(self._piece.source).open("rb") as file:
            before = sum(
                file.read(min(1 << 20, self._piece.start - at)).count(b"\n")
                for at in range(0, self._piece.start, 1 << 20)
            )
        return f"{self._piece.source}:{before + self._number + 1}"


def _text(line: bytes, place: _Place, column: str) -> str:
    try:
        # Decoded here: from bytes, json guesses UTF-16 and UTF-32 where there are zeros.
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        decode_text(line, str(place))
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON; mend the line or leave the file out") from error
    if not isinstance(value, dict):
        raise InputError(
            f"{place}: {type(value).__name__}, not an object with the field {column!r}; mend it"
        )
    if column not in value:
        raise unknown_column(str(place), column, list(value))
    text = value[column]
    if isinstance(text, str) and text.isascii():
        return text
    return check_text(text, column, str(place))


FORMAT = Format(
    "jsonl",
    (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    None,
    cut,
    read,
    hash_file,
)
