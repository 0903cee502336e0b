"""Text into columns: CSV, TSV, JSON lines and parquet read as named lists of cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "null", "None"})
"""Cells that stand for no value in a column of numbers."""


@dataclass(frozen=True)
class Cells:
    """Named lists of raw cells of one length, and the line of the file each row came from."""

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]


def read_cells(path: Path, data: bytes) -> Cells:
    """Split a file's bytes into named lists of cells, by the suffix of its name.

    Raises:
        InputError: The file is empty, is not text, has no rows, a header that repeats or lacks a
            name, or a row of another length; the message names the line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: {suffix or 'no suffix'} is not a table's format; "
            f"name a file that ends in one of {', '.join(SUFFIXES)}"
        )
    if not data.strip():
        raise InputError(f"{path}: the file is empty; collect the runs again")
    if suffix == ".parquet":
        return _parquet(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the table as UTF-8") from error
    if suffix == ".jsonl":
        return _json_lines(path, text)
    return _separated(path, text, "\t" if suffix == ".tsv" else ",")


def as_column(cells: Sequence[Any], *, text: bool = False) -> np.ndarray:
    """Turn cells (n,) into float64 where each is a number or missing, else into strings.

    Args:
        cells: Strings, numbers, booleans or None.
        text: Keep text whatever the cells look like: a run's id may be all digits.
    """
    import numpy as np

    if not text:
        numbers = _numbers(cells)
        if numbers is not None:
            return np.array(numbers, dtype=np.float64)
    column = np.empty(len(cells), dtype=object)
    column[:] = [_word(cell) for cell in cells]
    return column


def _numbers(cells: Sequence[Any]) -> list[float] | None:
    if any(isinstance(cell, bool) for cell in cells):
        return None
    try:
        values = list(map(float, cells))
    except (ValueError, TypeError):
        try:
            values = [float("nan") if _is_missing(cell) else float(cell) for cell in cells]
        except (ValueError, TypeError):
            return None
    # float() reads 1_0 as ten; a name like that is not a number in anyone's table.
    return None if any(isinstance(c, str) and "_" in c for c in cells) else values


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip() in MISSING)


def _word(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and isnan(cell)):
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return json.dumps(cell) if isinstance(cell, list | dict) else repr(cell)


def _separated(path: Path, text: str, delimiter: str) -> Cells:
    rows, lines = [], []
    header: list[str] | None = None
    for line, row in _rows(path, text, delimiter):
        if header is None:
            header = _checked_header(path, line, [name.strip() for name in row])
        elif len(row) != len(header):
            raise InputError(
                f"{path}:{line}: {len(row)} cells but the header has {len(header)}; "
                "mend the row, or quote a cell that holds the separator"
            )
        else:
            rows.append(row)
            lines.append(line)
    assert header is not None
    if not rows:
        raise InputError(f"{path}: a header and no rows; collect the runs again")
    return Cells(dict(zip(header, zip(*rows, strict=True), strict=True)), lines)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}; mend the quotes") from error


def _checked_header(path: Path, line: int, names: list[str]) -> list[str]:
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"{path}:{line}: column {place} has no name; name it in the header")
        if name in seen:
            raise InputError(f"{path}:{line}: column {name!r} stands twice; rename one of them")
        seen.add(name)
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(
            f"{path}:{line}: one column only, {names[0]!r}; separate cells by commas, or by tabs "
            "in a file that ends in .tsv"
        )
    return names


def _json_lines(path: Path, text: str) -> Cells:
    rows, lines = [], []
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{line}: not JSON, {error}; mend or drop the line") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}:{line}: not a JSON object; write one run a line")
        rows.append(dict(flatten(value)))
        lines.append(line)
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        raise InputError(f"{path}: no columns in it; write one JSON object a line")
    return Cells({name: [row.get(name) for row in rows] for name in names}, lines)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Walk nested mappings as dotted keys.

    >>> list(flatten({"a": {"b": 1, "c": [2]}, "d": None}))
    [('a.b', 1), ('a.c', [2]), ('d', None)]
    """
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _parquet(path: Path, data: bytes) -> Cells:
    try:
        import pandas as pd

        frame = pd.read_parquet(io.BytesIO(data))
    except ImportError as error:
        raise InputError(
            f"{path}: parquet needs pyarrow; install scalekit-laws[data], or save it as CSV"
        ) from error
    except (ValueError, OSError) as error:  # pyarrow's errors derive from these
        raise InputError(f"{path}: not parquet, {error}; export the table again") from error
    if not len(frame):
        raise InputError(f"{path}: columns and no rows; collect the runs again")
    names = _checked_header(path, 1, [str(name) for name in frame.columns])
    columns = (
        [None if item is pd.NA or item is pd.NaT else item for item in frame.iloc[:, i].tolist()]
        for i in range(len(names))
    )
    return Cells(dict(zip(names, columns, strict=True)), range(1, len(frame) + 1))
