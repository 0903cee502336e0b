"""Cells into columns: float64 where every cell is a number or missing, else words.

Rows come in chunks and numbers are kept as floats at once, so that a million rows cost their
floats and not a million lists of strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHUNK_ROWS = 512
"""Rows to a chunk. Measured on a million rows of six: 512 take 3 s, 32768 take 7 (the lists of a
large chunk outlive the caches and are walked by the collector)."""

MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "null", "None"})
"""Cells that stand for no value in a column of numbers."""

Chunk = Mapping[str, Sequence[Any]]


def as_column(cells: Sequence[Any] | np.ndarray, *, text: bool = False) -> np.ndarray:
    """Turn cells (n,) into float64 where each is a number or missing, else into strings.

    Args:
        cells: Strings, numbers, booleans or None, or a column made of such.
        text: Keep text whatever the cells look like: a run's id may be all digits.
    """
    import numpy as np

    if isinstance(cells, np.ndarray) and (cells.dtype == object) == text:
        return cells
    cells = list(cells.tolist() if isinstance(cells, np.ndarray) else cells)
    numbers = None if text else _numbers(cells)
    return _words(cells) if numbers is None else numbers


def gather(chunks: Callable[[], Iterable[Chunk]], text: Collection[str]) -> dict[str, np.ndarray]:
    """Join chunks of rows into columns (n,); a name that a chunk lacks is missing there.

    Args:
        chunks: Gives the chunks from the start, each named cells of one length. It is called again
            where a column of numbers turns out to hold words further down, since the words before
            it must then be kept as they were written.
        text: Columns that stay text whatever their cells look like.
    """
    words = set(text)
    while True:
        try:
            return _gathered(chunks(), words)
        except _TurnedToWordsError as late:
            words |= late.names


class _TurnedToWordsError(Exception):
    """Columns that began as numbers hold a word further down."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names


def _gathered(chunks: Iterable[Chunk], text: set[str]) -> dict[str, np.ndarray]:
    import numpy as np

    words, rows = set(text), 0
    parts: dict[str, list[np.ndarray]] = {}
    for chunk in chunks:
        size = len(next(iter(chunk.values()), ()))
        late = set()
        for name in {**parts, **chunk}:
            cells = chunk.get(name, [None] * size)
            if name not in parts:
                parts[name] = [_filler(rows, name in words)] if rows else []
            known = parts[name]
            numbers = None if name in words else _numbers(cells)
            if numbers is None and name not in words:
                if known:
                    late.add(name)
                words.add(name)
            known.append(_words(cells) if numbers is None else numbers)
        if late:
            raise _TurnedToWordsError(late)
        rows += size
    return {name: np.concatenate(found) for name, found in parts.items()}


def _filler(rows: int, is_words: bool) -> np.ndarray:
    import numpy as np

    return _words([None] * rows) if is_words else np.full(rows, np.nan)


def _numbers(cells: Sequence[Any]) -> np.ndarray | None:
    import numpy as np

    kinds = set(map(type, cells))
    if bool in kinds:
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except (ValueError, TypeError):
        try:
            found = (float("nan") if _is_missing(cell) else float(cell) for cell in cells)
            values = np.fromiter(found, np.float64, len(cells))
        except (ValueError, TypeError, OverflowError):
            return None
    except OverflowError:  # a whole number of JSON beyond what a float holds
        return None
    # float() reads 1_0 as ten; a name like that is not a number in anyone's table.
    if kinds == {str}:
        return None if "_" in "".join(cells) else values
    return None if any(isinstance(c, str) and "_" in c for c in cells) else values


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip() in MISSING)


def _words(cells: Sequence[Any]) -> np.ndarray:
    import numpy as np

    known: dict[str, str] = {}
    column = np.empty(len(cells), dtype=object)
    # One string for all equal cells: a column of a few words then costs pointers only.
    words = cells if set(map(type, cells)) == {str} else list(map(_word, cells))
    column[:] = list(map(known.setdefault, words, words))
    return column


def _word(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return json.dumps(cell) if isinstance(cell, list | dict) else repr(cell)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk nested mappings as dotted keys.

    >>> list(flatten({"a": {"b": 1, "c": [2]}, "d": None}))
    [('a.b', 1), ('a.c', [2]), ('d', None)]
    """
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
