"""Parquet: the text in one column, a piece some row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scalekit.documents.base import (
    Ask,
    Format,
    Piece,
    check_text,
    hash_file,
    size_of,
    unknown_column,
)
from scalekit.errors import InputError

_ROWS_AT_ONCE = 1024


def _open(source: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{source}: parquet needs the package 'pyarrow', which is not installed here; "
            "pip install 'scalekit-laws[data]'"
        ) from error
    size_of(source)
    try:
        return pyarrow.parquet.ParquetFile(source)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{source}: no parquet file that can be read, {_first_line(error)}; fetch it again"
        ) from error


def cut(source: str, piece_bytes: int, ask: Ask) -> list[Piece]:
    """Cut a file between row groups.

    Raises:
        InputError: The file cannot be read, has no row or no such column, or the column no text.
    """
    with _open(source) as file:
        _check_column(file, source, ask.column)
        meta = file.metadata
        if meta.num_rows == 0:
            raise InputError(f"{source}: holds no rows; leave it out")
        column = file.schema_arrow.names.index(ask.column)
        pieces, start, weight = [], 0, 0
        for group in range(meta.num_row_groups):
            weight += _weight(meta.row_group(group), column, len(file.schema_arrow.names))
            if weight >= piece_bytes or group == meta.num_row_groups - 1:
                pieces.append(Piece(source, start, group + 1, max(1, weight)))
                start, weight = group + 1, 0
    return pieces


def _weight(group: Any, column: int, n_columns: int) -> int:
    """Return a column's bytes; with nested columns beside it, which shift the count, all bytes."""
    if group.num_columns != n_columns:
        return int(group.total_byte_size)
    return int(group.column(column).total_uncompressed_size)


def _check_column(file: Any, source: str, column: str) -> None:
    import pyarrow

    names = file.schema_arrow.names
    if column not in names:
        raise unknown_column(source, column, names)
    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    if not (is_text or pyarrow.types.is_string_view(kind)):
        raise InputError(f"{source}: {column!r} is {kind}, not text; name another --column")


def read(piece: Piece, ask: Ask) -> Iterator[str]:
    """Read the texts of some row groups.

    Raises:
        InputError: The file is torn, or a row holds no text.
    """
    import pyarrow

    row = 0
    with _open(piece.source) as file:
        meta = file.metadata
        row = sum(meta.row_group(g).num_rows for g in range(piece.start))
        groups = list(range(piece.start, piece.stop))
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[ask.column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield check_text(value, ask.column, f"{piece.source} row {row}")
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{piece.source} after row {row}: cannot be read, {_first_line(error)}; fetch the "
                "file again"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


FORMAT = Format("parquet", (".parquet",), "pyarrow", cut, read, hash_file)
