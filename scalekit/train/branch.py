"""Trunks and branches: what a trunk saves for its branches, and what a branch begins from.

A trunk puts its state at a branch step where the branch would have put its own checkpoint there, so
beginning a branch is resuming a run, and whoever clears a finished run's checkpoints away clears
this one. A trunk never writes where a branch may be writing: once a branch has a checkpoint it has
all that it needs, for a branch step's state is the same however often it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from scalekit.errors import InputError, NotFinishedError
from scalekit.results.record import RecordWriter, RunRecord, read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import Device
from scalekit.train.provenance import describe_attempt


def open_branches(spec: RunSpec, folder: SweepFolder) -> dict[int, list[Checkpoints]]:
    """Return by branch step where a trunk saves its state for branches that still lack it."""
    found: dict[int, list[Checkpoints]] = {}
    for run, step in spec.plan.get("branches", {}).items():
        place = Checkpoints(folder.checkpoints(run), run)
        if not place.newest_first() and not read_state(folder.record(run)).is_finished:
            found.setdefault(step, []).append(place)
    return found


def is_from_trunk(spec: RunSpec, checkpoints: Checkpoints) -> bool:
    """Whether the newest of these is what a trunk has saved for this branch."""
    step = spec.plan.get("branch_step")
    newest = checkpoints.newest_first()[:1]
    return step is not None and newest in ([checkpoints.path(step)], [checkpoints.shards(step)])


def lost_with_trunk(
    spec: RunSpec, folder: SweepFolder, checkpoints: Checkpoints, report: Callable[[str], None]
) -> int | None:
    """Say what a branch without any state does, from what became of its trunk.

    Until the branch step the two are one computation: a trunk that diverged before took the branch
    with it. One that ended without saving for this branch, as when a rung is added later, leaves
    the branch to be trained from its beginning, which gives the same numbers.

    Returns:
        The step at which trunk and branch diverged; None when the branch can be trained.

    Raises:
        NotFinishedError: The trunk has not come so far, and nothing says that it will not.
    """
    parent, step = spec.plan.get("parent"), spec.plan.get("branch_step")
    if parent is None or step is None or checkpoints.newest_first():
        return None
    trunk = _read(folder, parent)
    status = trunk.end["status"] if trunk and trunk.end else None
    if trunk is None or status in (None, "failed"):
        how = "failed before" if status else "has not come to"
        raise NotFinishedError(
            f"run {spec.id}: branches off run {parent}, which {how} step {step}; train that first"
        )
    last = max((line["step"] for line in (*trunk.steps[-1:], *trunk.evals[-1:])), default=0)
    if status == "diverged" and last <= step:
        return last
    report(
        f"run {spec.id}: its trunk {parent} kept no state of step {step}; trained from its "
        "beginning, with the same result"
    )
    return None


def end_with_trunk(
    spec: RunSpec, record: RecordWriter, before: RunRecord | None, device: Device, step: int
) -> str:
    """Write the end of a branch that diverged at a step with its trunk; return its status."""
    n = 1 + (before.n_attempts if before else 0)
    record.write("attempt", **describe_attempt(n, step, device))
    why = f"diverged at step {step} with its trunk {spec.plan['parent']}"
    record.write("end", status="diverged", wall_s=0.0, attempts=n, error=why)
    return "diverged"


def _read(folder: SweepFolder, run: str) -> RunRecord | None:
    try:
        return read_record(folder.record(run))
    except InputError:  # none yet, or no whole line of it
        return None
