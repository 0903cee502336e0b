"""The table of runs: named columns of one length, one row a run, read and written as CSV.

Columns are numpy arrays, not a DataFrame: importing pandas costs half a second, and most of what
reads a table is arithmetic on columns. `RunTable.frame` gives a DataFrame to who wants one.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit import registry
from scalekit.errors import InputError
from scalekit.importers._cells import CHUNK_ROWS, as_column
from scalekit.importers.base import Importer, Source
from scalekit.results.arithmetic import evaluate
from scalekit.results.cells import texts
from scalekit.results.store import write_whole

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = [
    "run",
    "source",
    "group",
    "status",
    "budget",
    "params",
    "params_kind",
    "tokens",
    "unique_tokens",
    "flops",
    "flops_kind",
    "loss",
    "loss_unit",
    "loss_sem",
    "step",
    "seed",
    "lr",
    "batch_tokens",
    "code",
    "flags",
]
"""The columns of `data.csv` that every reader may rely on, in order; swept keys follow."""

TRUNK = "trunk"
"""The column of the runs that others share their beginning with: such rows are not independent."""

TEXT_COLUMNS = frozenset(
    (
        *("run", TRUNK, "source", "group", "status", "params_kind", "flops_kind", "loss_unit"),
        *("code", "flags", "start_run"),
    )
)
"""Columns of words: a run's id may be all digits and stays text."""

KINDS = {"params": "params_kind", "flops": "flops_kind", "loss": "loss_unit"}
"""Columns whose meaning another column states."""

UNSTATED = "unstated"
"""What stands where a table does not say how its numbers were counted."""

MIXED = "mixed"
"""What is said of a table whose rows count in several ways."""


@dataclass(frozen=True)
class RunTable:
    """Runs as columns.

    Attributes:
        columns: Arrays of shape (n,): float64 where every cell is a number or empty (NaN), else
            objects (str, empty string for a missing cell).
        meta: Where it came from: path, sha256, and what a reader decided (params_kind, ...).
    """

    columns: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def where(self, keep: np.ndarray) -> RunTable:
        """Keep the rows where `keep` (n,) is true, or the rows it indexes, in its order."""
        return RunTable({k: v[keep] for k, v in self.columns.items()}, self.meta)

    def frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))


def read_table(path: Path | str, mapping: Mapping[str, str] | None = None) -> RunTable:
    """Read a table of runs: CSV, TSV, JSON lines or parquet, by the file's suffix.

    Nothing is required of the columns here; `columns.require` asks for those that a reader needs.

    `mapping` makes new columns by name: another column, or arithmetic over columns.

    Returns:
        Every column of the file and the mapped ones. `meta` has path, sha256, mapping, and
        params_kind, flops_kind, loss_unit where the table states them.

    Raises:
        InputError: The file cannot be read as a table, or the mapping names no column.
    """
    source, mapping = Source(Path(path)), mapping or {}
    read = _table_importer(source).read([source], raw_names(mapping))
    columns = map_columns(read.columns, mapping, str(path))
    meta = {"path": str(path), "sha256": file_hash(source.path), "mapping": dict(mapping)}
    told = {"remarks": read.remarks, "notes": read.notes}
    return RunTable(columns, {**meta, **told, **stated_kinds(columns)})


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table_importer(source: Source) -> Importer:
    with source.open():  # so that what cannot be read is told as that
        members = (registry.find("importers", name) for name in registry.names("importers"))
        found = next((m for m in members if m.is_general and m.recognise(source)), None)
    if found is None:
        raise InputError(
            f"{source.path}: {source.suffix or 'no suffix'} is not a table's format; name a .csv, "
            ".tsv, .jsonl or .parquet"
        )
    return found


def raw_names(mapping: Mapping[str, str]) -> set[str]:
    """Name the columns of a file that must be read as they are written: what becomes words."""
    return {*TEXT_COLUMNS, *(old for new, old in mapping.items() if new in TEXT_COLUMNS)}


