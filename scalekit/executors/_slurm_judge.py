"""Where a run of a submission is: its line on the board beside what the scheduler says of jobs."""

from __future__ import annotations

import getpass
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalekit.errors import SystemTroubleError
from scalekit.executors._slurm_board import (
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    KILLED,
    RUNNING,
    WAITING,
    Folder,
    Line,
)
from scalekit.executors._slurm_queue import Row, ask_accounting, ask_queue
from scalekit.executors.base import Handle, JobState, Placed

_CAUSES = {
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "timed_out",
    "DEADLINE": "timed_out",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failed",
    "BOOT_FAIL": "node_failed",
    "PREEMPTED": "preempted",
}
_SAID = {
    "cancelled": "was cancelled",
    "timed_out": "ran into its time limit",
    "out_of_memory": "ran out of memory",
    "node_failed": "was lost with its node",
    "preempted": "was preempted and not requeued",
}
_NEVER = (
    *("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"),
    *("DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "AccountNotAllowed"),
    *("QOSNotAllowed", "JobHeldUser", "JobHeldAdmin"),
)
"""Reasons that do not pass by themselves."""
_NOT_LAUNCHED = ("0:53", "JobLaunchFailure")
"""How Slurm says that it could not open a job's output file: sacct's words and squeue's."""

_WORST = (*_CAUSES, "FAILED")


class Jobs:
    """What the scheduler says of one submission, found by job."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)
        self._single: dict[str, Row] = {}
        self._ranges: list[Row] = []
        for row in self.rows:
            first, last = row.elements[0] if len(row.elements) == 1 else (0, -1)
            if first == last:
                self._single[f"{row.array}_{first}"] = row
            else:
                self._ranges.append(row)

    def find(self, job: str) -> Row | None:
        """Return the row that speaks of a job."""
        return self._single.get(job) or next((r for r in self._ranges if r.holds(job)), None)

    def living(self) -> Row | None:
        """Return a row of jobs that hold or await resources, one that waits before others."""
        alive = [row for row in self.rows if row.is_alive]
        return next((row for row in alive if not row.is_at_work), alive[0] if alive else None)

    def worst(self) -> Row | None:
        """Return the row that explains best why nothing is left."""
        by_state: Mapping[str, Row] = {row.state: row for row in self.rows}
        found = [by_state[state] for state in _WORST if state in by_state]
        return next(iter([*found, *self.rows]), None)


def judge_runs(folder: Path, placed: Sequence[Placed]) -> list[JobState]:
    """Say where runs are: from the boards, one squeue, and one sacct for what has left the queue.

    Args:
        folder: Where the submissions have theirs.
        placed: The runs and their handles, of any number of submissions.
    """
    boards = {name: _Submission.read(folder / name, h) for name, h in _handles(placed).items()}
    waiting = [board for board in boards.values() if board.is_open]
    try:
        rows = ask_queue([b.name for b in waiting], _users(waiting)) if waiting else []
    except SystemTroubleError as error:
        unknown = JobState("unknown", str(error))
        return [boards[h["name"]].judge(run, Jobs()) or unknown for run, h in placed]
    found = _judge_all(placed, boards, rows)
    names = {h["name"] for (_, h), state in zip(placed, found, strict=True) if state is None}
    unexplained = [boards[name] for name in sorted(names)]
    rows, why = _ask_accounting(unexplained)
    again = _judge_all(placed, boards, rows)
    return [
        one or other or boards[handle["name"]].unexplained(run, why)
        for (run, handle), one, other in zip(placed, found, again, strict=True)
    ]


def _ask_accounting(submissions: Sequence[_Submission]) -> tuple[list[Row], str]:
    """Return what accounting knows, and what to say of runs that it does not explain."""
    if not submissions:
        return [], ""
    names, since = [s.name for s in submissions], min(s.time for s in submissions)
    try:
        rows = ask_accounting(names, _users(submissions), since)
    except SystemTroubleError as error:
        return [], f"left the queue without an end, and why cannot be known: {error}"
    # The queue shows everybody their own jobs. Of others' a site may hide what it accounts for.
    ours = {s.name for s in submissions if s.user == getpass.getuser()}
    known = [row for row in rows if not (row.is_alive and row.name in ours)]
    if len(known) < len(rows):
        return known, "not in the queue, where the accounting still has its job: Slurm lost it"
    return known, "neither the queue nor the accounting knows its job"


@dataclass(frozen=True)
class _Submission:
    """A submission's board, and what its handle says."""

    name: str
    user: str
    time: float
    lines: Mapping[str, Line]
    cancelled: frozenset[str]

    @classmethod
    def read(cls, path: Path, handle: Handle) -> _Submission:
        folder = Folder(path)
        lines = {line.run: line for line in folder.lines()}
        user, moment = handle["user"], handle["time"]
        return cls(handle["name"], user, moment, lines, folder.read_cancelled())

    @property
    def is_open(self) -> bool:
        """Whether the scheduler knows more of a run than its line says."""
        return any(_is_open(line) for line in self.lines.values())

    def judge(self, run: str, jobs: Jobs) -> JobState | None:
        """Say where one of its runs is, if these rows explain it."""
        if not self.lines:  # sbatch refused it
            return JobState("gone")
        line = self.lines.get(run)
        if line is None:
            return JobState("gone", "its line on the board is damaged", "lost")
        return judge(line, jobs, is_cancelled=run in self.cancelled)

    def unexplained(self, run: str, why: str) -> JobState:
        """Say what is left to say of a run that nobody's rows explain."""
        line = self.lines[run]
        is_over = line.state in (DONE, FAILED)
        return JobState("gone", code=line.code) if is_over else JobState("gone", why, "lost")


def _judge_all(
    placed: Sequence[Placed], boards: Mapping[str, _Submission], rows: Iterable[Row]
) -> list[JobState | None]:
    by_name: dict[str, list[Row]] = {name: [] for name in boards}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    jobs = {name: Jobs(found) for name, found in by_name.items()}
    return [boards[h["name"]].judge(run, jobs[h["name"]]) for run, h in placed]


def _handles(placed: Sequence[Placed]) -> dict[str, Handle]:
    return {handle["name"]: handle for _, handle in placed}


def _users(submissions: Sequence[_Submission]) -> set[str]:
    return {submission.user for submission in submissions}


def _is_open(line: Line) -> bool:
    """Whether a job may still have the run, or may have been what killed it."""
    return line.state not in ENDED or line.code == -signal.SIGKILL


def judge(line: Line, jobs: Jobs, *, is_cancelled: bool) -> JobState | None:
    """Say where a run is; None when the scheduler's rows do not explain its line.

    Args:
        line: The board's.
        jobs: The scheduler's rows of the submission.
        is_cancelled: Whether a person cancelled this run.
    """
    if line.state in (DONE, FAILED):
        row = jobs.find(line.job)
        if row is None and _is_open(line):
            return None
        if row is not None and _is_open(line) and row.state == "OUT_OF_MEMORY":
            return replace(_gone(row, line.job), code=line.code)
        return JobState("gone", code=line.code)
    if line.state in (RUNNING, KILLED):
        return _judge_begun(line, jobs.find(line.job), is_cancelled=is_cancelled)
    if is_cancelled or line.state == CANCELLED:
        return _cancelled()
    return _judge_waiting(jobs, line)


def _judge_waiting(jobs: Jobs, line: Line) -> JobState | None:
    """Judge a run that any job of the submission may take."""
    is_new, living = line.state == WAITING, jobs.living()
    if living is not None:
        why = _waits(living, living.array)
        return JobState("pending" if is_new else "requeued", why, is_held=living.is_held)
    worst = jobs.worst()
    if worst is None:
        return None
    if worst.state == "COMPLETED":
        saved = f"saved, and job {line.job} did not go back to the queue; {_see(worst, line.job)}"
        return JobState("gone", "its jobs ended before its turn" if is_new else saved)
    return _gone(worst, f"{worst.array}_{worst.elements[0][0]}" if worst.elements else worst.array)


def _judge_begun(line: Line, row: Row | None, *, is_cancelled: bool) -> JobState | None:
    """Judge a run whose job is known."""
    if row is None:
        return None
    if row.is_at_work and line.state == RUNNING:
        return JobState("running")
    if row.is_at_work and row.state == "COMPLETING":
        return JobState("running", f"job {line.job} is being ended")
    if row.is_alive:
        return JobState("requeued", _waits(row, line.job), is_held=row.is_held)
    return _cancelled() if is_cancelled else _gone(row, line.job)


def _waits(row: Row, job: str) -> str:
    """Say why a run that jobs of this row will take does not run yet."""
    if row.is_at_work:
        return f"waits for its turn in job {job}"
    reason = "" if row.why == "None" else f": {row.why}"
    if row.is_held:
        return f"job {job} waits{reason}; the sweep command lets it go, once its node is mended"
    stuck = "; it will not start by itself" if row.why.replace(" ", "_") in _NEVER else ""
    return f"job {job} waits{reason}{stuck}"


def _gone(row: Row, job: str) -> JobState:
    cause = _CAUSES.get(row.state)
    if cause is not None:
        return JobState("gone", f"job {job} {_SAID[cause]}", cause)
    how = f"{row.state.lower()} {row.why}" if ":" in row.why else row.state.lower()
    if row.why in _NOT_LAUNCHED:
        how = f"{row.state.lower()} {row.why}"
        return JobState("gone", f"job {job} {how}; is this folder visible on the nodes?", "lost")
    return JobState("gone", f"job {job} {how}; {_see(row, job)}", "lost")


def _see(row: Row, job: str) -> str:
    return f"see slurm/{row.name}/{job}.out"


def _cancelled() -> JobState:
    return JobState("gone", "cancelled", "cancelled")
