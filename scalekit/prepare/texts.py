"""The documents of a part, and which documents are held out wherever they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit import registry
from scalekit.datasets._manifest import SPLITS
from scalekit.errors import InputError
from scalekit.prepare.recipe import Part, Recipe
from scalekit.results.store import write_whole

if TYPE_CHECKING:
    import numpy as np

_CHARS_AT_ONCE = 1 << 20
_DOCUMENTS_AT_ONCE = 1024
_NUMBERS = "<u8"


def batches_of(part: Part, recipe: Recipe) -> Iterator[list[str]]:
    """Yield the documents of a part, some at a time.

    Raises:
        InputError: One cannot be read.
    """
    batch: list[str] = []
    n_chars = 0
    for text in _texts(part, recipe):
        batch.append(text)
        n_chars += len(text)
        if n_chars >= _CHARS_AT_ONCE or len(batch) == _DOCUMENTS_AT_ONCE:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def number_of(text: str) -> int:
    """Return a number of 64 bits that equal documents share, and no others but by chance."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_held_out(number: int, share: float) -> bool:
    """Say whether a document is held out, by its number: equal ones go to the same split."""
    return number < share * 2.0**64


def note_held_out(path: Path, parts: Sequence[Part], recipe: Recipe) -> None:
    """Write down the numbers of the documents that are held out by their source.

    Nothing is written where there are none, or nothing else to find them in.

    Raises:
        InputError: A document cannot be read.
        SystemTroubleError: The disk refuses.
    """
    import numpy as np

    held_out = [part for part in parts if part.split == SPLITS[1]]
    if path.is_file() or not 0 < len(held_out) < len(parts):
        return
    numbers = (
        number_of(text)
        for part in held_out
        for texts in batches_of(part, recipe)
        for text in texts
        if text
    )
    path.parent.mkdir(exist_ok=True)
    # Never a list: a number of Python takes five times as much memory.
    write_whole(path, np.unique(np.fromiter(numbers, _NUMBERS)).tobytes())


def read_held_out(path: Path) -> np.ndarray:
    """Return what `note_held_out` wrote, rising, or an empty array."""
    import numpy as np

    return np.frombuffer(path.read_bytes() if path.is_file() else b"", _NUMBERS)


def are_among(numbers: Sequence[int], known: np.ndarray) -> list[bool]:
    """Say of each number whether it is one of these, which rise."""
    import numpy as np

    if not known.size:
        return [False] * len(numbers)
    asked = np.array(numbers, _NUMBERS)
    places = np.searchsorted(known, asked).clip(max=known.size - 1)
    return (known[places] == asked).tolist()


def _texts(part: Part, recipe: Recipe) -> Iterator[str]:
    read = registry.find("documents", part.format).read
    for piece in part.pieces:
        try:
            yield from read(piece, recipe.ask)
        except OSError as error:
            raise InputError(
                f"{piece.source}: cannot be read, {error.strerror}; mend it and run the same "
                "command again, it continues"
            ) from error