def map_columns(
    cells: Mapping[str, Sequence[Any] | np.ndarray], mapping: Mapping[str, str], where: str
) -> dict[str, np.ndarray]:
    """Make the columns (n,) of a table from cells, with new ones renamed or computed by `mapping`.

    Raises:
        InputError: The mapping names no column, or is not arithmetic.
    """
    renamed = {new: cells[old] for new, old in mapping.items() if old in cells}
    columns = {
        name: as_column(column, text=name in TEXT_COLUMNS)
        for name, column in {**cells, **renamed}.items()
    }
    # Expressions read the file's own columns, whatever names the mapping gives to others.
    own = {**columns, **{name: as_column(cells[name]) for name in renamed if name in cells}}
    for name, expression in mapping.items():
        if name not in renamed:
            columns[name] = evaluate(expression, own, f"{where}: --map {name}")
    return _restated(columns, mapping)


def write_table(table: RunTable, path: Path | str) -> None:
    """Write a table whole, as TSV where the name ends so, else as CSV; numbers read back equal.

    Raises:
        SystemTroubleError: The disk refuses; an older file is untouched.
    """
    path = Path(path)
    write_whole(path, table_text(table, "\t" if path.suffix.lower() == ".tsv" else ","))


def table_text(table: RunTable, delimiter: str = ",") -> str:
    """Return the text that `write_table` writes."""
    return "".join(_text_chunks(table, delimiter))


def text_hash(table: RunTable) -> str:
    """Return the sha256 of the file that `write_table` writes as CSV."""
    found = hashlib.sha256()
    for chunk in _text_chunks(table, ","):
        found.update(chunk.encode())
    return found.hexdigest()


def _text_chunks(table: RunTable, delimiter: str) -> Iterator[str]:
    """Write the text by rows: a million of them are never all words at once."""
    for start in range(-CHUNK_ROWS, len(table), CHUNK_ROWS):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        if start < 0:
            writer.writerow(table.columns)
        else:
            rows = (texts(column[start : start + CHUNK_ROWS]) for column in table.columns.values())
            writer.writerows(zip(*rows, strict=True))
        yield out.getvalue()


def make_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> RunTable:
    """Build a table from one mapping a run; the columns of `COLUMNS` come first, in order.

    A column stands where any run has it; a cell that a run lacks is missing.
    """
    columns = {
        name: as_column([row.get(name) for row in rows], text=name in TEXT_COLUMNS)
        for name in in_order(dict.fromkeys(name for row in rows for name in row))
    }
    return RunTable(columns, {**meta, **stated_kinds(columns)})


def in_order(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Put the columns of `COLUMNS` first, in order; the others follow as they stand."""
    names = [n for n in COLUMNS if n in columns] + [n for n in columns if n not in COLUMNS]
    return {name: columns[name] for name in names}


def stated_kinds(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Say how params, flops and loss are counted: the one kind stated, `MIXED`, or `UNSTATED`."""
    found = {}
    for kind in KINDS.values():
        cells = columns[kind].tolist() if kind in columns else ()
        stated = sorted({str(cell) for cell in set(cells)} - {"", UNSTATED})
        found[kind] = stated[0] if len(stated) == 1 else MIXED if stated else UNSTATED
    return found


def _restated(columns: dict[str, np.ndarray], mapping: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Correct the kinds of mapped columns: `params=params_total` is known, `params=N` is not."""
    import numpy as np

    for name, kind in KINDS.items():
        if name not in mapping or kind in mapping or mapping[name].strip() == name:
            continue
        prefix, word = f"{name}_", mapping[name].strip()
        known = word.removeprefix(prefix) if word.startswith(prefix) and word in columns else ""
        if known and name != "loss":
            columns[kind] = np.full(len(columns[name]), known, dtype=object)
        else:
            columns.pop(kind, None)
    return columns


def as_words(column: np.ndarray) -> np.ndarray:
    """Return a column (n,) as text: what its cells are in a written table."""
    import numpy as np

    words = np.empty(len(column), dtype=object)
    words[:] = texts(column)
    return words
