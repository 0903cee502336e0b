"""Hugging Face datasets: a folder of `save_to_disk`, one of data files, or a name on the hub.

Builders that are scripts are not run. Rows are read in the dataset's own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from scalekit.documents.base import Ask, Format, Piece, check_text, unknown_column
from scalekit.errors import InputError, did_you_mean

ROWS = 10_000
"""Rows a piece: a dataset does not say how many bytes its rows have without reading them."""


@lru_cache(maxsize=4)
def _open(source: str, ask: Ask) -> Any:
    """Open one split of a dataset.

    Raises:
        InputError: No `datasets` here, no such dataset, split or column, or no text in it.
    """
    try:
        # By name: a folder `datasets` in the working directory would import as an empty package.
        from datasets import disable_progress_bars, load_dataset, load_from_disk
    except ImportError as error:
        raise InputError(
            f"{source}: the package 'datasets' is not installed here; "
            "pip install 'scalekit-laws[data]'"
        ) from error
    disable_progress_bars()
    is_saved = any((Path(source) / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        found: Any = load_from_disk(source) if is_saved else load_dataset(source, ask.config)
    # The library and what it is built on raise whatever they like, network errors included.
    except Exception as error:
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        raise InputError(
            f"{source}: no dataset that can be loaded, {type(error).__name__}: {said}; name a "
            "folder of save_to_disk or of data files, or a dataset that can be reached from here"
        ) from error
    if isinstance(found, dict):
        if ask.split not in found:
            raise InputError(
                f"{source}: no split {ask.split!r}; {did_you_mean(ask.split, map(str, found))} "
                "(--split NAME)"
            )
        found = found[ask.split]
    if ask.column not in found.column_names:
        raise unknown_column(source, ask.column, found.column_names)
    if len(found) == 0:
        raise InputError(f"{source}: holds no rows; leave it out")
    return found.select_columns([ask.column])


def cut(source: str, piece_bytes: int, ask: Ask) -> list[Piece]:
    """Cut a split into runs of rows."""
    rows = _open(source, ask)
    n_rows = len(rows)
    a_row = max(1, int(rows.data.nbytes) // n_rows)
    starts = range(0, n_rows, ROWS)
    ends = [min(n_rows, start + ROWS) for start in starts]
    return [Piece(source, a, b, (b - a) * a_row) for a, b in zip(starts, ends, strict=True)]


def read(piece: Piece, ask: Ask) -> Iterator[str]:
    """Read the texts of some rows.

    Raises:
        InputError: A row holds no text.
    """
    rows = _open(piece.source, ask).select(range(piece.start, piece.stop))
    for row, value in enumerate(rows, start=piece.start + 1):
        yield check_text(value[ask.column], ask.column, f"{piece.source} row {row}")


def digest(source: str, ask: Ask) -> str:
    """Return what the library itself knows a split's content by, and how many rows it has."""
    rows = _open(source, ask)
    return f"{len(rows)} rows, {rows._fingerprint}"


FORMAT = Format("huggingface", (), "datasets", cut, read, digest)
