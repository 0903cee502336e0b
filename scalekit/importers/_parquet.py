"""Parquet into columns, by pyarrow where it is installed."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError
from scalekit.importers._cells import as_column
from scalekit.importers._separated import check_names
from scalekit.importers.base import Source

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"PAR1"


def read_parquet(source: Source, text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Read a parquet file; nested fields become dotted columns.

    Raises:
        InputError: pyarrow is not installed, the file is not parquet, or it has no rows.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{source.path}: parquet needs pyarrow; install scalekit-laws[data], or save it as CSV"
        ) from error
    with source.open() as file:
        try:
            table = parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(
                f"{source.path}: not parquet, {error}; export the table again"
            ) from error
    while any(pyarrow.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    if not len(table):
        raise InputError(f"{source.path}: columns and no rows; collect the runs again")
    names = [name.strip() for name in table.column_names]
    check_names(str(source.path), names)
    return {
        name: _column(column, text=name in text)
        for name, column in zip(names, table.columns, strict=True)
    }


def _column(column: Any, *, text: bool) -> np.ndarray:
    import pyarrow

    kind = column.type
    if not text and (pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)):
        return column.cast(pyarrow.float64(), safe=False).to_numpy()
    cells = [str(c) if pyarrow.types.is_temporal(kind) and c else c for c in column.to_pylist()]
    return as_column(cells, text=text)
