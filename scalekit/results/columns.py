"""The columns that a reader needs of a table, and what is said where one is missing or words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from scalekit.errors import InputError, did_you_mean
from scalekit.importers._cells import as_column
from scalekit.quantities import read_number
from scalekit.results.cells import shown
from scalekit.results.table import TEXT_COLUMNS, RunTable

_WITH_COMMAS = re.compile(r"[-+]?\d+(,\d+)+(\.\d+)?([eE][-+]?\d+)?")


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
                f"{where}: no column {name!r}; {columns_like(name, table.columns)} "
                f"map it with --map {name}=COLUMN"
            )
        if name not in TEXT_COLUMNS and table[name].dtype == object:
            cells = enumerate(table[name])
            row = next((i for i, cell in cells if not _reads_as_number(cell)), None)
            if row is None:
                raise InputError(
                    f"{where}: column {name!r} is text, {shown(table[name][0])} in row 1, though "
                    f"it reads as a number; map numeric columns with --map {name}=COLUMN"
                )
            cell = str(table[name][row])
            raise InputError(
                f"{where}: column {name!r} is not numeric, {shown(cell)} in row {row + 1}; "
                f"{_mending(cell)}, or map another column with --map {name}=COLUMN"
            )


def columns_like(name: str, columns: Iterable[str]) -> str:
    """Name the column that was meant, or all, so that a sentence can go on.

    >>> columns_like("los", ["loss", "params"]), columns_like("x", ["loss", "params"])
    ("did you mean 'loss'?", 'choose from loss, params, and')
    >>> columns_like("params", ["hparams.lr", "hparams.n_params"])
    "did you mean 'hparams.n_params'?"
    """
    names = list(columns)
    # What a log nests, `hparams.n_params`, is likelier meant than what is spelt alike.
    nested = [c for c in names if name in re.split(r"[._/]", re.split(r"[./]", c)[-1])]
    if len(nested) == 1:
        return f"did you mean {nested[0]!r}?"
    words = did_you_mean(name, names)
    return words if words.endswith("?") else f"{words}, and"


def _mending(cell: str) -> str:
    """Say how a cell is written as a number that can be read in one way only."""
    if _WITH_COMMAS.fullmatch(cell.strip()):
        return "a comma may divide decimals or thousands, so write it with a decimal point alone"
    try:
        return f"write it as {read_number(cell):g}"
    except InputError:
        return "mend the cell"


def _reads_as_number(cell: Any) -> bool:
    return as_column([cell]).dtype != object
