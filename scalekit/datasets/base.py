"""What a dataset must offer: facts for planning, rows of tokens for training, and their order.

A member of `datasets/` binds `DATASET`, a `Dataset`. Importing a member needs neither numpy nor
torch; opening one does. Nothing here holds a cursor: a batch is a function of seed and step, so a
run resumes from its step number alone. Legend: B rows, T tokens a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scalekit.errors import InputError

if TYPE_CHECKING:
    import numpy as np


class Rows(Protocol):
    """Rows of a split, each T + 1 tokens long: T inputs and the T tokens after them."""

    @property
    def n_rows(self) -> int | None:
        """Return how many different rows there are; None when the source never ends."""
        ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        ...


@dataclass(frozen=True)
class Seen:
    """What the first so many rows of a run are.

    Attributes:
        rows: How many they are.
        unique: How many different ones.
        epochs: Them over the different ones that the source has; None where it never ends.
        sources: The same of each source of a mixture.
    """

    rows: int
    unique: int
    epochs: float | None
    sources: Mapping[str, Seen] = field(default_factory=dict)


class RowOrder(Protocol):
    """Which rows a step takes: a function of the step alone, whoever asks and however often."""

    def rows(self, step: int, batch: int) -> np.ndarray:
        """Return the row indices (B,) of a step, counted from one."""
        ...

    def seen(self, rows: int) -> Seen:
        """Account for the first so many rows."""
        ...


@dataclass(frozen=True)
class Share:
    """One source of a mixture.

    Attributes:
        name: What it is called.
        weight: Its share of the training tokens.
        n_val_rows: How many of the held-out rows are its own; they stand in the sources' order.
        bytes_per_token: Of its held-out text, or None where bytes are not known.
    """

    name: str
    weight: float
    n_val_rows: int
    bytes_per_token: float | None


@dataclass(frozen=True)
class Corpus:
    """An opened dataset.

    Attributes:
        train: Rows to learn from.
        val: The fixed held-out rows, the same for every run of this data config and context.
        facts: What is known about the source: `vocab`, `train_tokens` (different ones, or None
            when the source never ends), `val_tokens`,
            `bytes_per_token`, `entropy` (nats per token), `oracle_val_loss` (of these very rows)
            and `fingerprint`; None where not known. Where the bytes of these very held-out rows are
            known, they stand over their tokens in `val_bytes_per_token`.
        shares: The sources of a mixture; empty where there is one source.
        order: From a seed to the order of the training rows; None for `Order`.
    """

    train: Rows
    val: Rows
    facts: Mapping[str, Any]
    shares: tuple[Share, ...] = ()
    order: Callable[[int], RowOrder] | None = None

    def held_out_bytes(self) -> float | None:
        """Return bytes per token of the held-out rows, of their whole split, or None."""
        return self.facts.get("val_bytes_per_token") or self.facts.get("bytes_per_token")

    def ordered(self, seed: int) -> RowOrder:
        """Return the order in which a run of this seed takes the training rows."""
        return self.order(seed) if self.order else Order(self.train.n_rows, seed)


@dataclass(frozen=True)
class Dataset:
    """A member of the family.

    Attributes:
        name: The file name.
        facts: From a resolved `data` config to `vocab`, `train_tokens`, `val_tokens`,
            `bytes_per_token` and `fingerprint`, without numpy or torch and in well under a second;
            None where that is not known so cheaply, or where the source never ends.
        open: From (data config, context, seed) to a `Corpus`. The seed draws a fresh sample where
            the source is a generator; it changes nothing else.
    """

    name: str
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    open: Callable[[Mapping[str, Any], int, int], Corpus]


class ArrayRows:
    """Rows cut side by side out of token arrays; no row crosses from one array into the next."""

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


class Order:
    """Which rows a step takes: every row once an epoch, in an order drawn anew for each epoch.

    Args:
        n_rows: Rows of the split, or None for a source that never ends, which is read in sequence.
        seed: The order's seed.
        salt: What tells this order from others of the same seed.
    """

    def __init__(self, n_rows: int | None, seed: int, salt: tuple[int, ...] = ()) -> None:
        self._n_rows, self._seed, self._salt = n_rows, seed, salt
        self._shuffled: dict[int, np.ndarray] = {}

    def rows(self, step: int, batch: int) -> np.ndarray:
        """Return the row indices (B,) of a step, counted from one."""
        import numpy as np

        return self.at(np.arange((step - 1) * batch, step * batch, dtype=np.int64))

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the row indices (B,) at places (B,) of the run, counted from zero and rising."""
        import numpy as np

        if self._n_rows is None:
            return places
        epochs, within = np.divmod(places, self._n_rows)
        out = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            out[here] = self._epoch(epoch)[within[here]]
        return out

    def seen(self, rows: int) -> Seen:
        """Account for the first so many rows."""
        if self._n_rows is None:
            return Seen(rows, rows, None)
        return Seen(rows, min(rows, self._n_rows), rows / self._n_rows)

    def _epoch(self, epoch: int) -> np.ndarray:
        import numpy as np

        assert self._n_rows is not None
        if epoch not in self._shuffled:
            # Two epochs can meet in one batch; older ones never come back.
            self._shuffled = {e: p for e, p in self._shuffled.items() if e >= epoch - 1}
            generator = np.random.default_rng([self._seed, epoch, *self._salt])
            self._shuffled[epoch] = generator.permutation(self._n_rows)
        return self._shuffled[epoch]


def check_supply(tokens: float, available: int | None, data: Mapping[str, Any]) -> None:
    """Refuse a run that would repeat its data more often than `data.max_epochs` allows.

    Args:
        tokens: Training tokens asked.
        available: Different training tokens there are; None when the source never ends.
        data: The resolved `data` config.

    Raises:
        InputError: Too few tokens.
    """
    if available is None:
        return
    epochs = tokens / max(available, 1)
    if epochs > data["max_epochs"]:
        raise InputError(
            f"data.max_epochs: {data['max_epochs']:g}, but {tokens:,.0f} training tokens are asked "
            f"of {available:,} different ones in {data['source']!r}, {epochs:.2f} epochs; "
            "train on fewer tokens or set data.max_epochs to allow repetition"
        )


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
    # A row needs the token after its last, so one more than the limit may be looked at.
    rows, held_out = ArrayRows(_first(train, limit + 1), context), ArrayRows(val, context)
    n_val = data["val_tokens"] // context
    for key, n_rows in (("val_tokens", n_val), ("unique_tokens", rows.n_rows)):
        if n_rows == 0:
            raise InputError(
                f"data.{key}: not one row of {context} tokens in {data['source']!r}; ask for more, "
                "or lower model.context"
            )
    check_held_out(n_val * context, held_out.n_rows * context, data["source"])
    return Corpus(rows, SpreadRows(held_out, n_val), {**facts, "val_tokens": n_val * context})


def _first(arrays: Sequence[np.ndarray], limit: int) -> list[np.ndarray]:
    kept = []
    for array in arrays:
        if limit <= 0:
            break
        kept.append(array[:limit])
        limit -= len(array)
    return kept
