"""A run's curve that came as a table: what was logged twice, and whether it ends in no number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from math import isfinite, isnan
from typing import TYPE_CHECKING

from scalekit.importers._history import LOSS

if TYPE_CHECKING:
    import numpy as np


def forget_superseded(
    columns: Mapping[str, np.ndarray], steps: np.ndarray, kept: Iterable[str]
) -> tuple[dict[str, np.ndarray], int]:
    """Blank what a resumed run logged again, column by column; rows are in the order of logging.

    Where a column's steps go back or stand still, what it had from there on is forgotten. Other
    columns are not, since evaluations may be logged late. Where no step of any row goes back, there
    was no resume, and nothing is forgotten.

    Args:
        columns: By name, (n,).
        steps: Of each row (n,).
        kept: Columns that are left as they are.

    Returns:
        The columns, and how many numbers were forgotten.
    """
    import numpy as np

    found, forgotten = dict(columns), 0
    if not (steps[1:] < steps[:-1]).any():
        return found, forgotten
    for name in columns.keys() - set(kept):
        column = columns[name]
        if column.dtype == object:
            continue
        rows = np.flatnonzero(~np.isnan(column))
        own = steps[rows]
        goes_back = np.append(own[1:] <= own[:-1], False)
        # The lowest step that the column goes back to after each row.
        lowest = np.where(goes_back, np.append(own[1:], np.inf), np.inf)
        lowest = np.minimum.accumulate(lowest[::-1])[::-1]
        gone = rows[own >= lowest]
        if len(gone):
            found[name] = column.copy()
            found[name][gone] = np.nan
            forgotten += len(gone)
    return found, forgotten


def loss_names(names: Iterable[str]) -> set[str]:
    """Return which columns are a loss by their name."""
    return {name for name in names if LOSS.search(name)}


def find_divergence(words: Mapping[str, np.ndarray]) -> str:
    """Say which loss ends in no finite number, by its cells as written; nothing where none does.

    An empty cell and one with the value NaN are the same in a column of floats. Where a number
    follows a NaN, in any loss, the file may mean by it that there is no value: it then tells
    nothing.
    """
    told = {name: _numbers(cells.tolist()) for name, cells in words.items()}
    if any(
        isnan(one) and isfinite(after) for all_ in told.values() for one, after in pairwise(all_)
    ):
        told = {name: [n for n in all_ if not isnan(n)] for name, all_ in told.items()}
    lost = [name for name, all_ in sorted(told.items()) if all_ and not isfinite(all_[-1])]
    return f"{lost[0]} {told[lost[0]][-1]}" if lost else ""


def _numbers(cells: list[str]) -> list[float]:
    found = []
    for word in cells:
        with suppress(ValueError):
            found.append(float(word))
    return found
