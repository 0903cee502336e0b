"""Plain text in UTF-8: a document is a file, what lies between blank lines, or a line."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from scalekit.documents.base import (
    Ask,
    Format,
    Piece,
    cut_at_lines,
    decode_text,
    hash_file,
    size_of,
)

_BLANK = re.compile(rb"\n(?:[ \t\r]*\n)+")
"""A line's end and at least one blank line after it."""

_BOM = b"\xef\xbb\xbf"


def cut(source: str, piece_bytes: int, ask: Ask) -> list[Piece]:
    """Cut a file where one document ends and the next begins."""
    if ask.unit == "line":
        return cut_at_lines(source, piece_bytes, ask)
    size = size_of(source)
    if ask.unit == "file":
        return [Piece(source, 0, size, size)]
    cuts = [0]
    with (
        Path(source).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        while cuts[-1] + piece_bytes < size:
            found = _BLANK.search(data, cuts[-1] + piece_bytes)
            if found is None or found.end() == size:
                break
            cuts.append(found.end())
    cuts.append(size)
    return [Piece(source, a, b, b - a) for a, b in pairwise(cuts)]


def read(piece: Piece, ask: Ask) -> Iterator[str]:
    """Read the documents of a piece.

    Raises:
        InputError: Not UTF-8.
    """
    with Path(piece.source).open("rb") as file:
        file.seek(piece.start)
        data = file.read(piece.stop - piece.start)
    if piece.start == 0:
        data = data.removeprefix(_BOM)
    text = decode_text(data, piece.source, piece.start)
    if ask.unit == "file":
        yield text
    elif ask.unit == "line":
        # Not str.splitlines, which also cuts at form feeds and Unicode separators.
        yield from (line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
    else:
        # A piece ends with what separates it from the next, after which nothing comes.
        parts = (part.strip("\r\n") for part in re.split(_BLANK.pattern.decode(), text))
        yield from (part for part in parts if part)


FORMAT = Format("text", (".txt", ".text", ".md"), None, cut, read, hash_file)
