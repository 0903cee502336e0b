"""What every reading command prints: one JSON value, CSV, or a table that is never squeezed."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="how the result is printed")]


def print_json(name: str, value: Mapping[str, Any]) -> None:
    """Print one JSON value with its schema, `scalekit.NAME/1`; numbers that are not finite as null.

    Every number keeps its full precision.
    """
    print(json.dumps({"schema": f"scalekit.{name}/1", **_finite(value)}, indent=2, default=str))


def print_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV; what a row lacks is an empty cell."""
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 0) -> str:
    """Align cells in columns as wide as they need: numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    columns = zip(header, zip(*rows, strict=True), strict=True) if rows else ()
    # An id of hexadecimal digits may begin with any of them.
    is_number = [name != "run" and _reads_as_numbers(column) for name, column in columns]
    lines = []
    for cells in [header, *rows]:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(
                cells, widths, is_number or [False] * len(widths), strict=True
            )
        ]
        lines.append((" " * indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def _reads_as_numbers(cells: Sequence[str]) -> bool:
    return all(not cell or cell[0] in "0123456789-+." for cell in cells)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
