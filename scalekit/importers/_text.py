"""Bytes into text: UTF-8 with or without its mark, UTF-16 with one; anything else is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from scalekit.errors import InputError
from scalekit.importers.base import Source

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def open_text(source: Source, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text.

    Raises:
        InputError: The file cannot be read, or a line of it is not in its encoding.
    """
    encoding = "utf-16" if source.head.startswith(_UTF16) else "utf-8-sig"
    with source.open() as file:
        text = io.TextIOWrapper(file, encoding=encoding, newline=newline)
        try:
            yield text
        except UnicodeError as error:
            raise InputError(
                f"{source.path}:{_bad_line(source, encoding)}: not UTF-8 text; save it as UTF-8"
            ) from error
        finally:
            text.detach()


def _bad_line(source: Source, encoding: str) -> int:
    """Find the first line that is not in the encoding: a reader decodes ahead of its line."""
    if encoding == "utf-16":
        return 1
    with source.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def log_lines(source: Source) -> Iterator[tuple[int, str]]:
    """Read what a program printed: numbered lines, without colours, progress bars cut apart.

    Bytes that are not UTF-8 become a mark: a log is read for its numbers, and what else a
    terminal got may be anything.

    Raises:
        InputError: The file cannot be read.
    """
    with source.open() as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n")
        try:
            for number, line in enumerate(text, start=1):
                for part in line.split("\r"):
                    yield number, _COLOUR.sub("", part)
        finally:
            text.detach()
