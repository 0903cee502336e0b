"""The documents of a part, and which documents are held out wherever they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
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


def held_out_by_source(parts: Sequence[Part]) -> list[Part]:
    """List the parts to be held out, if there are others that their documents may stand in."""
    held_out = [part for part in parts if part.split == SPLITS[1]]
    return held_out if len(held_out) < len(parts) else []


def note_held_out(
    path: Path, held_out: Sequence[Part], recipe: Recipe, advance: Callable[[int], None]
) -> None:
    """Write down the numbers of the documents of these parts, where that was not done yet.

    Args:
        path: Where to.
        held_out: From `held_out_by_source`.
        recipe: How they are read.
        advance: Told the bytes that were gone through.

    Raises:
        InputError: A document cannot be read.
        SystemTroubleError: The disk refuses.
    """
    import numpy as np

    if path.is_file() or not held_out:
        return
    path.parent.mkdir(exist_ok=True)
    # Never a list: a number of Python takes five times as much memory.
    numbers = np.fromiter(_numbers(held_out, recipe, advance), _NUMBERS)
    write_whole(path, np.unique(numbers).tobytes())


def _numbers(
    parts: Sequence[Part], recipe: Recipe, advance: Callable[[int], None]
) -> Iterator[int]:
    done = 0
    for part in parts:
        for texts in batches_of(part, recipe):
            yield from (number_of(text) for text in texts if text)
        done += part.weight
        advance(done)


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
