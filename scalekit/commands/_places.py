"""For how many runs of a sweep an executor has room at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalekit.executors.base import Executor, count_processes, count_sharing

if TYPE_CHECKING:
    from scalekit.sweep.spec import RunSpec
    from scalekit.sweep.stacks import Stacking


def count_places(
    executor: Executor, asked: int | None, runs: Sequence[RunSpec], stacking: Stacking
) -> int:
    """Return for how many runs or stacks there is room; those that share a GPU have room for one.

    Args:
        executor: Who executes.
        asked: The runs or jobs at a time that the sweep or the command line asks for.
        runs: Those to start.
        stacking: Which of them train as one.
    """
    # As many as go side by side when all are as wide as the widest.
    widest = max((count_processes(run.resources) for run in runs), default=1)
    most, gpus = getattr(executor, "max_parallel", 1), len(getattr(executor, "gpus", ()))
    if not executor.in_foreground:
        most = (asked or 1) * min((_side_by_side(run) for run in runs), default=1)
    elif gpus:
        sharing = max((count_sharing(run.resources) for run in runs), default=1)
        most = min(math.ceil(most / sharing), gpus // widest)
    elif asked is None:
        most //= widest
    return max(1, min(most, len(runs) - stacking.n_beside))


def _side_by_side(run: RunSpec) -> int:
    """Return how many runs like this one a job has room for: on cores all that it packs."""
    return 1 if run.resources.get("gpus") else int(run.resources.get("pack") or 1)
