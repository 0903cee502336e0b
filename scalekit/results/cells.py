"""Cells as a written table has them."""

from __future__ import annotations

from math import copysign, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


LONGEST_SHOWN = 60
"""Characters of a cell that a message shows: a cell may be a whole page."""


def shown(cell: object) -> str:
    """Write a cell as a message quotes it.

    >>> shown("oops"), len(shown("x" * 1000)) < 100
    ("'oops'", True)
    """
    words = str(cell)
    return repr(words if len(words) <= LONGEST_SHOWN else words[:LONGEST_SHOWN] + "...")


def texts(column: np.ndarray) -> list[str]:
    """Write the cells of a column (n,): numbers read back equal, whole ones without a point."""
    import numpy as np

    if column.dtype.kind == "b":
        return ["true" if cell else "false" for cell in column.tolist()]
    if column.dtype == object:
        return [cell if isinstance(cell, str) else _number_text(cell) for cell in column.tolist()]
    # In nearly every column all numbers are whole or none is: both are written without asking each.
    is_zero = column == 0
    is_whole = (np.abs(column) < 1e15) & (column == np.floor(column))
    is_whole &= ~(is_zero & np.signbit(column))
    if is_whole.all():
        return list(map(str, column.astype(np.int64).tolist()))
    if not (is_whole | np.isnan(column)).any():
        return list(map(repr, column.tolist()))
    return [_number_text(cell) for cell in column.tolist()]


def _number_text(value: float) -> str:
    if isnan(value):
        return ""
    if abs(value) < 1e15 and value.is_integer() and (value or copysign(1.0, value) > 0):
        return str(int(value))  # but minus zero
    return repr(value)
