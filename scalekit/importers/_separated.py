"""CSV and TSV into columns, in chunks, with the line of whatever is wrong."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from scalekit.errors import InputError
from scalekit.importers._cells import CHUNK_ROWS, Chunk, gather
from scalekit.importers._text import open_text
from scalekit.importers.base import Source

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".csv", ".tsv")
LONGEST_CELL = 1 << 30
"""Characters of a cell; a longer one is a quote that is never closed."""
INDEX = "index"
"""What a first column without a name is called: pandas writes its index so."""


def read_separated(
    source: Source, text: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a table of cells separated by commas, or by tabs where the name ends in .tsv.

    Returns:
        The columns, and in sentences what was done with the file.

    Raises:
        InputError: The file is empty, is not text, has no rows, a header that repeats or lacks a
            name, or a row of another length; the message names the line.
    """
    columns = gather(lambda: _chunks(source), text)
    if not columns:
        raise InputError(f"{source.path}: a header and no rows; collect the runs again")
    remarks = []
    if header(source)[:1] == [""]:
        remarks.append(f"{source.path}: its first column has no name and is called {INDEX!r}")
    return columns, remarks


def header(source: Source) -> list[str]:
    """Read the names of the columns as they stand, from the head alone; none where there are none.

    A header longer than the head is cut.
    """
    lines = source.head_text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    try:
        rows = list(csv.reader([first], delimiter=_delimiter(source)))
    except csv.Error:
        return []
    return [name.strip() for name in rows[0]] if rows else []


def _delimiter(source: Source) -> str:
    return "\t" if source.suffix == ".tsv" else ","


def _chunks(source: Source) -> Iterator[Chunk]:
    with open_text(source, newline="") as file:
        # A cell may be a whole configuration; the module's own limit refuses it, and for all.
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.reader(file, delimiter=_delimiter(source), strict=True)
        try:
            yield from _named(source, reader)
        except csv.Error as error:
            raise InputError(
                f"{source.path}:{reader.line_num}: {error}; mend the quotes"
            ) from error


def _named(source: Source, reader: csv.reader) -> Iterator[Chunk]:  # type: ignore[valid-type]
    rows: list[list[str]] = []
    names: list[str] | None = None
    for row in reader:
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if names is None:
            names = _checked(source, reader.line_num, [name.strip() for name in row])
        elif len(row) != len(names):
            raise InputError(
                f"{source.path}:{reader.line_num}: {len(row)} cells but the header has "
                f"{len(names)}; mend the row, quote a cell that holds the separator, and write "
                "numbers with a decimal point"
            )
        else:
            rows.append(row)
        if len(rows) == CHUNK_ROWS:
            yield dict(zip(names, zip(*rows, strict=True), strict=True))
            rows = []
    if names is None:
        raise InputError(f"{source.path}: the file is empty; collect the runs again")
    if rows:
        yield dict(zip(names, zip(*rows, strict=True), strict=True))


def _checked(source: Source, line: int, names: list[str]) -> list[str]:
    if len(names) > 1 and not names[0]:
        names = [INDEX, *names[1:]]
    if "\0" in "".join(names):
        raise InputError(
            f"{source.path}:{line}: holds zero bytes, as UTF-16 without its mark does, or a file "
            "that a crash left; save it as UTF-8, or copy it again"
        )
    check_names(f"{source.path}:{line}", names)
    marks = ",;|" if source.suffix == ".tsv" else ";\t|"
    if len(names) == 1 and (mark := next((m for m in marks if m in names[0]), "")):
        raise InputError(
            f"{source.path}:{line}: one column only, {names[0]!r}; cells separated by {mark!r} "
            "are not read: separate them by commas, or by tabs in a file that ends in .tsv, and "
            "write numbers with a decimal point"
        )
    return names


def check_names(where: str, names: list[str]) -> None:
    """Check that columns have names, each its own.

    Raises:
        InputError: A name is missing or stands twice.
    """
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"{where}: column {place} has no name; name it in the header")
        if name in seen:
            raise InputError(f"{where}: column {name!r} stands twice; rename one of them")
        seen.add(name)
