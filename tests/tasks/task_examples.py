"""Tasks whose right answers are known: made from a synthetic source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalekit.datasets.synthetic import MarkovRows, stationary, transition_matrix

SOURCE = {"kind": "graphwalk", "symbols": 64, "degree": 10, "decay": 0.75, "seed": 0}


def next_symbol_task(
    source: Mapping[str, Any] = SOURCE, *, n_items: int, n_choices: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """Ask for the symbol after a walk: the one that came, among others that are as common."""
    rng = np.random.default_rng(seed)
    matrix = transition_matrix(source)
    walks = MarkovRows(matrix, 8, (seed, 99), n_items).take(np.arange(n_items))
    common = stationary(matrix)
    items = []
    for walk in walks.tolist():
        *context, right = walk
        share = np.where(np.arange(len(common)) == right, 0.0, common)
        wrong = rng.choice(len(common), n_choices - 1, replace=False, p=share / share.sum())
        answer = int(rng.integers(n_choices))
        choices = [[int(symbol)] for symbol in wrong]
        choices.insert(answer, [right])
        items.append({"context": context, "choices": choices, "answer": answer})
    return items


def oracle_accuracy(items: list[dict[str, Any]], source: Mapping[str, Any] = SOURCE) -> float:
    """Return the accuracy of who knows the source."""
    matrix = transition_matrix(source)
    chosen = [
        int(np.argmax([matrix[item["context"][-1], symbol] for (symbol,) in item["choices"]]))
        for item in items
    ]
    return float(np.mean([c == item["answer"] for c, item in zip(chosen, items, strict=True)]))


def write_task(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path
