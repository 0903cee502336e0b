"""Sources whose entropy is known exactly, so that the irreducible loss of a law is a fact.

Both are stationary first-order Markov chains over `symbols` states; a row starts from the
stationary distribution, so every prediction in it has the same expected loss under the true model.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalekit.datasets.base import Corpus, Dataset
from scalekit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

KINDS = ("graphwalk", "specbigram")
_BLOCK = 1024
"""Rows drawn at once: a block is a function of (seed, block), so any row can be drawn again."""


def graphwalk(symbols: int, degree: int, seed: int) -> np.ndarray:
    """Return the transition matrix of a random walk on a fixed random directed graph.

    Every ordered pair is an edge with probability degree / symbols; the edges out of a node carry
    Zipf weights 1, 1/2, 1/3, ... in random order.

    Raises:
        InputError: The graph falls apart, so the walk has no single stationary distribution.
    """
    import numpy as np

    generator = np.random.default_rng([seed, 1])
    edges = generator.random((symbols, symbols)) < degree / symbols
    ranks = np.argsort(generator.random((symbols, symbols)), axis=1)
    weights = np.zeros((symbols, symbols))
    for node in range(symbols):
        targets = ranks[node][edges[node][ranks[node]]]
        weights[node, targets] = 1.0 / np.arange(1, len(targets) + 1)
    if not (_reaches_all(edges) and _reaches_all(edges.T)):
        raise InputError(
            f"data.synthetic.degree: {degree} leaves the graph of {symbols} nodes in pieces; raise "
            "the degree or change data.synthetic.seed"
        )
    return weights / weights.sum(axis=1, keepdims=True)


def specbigram(symbols: int, decay: float, seed: int) -> np.ndarray:
    """Return a transition matrix whose logits are log Zipf plus a sum of rank-one terms.

    The k-th term has weight k^-decay and standard normal factors.
    """
    import numpy as np

    generator = np.random.default_rng([seed, 2])
    ranks = np.arange(1, symbols + 1)
    left = generator.standard_normal((symbols, symbols))
    right = generator.standard_normal((symbols, symbols))
    logits = (left * ranks**-decay) @ right - np.log(ranks)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def stationary(matrix: np.ndarray) -> np.ndarray:
    """Return the distribution (S,) that a transition matrix (S, S) leaves as it is."""
    import numpy as np

    n = len(matrix)
    system = matrix.T - np.eye(n)
    system[-1] = 1.0
    right = np.zeros(n)
    right[-1] = 1.0
    solved = np.clip(np.linalg.solve(system, right), 0.0, None)
    return solved / solved.sum()


def entropy_rate(matrix: np.ndarray) -> float:
    """Return the entropy rate in nats per token: row entropies weighted by the stationary law."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(matrix > 0, matrix * np.log(matrix), 0.0)
    return float(-(stationary(matrix) @ terms.sum(axis=1)))


