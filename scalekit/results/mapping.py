"""What users say of a table: `--map` makes columns of others, `--drop` leaves rows out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from scalekit.errors import UsageError
from scalekit.results.arithmetic import evaluate

if TYPE_CHECKING:
    import numpy as np


def parse_mapping(texts: Iterable[str]) -> dict[str, str]:
    """Read `--map` options: `name=expression`, several by commas outside brackets.

    >>> parse_mapping(["params=N,tokens=D", "loss=min(a, b)"])
    {'params': 'N', 'tokens': 'D', 'loss': 'min(a, b)'}

    Raises:
        UsageError: A part has no `=`, or a name stands twice.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        for part in _split(text):
            name, equals, expression = (piece.strip() for piece in part.partition("="))
            if not equals or not name or not expression:
                raise UsageError(f"--map {part!r}: not name=expression; write params=N,tokens=D")
            if name in mapping:
                raise UsageError(f"--map {part!r}: {name!r} is mapped twice; keep one")
            mapping[name] = expression
    return mapping


def holds(expression: str, columns: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Say for every row (n,) whether an expression holds, or whether a column's cell is true.

    Raises:
        InputError: As `evaluate`.
    """
    import numpy as np

    found = evaluate(expression, columns, where)
    if found.dtype == object:
        return np.array([str(cell).strip().lower() in ("true", "yes", "1") for cell in found])
    return np.nan_to_num(np.asarray(found, dtype=float)) != 0


def kept_rows(columns: Mapping[str, np.ndarray], drop: Iterable[str], where: str) -> np.ndarray:
    """Say for every row (n,) whether no `--drop` takes it away.

    Raises:
        InputError: As `evaluate`.
    """
    import numpy as np

    kept = np.ones(len(next(iter(columns.values()), ())), dtype=bool)
    for expression in drop:
        kept &= ~holds(expression, columns, f"{where}: --drop")
    return kept


def _split(text: str) -> list[str]:
    """Split at commas that stand outside brackets."""
    parts, depth = [""], 0
    for mark in text:
        depth += (mark in "([{") - (mark in ")]}")
        if mark == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += mark
    return [part for part in parts if part.strip()]
