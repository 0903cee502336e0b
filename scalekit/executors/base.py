"""What an executor must offer: start jobs, say where they are, stop them.

A member of `executors/` binds `EXECUTOR`, a function from `Settings` to an `Executor`. A job trains
a run by a command line, so that an executor needs to know nothing of runs; those that share
resources between runs (packing, arrays) group jobs themselves and report one handle for the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

STOPPED_BY_SIGTERM = 143
STOPPED = (130, STOPPED_BY_SIGTERM)
"""Exit codes of a job that saved its state because a signal asked for it."""

Handle = Mapping[str, Any]
"""What an executor needs to find a started job again, from another process: a JSON value."""

Placed = tuple[str, Handle]
"""A run's id, and the handle with which it was started."""

CAUSES = ("preempted", "timed_out", "out_of_memory", "node_failed", "cancelled", "lost")
"""Why a job may be gone although its run has not ended, as far as a scheduler tells."""


@dataclass(frozen=True)
class Job:
    """One run to execute, or several that one process trains together.

    Attributes:
        run: The run's id; of several, the first one's.
        argv: The command line; an executor appends `--threads N` where it decides on threads.
        log: Where the job's output goes, for people.
        resources: What the run needs: gpus, cpus, nodes, processes, memory_gb, pack, time_s.
        flops: Training FLOPs, for the order and for what remains.
        seconds: The plan's estimate, or None.
        after: The run of another job of the same submission that this one waits for, or nothing:
            until it has ended, or has left a checkpoint in `needs`.
        needs: Where that checkpoint would lie.
        beside: The other runs of a stack: all are started, stopped and cancelled as one.
    """

    run: str
    argv: tuple[str, ...]
    log: Path
    resources: Mapping[str, Any]
    flops: float
    seconds: float | None = None
    after: str = ""
    needs: Path | None = None
    beside: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that the job trains."""
        return (self.run, *self.beside)


def stack_jobs(jobs: Sequence[Job], seconds_of: Callable[[Sequence[float]], float] = sum) -> Job:
    """Make the job of a stack out of those of its runs: their ids behind the first one's words.

    `seconds_of` tells what all take together from what each takes alone.
    """
    first, *others = jobs
    if not others:
        return first
    known = [job.seconds for job in jobs if job.seconds is not None]
    beside = tuple(job.run for job in others)
    return replace(
        first,
        argv=(*first.argv, *beside),
        flops=sum(job.flops for job in jobs),
        seconds=seconds_of(known) if len(known) == len(jobs) else None,
        beside=beside,
    )


def count_processes(resources: Mapping[str, Any]) -> int:
    """Return in how many processes a run trains: as asked, else one a GPU and one a node at least.

    >>> [count_processes(r) for r in ({}, {"gpus": 4}, {"nodes": 2, "processes": 6}, {"nodes": 2})]
    [1, 4, 6, 2]
    """
    asked = resources.get("processes")
    needs = (int(resources.get(key) or 0) for key in ("gpus", "nodes"))
    return int(asked) if asked else max(1, *needs)


def count_sharing(resources: Mapping[str, Any]) -> int:
    """Return how many runs share a run's GPU; one where it has none, or several for itself.

    >>> [count_sharing(r) for r in ({"pack": 4}, {"gpus": 1, "pack": 4}, {"gpus": 2, "pack": 4})]
    [1, 4, 1]
    """
    return int(resources.get("pack") or 1) if resources.get("gpus") == 1 else 1


@dataclass(frozen=True)
class Settings:
    """What the sweep file and the command line say of the executor.

    Attributes:
        max_parallel: Jobs at a time; the executor's choice when None.
        threads: CPU threads a run; the executor's choice when None.
        folder: Where the executor may keep files of its own (one subfolder, its name).
        safety: Times the estimate is what an executor that must give a time limit allows a run.
        profile: The site's names, prices and powers; empty where there is none.
    """

    max_parallel: int | None = None
    threads: int | None = None
    folder: Path | None = None
    safety: float = 1.0
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobState:
    """Where a started job is.

    Attributes:
        word: `pending`, `running`, `requeued` (it ran and waits to go on), `gone` or `unknown`.
        why: A sentence for people; may be empty.
        cause: One of `CAUSES` for a job that is gone without having ended its run; empty where
            nobody knows.
        code: The exit code of a job that is gone, where known; negative is a signal.
        is_held: Whether the scheduler keeps the job back because it could not launch it, until
            `release` lets it go.
    """

    word: str
    why: str = ""
    cause: str = ""
    code: int | None = None
    is_held: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether the job still holds or awaits resources, as far as one can tell."""
        return self.word in ("pending", "running", "requeued")


class Watch(Protocol):
    """Who an executor tells what happens."""

    def is_wanted(self, job: Job) -> bool:
        """Say whether the job is still to be started: a person may have cancelled it meanwhile."""
        ...

    def started(self, jobs: Sequence[Job], handle: Handle) -> None:
        """Note that these jobs are handed over; from now on `handle` finds them.

        Told before a scheduler is: one that answers a dead command is found by the handle.
        """
        ...

    def ended(self, job: Job, code: int) -> None:
        """Note a job's exit code; negative is the signal that killed it."""
        ...

    def tick(self) -> None:
        """Called several times a second while jobs run in the foreground."""
        ...


class Executor(Protocol):
    """A way to execute jobs."""

    in_foreground: bool
    """Whether `start` returns only when the jobs have ended."""

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse what can never be executed here, before anything is written.

        Raises:
            InputError: A job asks for what there is not.
            SystemTroubleError: There is no such scheduler here.
        """
        ...

    def start(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Start the jobs, which `check` has let pass.

        Raises:
            SystemTroubleError: The scheduler or the machine refuses; what was started before is
                known to `watch`.
            KeyboardInterrupt: A signal asked to stop; jobs in the foreground were asked to save
                their state and have ended.
        """
        ...

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        """Say where these runs' jobs are, in their order, with few calls however many."""
        ...

    def release(self, placed: Sequence[Placed]) -> list[str]:
        """Let go what `is_held` of these runs' jobs; say in a sentence what could not be."""
        ...

    def cancel(self, placed: Sequence[Placed]) -> list[str]:
        """Ask the jobs to save their state and stop; say in a sentence which could not be asked."""
        ...
