"""A corpus of token arrays: its split, what a run may take of it, and its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalekit.datasets.base import Corpus, Rows, Scattered
from scalekit.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def split_corpus(
    train: Sequence[np.ndarray],
    val: Sequence[np.ndarray],
    data: Mapping[str, Any],
    context: int,
    facts: Mapping[str, Any],
) -> Corpus:
    """Make a corpus of token arrays: limit the training tokens, spread the held-out rows.

    Raises:
        InputError: Fewer tokens than `data.unique_tokens` or `data.val_tokens` ask, or not one row.
    """
    limit = limit_training(sum(map(len, train)), data)
    # Whole rows of them: what the end of an array is too short for, the next one makes up.
    rows = _limit_rows(ArrayRows(train, context), limit // context, data)
    held_out = ArrayRows(val, context)
    n_val = data["val_tokens"] // context
    for key, n_rows in (("val_tokens", n_val), ("unique_tokens", rows.n_rows)):
        if n_rows == 0:
            raise InputError(
                f"data.{key}: not one row of {context} tokens in {data['source']!r}; ask for more, "
                "or lower model.context"
            )
    check_held_out(n_val * context, held_out.n_rows * context, data["source"])
    return Corpus(rows, SpreadRows(held_out, n_val), {**facts, "val_tokens": n_val * context})


def limit_training(available: int, data: Mapping[str, Any]) -> int:
    """Return how many training tokens `data.unique_tokens` leaves of those available.

    Raises:
        InputError: It asks for more than there are.
    """
    limit = data.get("unique_tokens")
    if limit is None:
        return available
    if limit > available:
        raise InputError(
            f"data.unique_tokens: {limit:,} asked, the training split of {data['source']!r} has "
            f"{available:,}; ask for fewer"
        )
    return limit


def _limit_rows(rows: Rows, most: int, data: Mapping[str, Any]) -> Rows:
    """Leave at most so many rows: the first, or some from everywhere (`data.unique_from`)."""
    assert rows.n_rows is not None
    if most >= rows.n_rows:
        return rows
    is_drawn = data.get("unique_from") == "everywhere"
    return DrawnRows(rows, most) if is_drawn else FirstRows(rows, most)


def count_rows(
    train: Iterable[int], val: Iterable[int], data: Mapping[str, Any], context: int
) -> tuple[int, int]:
    """Return the rows of `split_corpus` in both splits, from the lengths of their arrays."""
    n_train, n_val = (sum(max(0, n - 1) // context for n in split) for split in (train, val))
    limit = data.get("unique_tokens")
    return n_train if limit is None else min(n_train, limit // context), n_val


def check_held_out(asked: int, available: int, source: str) -> None:
    """Refuse a held-out set that is larger than the split it is drawn from.

    Raises:
        InputError: Too few tokens.
    """
    if asked > available:
        raise InputError(
            f"data.val_tokens: {asked:,} asked, the held-out split of {source!r} has {available:,};"
            " ask for fewer"
        )


class ArrayRows:
    """Rows cut side by side out of token arrays; no row crosses from one array into the next.

    Args:
        arrays: Tokens.
        context: Tokens a row.
    """

    def __init__(self, arrays: Sequence[np.ndarray], context: int) -> None:
        import numpy as np

        long_enough = [a for a in arrays if len(a) > context]
        # Overlapping views: a row's last token is the next row's first.
        self._rows = [
            np.lib.stride_tricks.sliding_window_view(a, context + 1)[::context] for a in long_enough
        ]
        self._ends = np.cumsum([len(rows) for rows in self._rows])
        self._starts = [0, *self._ends[:-1].tolist()]
        self._context = context
        self.n_rows = sum(len(rows) for rows in self._rows)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        import numpy as np

        assert len(indices) == 0 or 0 <= indices.min() <= indices.max() < self.n_rows
        out = np.empty((len(indices), self._context + 1), dtype=np.int64)
        places = np.searchsorted(self._ends, indices, side="right")
        # Row by row: grouping them by array takes longer than a small model's whole look-up.
        for row, place, index in zip(out, places.tolist(), indices.tolist(), strict=True):
            row[:] = self._rows[place][index - self._starts[place]]
        return out


class FirstRows:
    """The first `n_rows` of more rows."""

    def __init__(self, rows: Rows, n_rows: int) -> None:
        self._rows, self.n_rows = rows, n_rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        assert len(indices) == 0 or 0 <= indices.min() <= indices.max() < self.n_rows
        return self._rows.take(indices)


class DrawnRows:
    """`n_rows` rows drawn out of more of them, by lot and always the same.

    Fewer are among more, so that runs that differ in how many they have differ in nothing else.
    """

    def __init__(self, rows: Rows, n_rows: int) -> None:
        assert rows.n_rows is not None
        self._rows, self.n_rows = rows, n_rows
        self._lots = Scattered(rows.n_rows, [0])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        assert len(indices) == 0 or 0 <= indices.min() <= indices.max() < self.n_rows
        return self._rows.take(self._lots[indices])


class SpreadRows:
    """`n_rows` rows spread evenly over more of them: a held-out set that sees the whole split."""

    def __init__(self, rows: Rows, n_rows: int) -> None:
        assert rows.n_rows is not None
        self._rows, self._of, self.n_rows = rows, rows.n_rows, n_rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        return self._rows.take(indices * self._of // self.n_rows)


class JoinedRows:
    """Rows of several sources, one source after the other."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        self._rows = rows
        self.starts = [0]
        for one in rows:
            assert one.n_rows is not None
            self.starts.append(self.starts[-1] + one.n_rows)
        self.n_rows = self.starts[-1]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        import numpy as np

        places = np.searchsorted(self.starts, indices, side="right") - 1
        taken = [(places == p, p) for p in np.unique(places)] or [(places == 0, 0)]
        parts = [(here, self._rows[p].take(indices[here] - self.starts[p])) for here, p in taken]
        out = np.empty((len(indices), parts[0][1].shape[1]), dtype=np.int64)
        for here, rows in parts:
            out[here] = rows
        return out
