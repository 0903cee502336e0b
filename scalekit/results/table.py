"""The table of runs: named columns of one length, one row a run, read and written as CSV.

Columns are numpy arrays, not a DataFrame: importing pandas costs half a second, and most of what
reads a table is arithmetic on columns. `RunTable.frame` gives a DataFrame to who wants one.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import copysign, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError, did_you_mean
from scalekit.results.cells import as_column, read_cells
from scalekit.results.mapping import evaluate
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

TEXT_COLUMNS = frozenset(
    ["run", "source", "group", "status", "params_kind", "flops_kind", "loss_unit", "code", "flags"]
)
"""Columns of words: a run's id may be all digits and stays text."""

KINDS = {"params": "params_kind", "flops": "flops_kind", "loss": "loss_unit"}
"""Columns whose meaning another column states."""

UNSTATED = "unstated"
"""What stands where a table does not say how its numbers were counted."""


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

    Nothing is required of the columns here; `require` asks for those that a reader needs.

    `mapping` makes new columns by name: another column, or arithmetic over columns.

    Returns:
        Every column of the file and the mapped ones. `meta` has path, sha256, mapping, and
        params_kind, flops_kind, loss_unit where the table states them.

    Raises:
        InputError: The file cannot be read as a table, or the mapping names no column.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}; name a table") from error
    cells = read_cells(path, data).columns
    mapping = mapping or {}
    renamed = {new: cells[old] for new, old in mapping.items() if old in cells}
    columns = {
        name: as_column(column, text=name in TEXT_COLUMNS)
        for name, column in {**cells, **renamed}.items()
    }
    # Expressions read the file's own columns, whatever names the mapping gives to others.
    own = {**columns, **{name: as_column(cells[name]) for name in renamed if name in cells}}
    for name, expression in mapping.items():
        if name not in renamed:
            columns[name] = evaluate(expression, own, f"{path}: --map {name}")
    columns = _restated(columns, mapping)
    meta = {"path": str(path), "sha256": hashlib.sha256(data).hexdigest()}
    return RunTable(columns, {**meta, "mapping": dict(mapping), **stated_kinds(columns)})


def require(table: RunTable, names: Iterable[str]) -> None:
    """Check that a table has these columns, and that they are numbers unless words by nature.

    Raises:
        InputError: A column is missing or is text; the message has the nearest name and the way
            to map it.
    """
    where = table.meta.get("path", "table")
    for name in names:
        if name not in table:
            raise InputError(
                f"{where}: no column {name!r}; {did_you_mean(name, table.columns)} "
                f"map it with --map {name}=COLUMN"
            )
        if name not in TEXT_COLUMNS and table[name].dtype == object:
            row = next(i for i, cell in enumerate(table[name]) if not _reads_as_number(cell))
            raise InputError(
                f"{where}: column {name!r} is not numeric, {table[name][row]!r} in row {row + 1}; "
                f"mend the cell or map another column with --map {name}=COLUMN"
            )


def write_table(table: RunTable, path: Path | str) -> None:
    """Write a table whole, as TSV where the name ends so, else as CSV; numbers read back equal.

    Raises:
        SystemTroubleError: The disk refuses; an older file is untouched.
    """
    path = Path(path)
    write_whole(path, table_text(table, "\t" if path.suffix.lower() == ".tsv" else ","))


def table_text(table: RunTable, delimiter: str = ",") -> str:
    """Return the text that `write_table` writes."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(_texts(column) for column in table.columns.values()), strict=True))
    return out.getvalue()


def make_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> RunTable:
    """Build a table from one mapping a run; the columns of `COLUMNS` come first, in order.

    A column stands where any run has it; a cell that a run lacks is missing.
    """
    found = dict.fromkeys(name for row in rows for name in row)
    names = [n for n in COLUMNS if n in found] + [n for n in found if n not in COLUMNS]
    columns = {
        name: as_column([row.get(name) for row in rows], text=name in TEXT_COLUMNS)
        for name in names
    }
    return RunTable(columns, {**meta, **stated_kinds(columns)})


def stated_kinds(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Say how params, flops and loss are counted: the one kind stated, `mixed`, or `unstated`."""
    found = {}
    for kind in KINDS.values():
        stated = sorted({str(cell) for cell in columns.get(kind, ()) if cell not in ("", UNSTATED)})
        found[kind] = stated[0] if len(stated) == 1 else "mixed" if stated else UNSTATED
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


def _reads_as_number(cell: Any) -> bool:
    return as_column([cell]).dtype != object


def as_words(column: np.ndarray) -> np.ndarray:
    """Return a column (n,) as text: what its cells are in a written table."""
    import numpy as np

    words = np.empty(len(column), dtype=object)
    words[:] = _texts(column)
    return words


def _texts(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "b":
        return ["true" if cell else "false" for cell in column.tolist()]
    return [cell if isinstance(cell, str) else _number_text(cell) for cell in column.tolist()]


def _number_text(value: float) -> str:
    if isnan(value):
        return ""
    if abs(value) < 1e15 and value.is_integer() and (value or copysign(1.0, value) > 0):
        return str(int(value))  # but minus zero
    return repr(value)
