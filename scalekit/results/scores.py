"""The columns of what runs scored on tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SCORES = ("accuracy", "accuracy_norm", "probability", "loss", "bits")
_ALONE = {"loss": "task_loss"}
"""Names that a score has in a table of one task, where its own means something else."""


def score_columns(scored: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Lay out the scores of runs, each by task, as cells of a row.

    A score's column is `TASK.accuracy` and so on, with `_sem` for its standard error. Where all
    runs have one and the same task, `accuracy` and `task_loss` (nats per token) stand as well: what
    links from loss to accuracy, and their figure, read.

    Returns:
        The cells of each run, and in sentences what a reader must know.
    """
    names = list(dict.fromkeys(name for tasks in scored for name in tasks))
    rows = []
    for tasks in scored:
        row: dict[str, Any] = {}
        for name in names:
            said = tasks.get(name, {})
            row |= {f"{name}.{key}": said.get(key) for key in _known(scored, name)}
            if len(names) == 1:
                row |= {_alone(key): said.get(key) for key in _known(scored, name)}
        rows.append(row)
    return rows, [note for name in names if (note := _unlike(scored, name))]


def _known(scored: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """List the scores of a task that some run has, and how many items it has."""
    keys = [*(key for score in _SCORES for key in (score, f"{score}_sem")), "items"]
    return [key for key in keys if any(key in tasks.get(name, {}) for tasks in scored)]


def _alone(key: str) -> str:
    score, suffix = key.removesuffix("_sem"), "_sem" if key.endswith("_sem") else ""
    return _ALONE.get(score, score) + suffix if score in _SCORES else f"task_{key}"


def _unlike(scored: Sequence[Mapping[str, Any]], name: str) -> str | None:
    found = {tasks[name].get("fingerprint") for tasks in scored if name in tasks}
    if len(found) < 2:
        return None
    return f"task {name!r}: not all runs were scored on the same items; compare none of its scores"
