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


def forget_abandoned(
    columns: Mapping[str, np.ndarray], steps: np.ndarray, kept: Iterable[str]
) -> tuple[dict[str, np.ndarray], int]:
    """Blank what a run had logged beyond the place where it was taken up again, by every column.

    An evaluation that was written after that place is of the run that was given up, also where the
    resumed one has not come to its next yet, and so none of that column. Of the columns that go on
    the latest place counts, since some may be logged late; one step makes no curve, and says
    nothing.

    Args:
        columns: By name, (n,); rows are in the order of logging.
        steps: Of each row (n,).
        kept: Columns that are left as they are.

    Returns:
        The columns, and how many numbers were forgotten.
    """
    import numpy as np

    found, forgotten = dict(columns), 0
    falls = np.flatnonzero(steps[1:] < steps[:-1]) + 1
    names = (
        [n for n in columns.keys() - set(kept) if columns[n].dtype != object] if len(falls) else []
    )
    rows = {name: np.flatnonzero(~np.isnan(columns[name])) for name in names}
    for fall in _resumes(falls, steps, rows.values()):
        end = _taken_up(fall, steps, rows.values())
        for name, own in rows.items():
            newer = own[own >= fall]
            first = steps[newer[0]] if len(newer) else np.inf
            gone = (own >= end) & (own < fall) & (steps[own] < first)
            if gone.any():
                found[name] = found[name].copy()
                found[name][own[gone]] = np.nan
                forgotten += int(gone.sum())
                rows[name] = own[~gone]
    return found, forgotten


def _resumes(falls: np.ndarray, steps: np.ndarray, columns: Iterable[np.ndarray]) -> list[int]:
    """Choose of the rows where steps fall those at which a column goes back itself."""
    import numpy as np

    chosen: set[int] = set()
    for rows in columns:
        back = np.flatnonzero(steps[rows[1:]] <= steps[rows[:-1]])
        for before, after in zip(rows[back], rows[back + 1], strict=True):
            chosen.update(falls[(falls > before) & (falls <= after)].tolist())
    return sorted(chosen)


def _taken_up(fall: int, steps: np.ndarray, columns: Iterable[np.ndarray]) -> int:
    """Find the row at which the run was that goes on from the row `fall`."""
    import numpy as np

    places = []
    for rows in columns:
        old, newer = rows[rows < fall], rows[rows >= fall]
        if len(newer) and len(np.unique(steps[old])) > 1:
            again = old[steps[old] >= steps[newer[0]]]
            places.append(int(again[0]) if len(again) else fall)
    return max(places, default=fall)


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
