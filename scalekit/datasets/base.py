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
from scalekit.tokenizers.base import Coder

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


def no_coder(data: Mapping[str, Any]) -> None:
    """Say that tokens of this source stand for no text that is known."""


@dataclass(frozen=True)
class Dataset:
    """A member of the family.

    Attributes:
        name: The file name.
        facts: From a resolved `data` config to `vocab`, `train_tokens`, `val_tokens`,
            `bytes_per_token` and `fingerprint`, without numpy or torch and in well under a second;
            None where that is not known so cheaply, or where the source never ends.
        n_rows: From (data config, context) to the rows that a run may take before it takes one for
            the second time, and to the held-out rows, as cheaply; None where the source never ends.
            Fewer than its tokens would make: a row has a token more than the context, and ends
            where its array does.
        open: From (data config, context, seed) to a `Corpus`. The seed draws a fresh sample where
            the source is a generator; it changes nothing else.
        coder: From a `data` config to the opened tokenizer of the source's tokens, or None where it
            is not known which that is; raises InputError where it is known and cannot be opened.
    """

    name: str
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    n_rows: Callable[[Mapping[str, Any], int], tuple[int | None, int | None]]
    open: Callable[[Mapping[str, Any], int, int], Corpus]
    coder: Callable[[Mapping[str, Any]], Coder | None] = no_coder


SHUFFLED_AT_MOST = 1 << 24
"""Rows whose order is a list: a second's work and 8 bytes a row, in every process of a run. That of
more is reckoned row by row. The two ways draw different orders.
"""


class Order:
    """Which rows a step takes: every row once an epoch, in an order drawn anew for each epoch.

    Args:
        n_rows: Rows of the split, or None for a source that never ends, which is read in sequence.
        seed: The order's seed.
        salt: What tells this order from others of the same seed.
    """

    def __init__(self, n_rows: int | None, seed: int, salt: tuple[int, ...] = ()) -> None:
        self._n_rows, self._seed, self._salt = n_rows, seed, salt
        self._shuffled: dict[int, np.ndarray | Scattered] = {}

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

    def _epoch(self, epoch: int) -> np.ndarray | Scattered:
        assert self._n_rows is not None
        if epoch not in self._shuffled:
            # Two epochs can meet in one batch; older ones never come back.
            self._shuffled = {e: p for e, p in self._shuffled.items() if e >= epoch - 1}
            self._shuffled[epoch] = _shuffled(self._n_rows, [self._seed, epoch, *self._salt])
        return self._shuffled[epoch]


def _shuffled(n_rows: int, seed: list[int]) -> np.ndarray | Scattered:
    import numpy as np

    if n_rows > SHUFFLED_AT_MOST:
        return Scattered(n_rows, seed)
    return np.random.default_rng(seed).permutation(n_rows)


_ROUNDS = 6


class Scattered:
    """A shuffle of the numbers below `n`, drawn by `seed`, of which no list is made.

    A Feistel network over the least square of a power of two that holds them all (Luby and Rackoff
    1988), walked on from numbers that are too large until one is not, which keeps it a permutation
    (Black and Rogaway 2002, section 3).
    """

    def __init__(self, n: int, seed: Sequence[int]) -> None:
        import numpy as np

        assert n < 1 << 62
        self._n = n
        self._half = max(1, -(-(n - 1).bit_length() // 2))
        self._keys = np.random.default_rng(seed).integers(1 << 63, size=_ROUNDS, dtype=np.uint64)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers (B,) at places (B,), int64 both."""
        import numpy as np

        found = self._walk(places.astype(np.uint64))
        while (outside := found >= self._n).any():
            found[outside] = self._walk(found[outside])
        return found.astype(np.int64)

    def _walk(self, numbers: np.ndarray) -> np.ndarray:
        import numpy as np

        half, low = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = numbers >> half, numbers & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return left << half | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Return 64 bits each of which depends on all of `x`'s (SplitMix64's, Steele et al. 2014)."""
    import numpy as np

    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