@dataclass(frozen=True)
class AliasTable:
    """Walker's alias method: a draw costs one look-up, however many symbols there are.

    Attributes:
        keep: (S, S) probability of keeping the column drawn.
        other: (S, S) the column taken instead.
    """

    keep: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> AliasTable:
        """Build the table of a stochastic matrix (R, S), a row at a time (Vose 1991)."""
        import numpy as np

        n = matrix.shape[1]
        keep, other = np.ones_like(matrix), np.tile(np.arange(n), (len(matrix), 1))
        for r, row in enumerate(matrix):
            mass = (row * n).tolist()
            small = [i for i, m in enumerate(mass) if m < 1.0]
            large = [i for i, m in enumerate(mass) if m >= 1.0]
            while small and large:
                low, high = small.pop(), large[-1]
                keep[r, low], other[r, low] = mass[low], high
                mass[high] -= 1.0 - mass[low]
                if mass[high] < 1.0:
                    small.append(large.pop())
            # Only rounding leaves a small one over. It keeps itself, unless it has no mass at all:
            # an impossible symbol must stay impossible.
            for i in small:
                if row[i] == 0.0:
                    keep[r, i], other[r, i] = 0.0, int(row.argmax())
        return cls(keep, other)

    def draw(self, states: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Return the next states (B,) for states (B,) and uniforms (B,) in [0, 1)."""
        import numpy as np

        n = self.keep.shape[1]
        scaled = uniform * n
        column = scaled.astype(np.int64)
        flat = states * n + column
        return np.where(scaled - column < self.keep.take(flat), column, self.other.take(flat))


class MarkovRows:
    """Rows drawn block by block; without `n_rows` they never end and each is seen once."""

    def __init__(
        self, matrix: np.ndarray, context: int, seed: tuple[int, ...], n_rows: int | None
    ) -> None:
        self.n_rows = n_rows
        self._context, self._seed = context, seed
        self._table = AliasTable.of(matrix)
        self._first = AliasTable.of(stationary(matrix)[None, :])
        # A bounded sample is revisited in any order, so it stays; an endless one is read forward.
        self._keep = 2 if n_rows is None else -(-n_rows // _BLOCK)
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) of int64 for indices (B,)."""
        import numpy as np

        blocks, within = np.divmod(indices, _BLOCK)
        out = np.empty((len(indices), self._context + 1), dtype=np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            out[here] = self._block(int(block))[within[here]]
        return out

    def _block(self, block: int) -> np.ndarray:
        import numpy as np

        if block not in self._blocks:
            while len(self._blocks) >= self._keep:
                self._blocks.popitem(last=False)
            uniform = np.random.default_rng([*self._seed, block]).random(
                (self._context + 1, _BLOCK)
            )
            rows = np.empty((_BLOCK, self._context + 1), dtype=np.int32)
            state = self._first.draw(np.zeros(_BLOCK, dtype=np.int64), uniform[0])
            rows[:, 0] = state
            for t in range(1, self._context + 1):
                state = self._table.draw(state, uniform[t])
                rows[:, t] = state
            self._blocks[block] = rows
        return self._blocks[block]


def transition_matrix(spec: Mapping[str, Any]) -> np.ndarray:
    """Return the transition matrix (S, S) of a resolved `data.synthetic` config."""
    if spec["kind"] == "graphwalk":
        return graphwalk(spec["symbols"], spec["degree"], spec["seed"])
    return specbigram(spec["symbols"], spec["decay"], spec["seed"])


def oracle_losses(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return -log p (B, T) of each next token of rows (B, T + 1) under the true source."""
    import numpy as np

    return -np.log(matrix[rows[:, :-1], rows[:, 1:]])


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the source offers; its entropy needs the matrix and is told when it is opened."""
    spec = data["synthetic"]
    text = json.dumps(spec, sort_keys=True)
    return {
        "vocab": spec["symbols"],
        "train_tokens": data.get("unique_tokens"),
        "val_tokens": None,
        "bytes_per_token": None,
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def n_rows(data: Mapping[str, Any], context: int) -> tuple[int | None, None]:
    """Count the training rows; without `data.unique_tokens` they never end, held-out ones never."""
    unique = data.get("unique_tokens")
    return None if unique is None else unique // context, None


def open_corpus(data: Mapping[str, Any], context: int, seed: int) -> Corpus:
    """Open the source.

    Without `data.unique_tokens` training rows never end and `seed` draws a fresh sample; with it
    the sample belongs to the source and `seed` only orders it. The held-out rows belong to the
    source always.
    """
    import numpy as np

    spec = data["synthetic"]
    matrix = transition_matrix(spec)
    n_train, _ = n_rows(data, context)
    n_val = data["val_tokens"] // context
    for key, rows in (("unique_tokens", n_train), ("val_tokens", n_val)):
        if rows == 0:
            raise InputError(
                f"data.{key}: {data[key]} is less than one row of {context} tokens; ask for more, "
                "or lower model.context"
            )
    sample = (spec["seed"], 3, seed) if n_train is None else (spec["seed"], 4)
    val = MarkovRows(matrix, context, (spec["seed"], 5), n_val)
    said = {
        **facts(data),
        "entropy": entropy_rate(matrix),
        "oracle_val_loss": float(oracle_losses(matrix, val.take(np.arange(n_val))).mean()),
        "val_tokens": n_val * context,
    }
    return Corpus(MarkovRows(matrix, context, sample, n_train), val, said)


def _reaches_all(edges: np.ndarray) -> bool:
    """Say whether node 0 reaches every node along the edges (S, S)."""
    import numpy as np

    reached = np.zeros(len(edges), dtype=bool)
    reached[0] = True
    fresh = reached
    while fresh.any():
        fresh = edges[fresh].any(axis=0) & ~reached
        reached = reached | fresh
    return bool(reached.all())


DATASET = Dataset("synthetic", facts, n_rows, open_corpus)
