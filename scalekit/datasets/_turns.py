"""In what turn the sources of a mixture give rows: each evenly over a cycle that repeats."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scalekit.datasets._arrays import JoinedRows
from scalekit.datasets.base import Order, Rows, Seen

if TYPE_CHECKING:
    import numpy as np

CYCLE = 1 << 16
"""Rows after which the pattern of sources repeats; a weight is a whole number of rows of it."""


class MixedOrder:
    """Rows of several sources in turn, each source in its own order.

    Args:
        rows: Each source's training rows.
        weights: By name, in the order of `rows`.
        seed: The orders' seed.
    """

    def __init__(self, rows: Sequence[Rows], weights: Mapping[str, float], seed: int) -> None:
        self._starts = JoinedRows(rows).starts
        self._names = list(weights)
        # By its name, so that a source keeps its order in another mixture.
        self._orders = [
            Order(one.n_rows, seed, (zlib.crc32(name.encode()),))
            for one, name in zip(rows, weights, strict=True)
        ]
        self._turns = turns_of(list(weights.values()))
        self._own = places(self._turns, len(self._names))

    def rows(self, step: int, batch: int) -> np.ndarray:
        """Return the row indices (B,) of a step, counted from one."""
        import numpy as np

        places = np.arange((step - 1) * batch, step * batch, dtype=np.int64)
        cycles, within = np.divmod(places, CYCLE)
        out = np.empty(batch, dtype=np.int64)
        for number, order in enumerate(self._orders):
            own = self._own[number]
            mine = self._turns[within] == number
            turns = cycles[mine] * len(own) + np.searchsorted(own, within[mine])
            out[mine] = self._starts[number] + order.at(turns)
        return out

    def seen(self, rows: int) -> Seen:
        """Account for the first so many rows."""
        sources = {
            name: order.seen(count_turns(own, rows))
            for name, order, own in zip(self._names, self._orders, self._own, strict=True)
        }
        unique = sum(one.unique for one in sources.values())
        return Seen(rows, unique, rows / self._starts[-1], sources)


def places(turns: np.ndarray, n_sources: int) -> list[np.ndarray]:
    """Return each source's places in a cycle, rising."""
    import numpy as np

    return [np.flatnonzero(turns == number) for number in range(n_sources)]


def count_turns(own: np.ndarray, rows: int) -> int:
    """Return how many of the first so many rows a source has whose places in a cycle these are."""
    cycles, within = divmod(rows, CYCLE)
    return cycles * len(own) + int(own.searchsorted(within))


def turns_of(weights: Sequence[float]) -> np.ndarray:
    """Return whose turn each row of a cycle is, (CYCLE,), every source spread evenly over it."""
    import numpy as np

    counts = np.array(cycle_counts(weights), dtype=np.int64)
    sources = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(CYCLE) - np.repeat(np.cumsum(counts) - counts, counts)
    return sources[np.argsort((nth + 0.5) / counts[sources], kind="stable")]


def cycle_counts(weights: Sequence[float]) -> list[int]:
    """Return how many rows of a cycle each source has."""
    exact = [weight * CYCLE for weight in weights]
    counts = [int(share) for share in exact]
    # The largest remainders are rounded up, so that the cycle is full.
    by_remainder = sorted(range(len(counts)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: CYCLE - sum(counts)]:
        counts[number] += 1
    return counts


def place_of(counts: Sequence[int], number: int, nth: int) -> int:
    """Return at which place of a run a source's nth row stands, both counted from zero.

    Without numpy, for planning: in the order of `turns_of`, ties too, in whole numbers.
    """
    own = counts[number]
    cycles, within = divmod(nth, own)
    before = 0
    for other, count in enumerate(counts):
        # Rows m of the other with (m + 1/2) / count below (within + 1/2) / own.
        ahead = (2 * within + 1) * count - own
        before += ahead // (2 * own) + 1 if other < number else -(-ahead // (2 * own))
    return cycles * CYCLE + before
