"""Branches among the runs of a folder: whether one can begin, and the curve it shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from scalekit.executors._turns import holds_checkpoint
from scalekit.results.record import RunRecord
from scalekit.results.states import PENDING, RunState
from scalekit.results.store import SweepFolder

_LEAVES = ("done", "diverged", "pruned")
"""Ends of a trunk that let its branches begin, with what it saved or without."""


_GOES_ON = ("pending", "running", "requeued")
"""States of a trunk that its branches need but wait for."""


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
    if parent is None or parent in starting:
        return False
    if states.get(parent, PENDING).status in _LEAVES:
        return False
    return not holds_checkpoint(folder.checkpoints(run))


def with_trunk(
    run: str, plan: Mapping[str, Any], folder: SweepFolder, states: Mapping[str, RunState]
) -> RunState:
    """Say of a branch that waits that it waits for its trunk, and what has become of that.

    Whatever else a scheduler says of its job, it could not begin before.
    """
    state = states[run]
    if state.status != "pending" or not is_held(run, plan, folder, states, ()):
        return state
    parent = plan["parent"]
    trunk = states.get(parent, PENDING).status
    fate = "" if trunk in _GOES_ON else f", which is {trunk}"
    return replace(state, why=f"waits for its trunk {parent}{fate}", crashed=False, held=True)


def whole_curve(
    branch: RunRecord, records: Mapping[str, RunRecord], plan: Mapping[str, Any]
) -> RunRecord:
    """Return a branch's record with its trunk's lines up to the branch step before its own.

    A branch that was trained from its beginning, or whose trunk has no record, is left as it is.
    """
    trunk, last = records.get(plan.get("parent", "")), plan.get("branch_step", 0)
    if trunk is None or any(line["step"] <= last for line in branch.steps):
        return branch
    steps = [line for line in trunk.steps if line["step"] <= last]
    evals = [line for line in trunk.evals if line["step"] <= last]
    return replace(branch, steps=(*steps, *branch.steps), evals=(*evals, *branch.evals))
