"""Branches among the runs of a folder: whether one can begin."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from scalekit.executors._turns import holds_checkpoint
from scalekit.results.states import PENDING, RunState
from scalekit.results.store import SweepFolder

_LEAVES = ("done", "diverged", "pruned")
"""Ends of a trunk that let its branches begin, with what it saved or without."""


def is_held(
    run: str,
    plan: Mapping[str, Any],
    folder: SweepFolder,
    states: Mapping[str, RunState],
    starting: Collection[str],
) -> bool:
    """Whether a branch has to wait for a trunk that is not started now.

    That is a trunk that someone else trains, or one that failed and is not to be tried again.
    """
    parent = plan.get("parent")
    if parent is None or parent in starting or holds_checkpoint(folder.checkpoints(run)):
        return False
    return states.get(parent, PENDING).status not in _LEAVES
