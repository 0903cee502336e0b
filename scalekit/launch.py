"""Which runs of a sweep are missing, and handing them to an executor, each exactly once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scalekit.errors import OK, RUNS_FAILED, SystemTroubleError
from scalekit.executors._process import process_handle
from scalekit.executors._progress import Count, Progress
from scalekit.executors.base import STOPPED, Executor, Handle, Job, stack_jobs
from scalekit.results.code import code_state
from scalekit.results.jobs import SCHEMA, JobLog, read_cancels
from scalekit.results.live import Standing, ask_executors, release_held
from scalekit.results.plan import (
    check_same_sweep,
    drop_checkpoints,
    move_aside,
    one_command,
    planned_ids,
    write_plan,
)
from scalekit.results.states import RunState, read_state, scan_states, verdict
from scalekit.results.store import SweepFolder
from scalekit.results.trunks import is_held
from scalekit.sweep.spec import RunSpec, own_share, share_done

RETRIABLE = ("failed", "diverged", "pruned")
"""Ends that `--retry` may name; runs without an end are started again in any case."""


class NamedSweep(Protocol):
    """A sweep's name and its resolved file."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        ...

    def resolved_yaml(self) -> str:
        """Write the sweep as one file that gives the same runs."""
        ...


class Expanded(Protocol):
    """What `sweep.expand` makes: the sweep and its runs."""

    @property
    def spec(self) -> NamedSweep:
        """The sweep."""
        ...

    @property
    def runs(self) -> Sequence[RunSpec]:
        """The runs, fully resolved."""
        ...


@dataclass(frozen=True)
class Todo:
    """What a submission would do in a folder.

    Attributes:
        start: Runs to start, in the plan's order.
        replace: Those of them whose record is moved aside first, because it is unreadable or its
            end is to be retried; a failed run continues its own record.
        states: Every planned run's state.
        vanished: Runs of the folder's plan that the new one lacks; their records stay.
        queued: Runs that wait or run under a scheduler, by an earlier submission.
        held: Branches that cannot begin yet, and whose trunk is not started now.
    """

    start: tuple[RunSpec, ...]
    replace: frozenset[str]
    states: Mapping[str, RunState]
    vanished: tuple[str, ...] = ()
    queued: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()

    @property
    def n_finished(self) -> int:
        """How many runs are finished and left alone."""
        begin = {spec.id for spec in self.start}
        return sum(s.is_finished and run not in begin for run, s in self.states.items())

    @property
    def n_running(self) -> int:
        """How many runs someone trains at this moment."""
        return sum(state.status == "running" for state in self.states.values())

    @property
    def n_queued(self) -> int:
        """How many runs a scheduler holds that are neither finished nor being trained."""
        there = [state for run, state in self.states.items() if run in self.queued]
        return sum(not s.is_finished and s.status != "running" for s in there)


@dataclass(frozen=True)
class Outcome:
    """What a submission left behind.

    Attributes:
        started: Runs that were handed to the executor.
        states: Every planned run's state afterwards.
        codes: Exit codes by run, of jobs that ended while we watched.
        held: Branches that were not handed over, for want of their trunk.
    """

    started: tuple[str, ...]
    states: Mapping[str, RunState]
    codes: Mapping[str, int] = field(default_factory=dict)
    held: frozenset[str] = frozenset()

    def count(self, *statuses: str) -> int:
        """Count the runs in these states."""
        return sum(state.status in statuses for state in self.states.values())

    @property
    def crashed(self) -> tuple[str, ...]:
        """Runs that left no end although nobody asked them to stop."""
        return tuple(
            run
            for run, code in self.codes.items()
            if code not in (OK, *STOPPED) and not self.states[run].is_finished
        )

    @property
    def exit_code(self) -> int:
        """What a command exits with after this: done, some runs failed, or not finished."""
        if self.crashed:
            return RUNS_FAILED
        # What a held branch lacks is its trunk's trouble, which says more than that it is pending.
        return verdict(state for run, state in self.states.items() if run not in self.held)


def job_argv(folder: SweepFolder, run: str) -> tuple[str, ...]:
    """Return the command line that trains one run: what every job calls."""
    # Not Path.absolute(): ten thousand of them take a tenth of the time that a sweep has.
    root = os.path.join(os.getcwd(), folder.root)  # noqa: PTH109, PTH118
    return (sys.executable, "-m", "scalekit", "train", root, run)


def find_missing(
    runs: Sequence[RunSpec],
    folder: SweepFolder,
    *,
    retry: Sequence[str] = (),
    force: bool = False,
    standing: Standing | None = None,
) -> Todo:
    """Say which runs have to be started; nothing on disk changes.

    Runs without an end are started; those that someone trains now or that a scheduler holds are
    not, nor branches whose trunk has to come further and is not started. `retry` adds runs that
    ended so; `force` starts all; `standing` is what the executors said, if they were asked.

    Raises:
        InputError: The folder's plan cannot be read.
        SystemTroubleError: A scheduler that was given runs of this sweep does not say where they
            are.
    """
    standing = standing or ask_executors(folder)
    if standing.troubles:
        raise SystemTroubleError(
            f"{folder.root}: runs were submitted from here and nobody knows which of them still "
            f"wait, {'; '.join(standing.troubles)}; run the same command again later"
        )
    states = scan_states(folder, [spec.id for spec in runs])
    start: list[RunSpec] = []
    replace = set()
    for spec in runs:
        state = states[spec.id]
        if state.status == "running" or spec.id in standing.queued:
            continue
        if state.is_finished and not force and state.status not in retry:
            continue
        start.append(spec)
        continues = state.status == "failed" and not force
        # A writer killed within its first line left no header that a trainer could go on from.
        continues |= state.status == "stopped" and bool(state.last) and not force
        if state.status != "pending" and not continues:
            replace.add(spec.id)
    planned = {spec.id for spec in runs}
    vanished = tuple(run for run in planned_ids(folder) if run not in planned)
    starting = {spec.id for spec in start}
    held = {s.id for s in start if is_held(s.id, s.plan, folder, states, starting)}
    start = [spec for spec in start if spec.id not in held]
    return Todo(
        tuple(start), frozenset(replace - held), states, vanished, standing.queued, frozenset(held)
    )


def submit(
    expansion: Expanded,
    folder: SweepFolder,
    executor: Executor,
    *,
    kind: str = "local",
    retry: Sequence[str] = (),
    force: bool = False,
    speed: float = 1.0,
    stacks: Sequence[Sequence[str]] = (),
    argv: Callable[[SweepFolder, str], Sequence[str]] = job_argv,
) -> Outcome:
    """Write the sweep's folder and hand the runs that are missing to the executor.

    Running the same command again is the retry: finished runs are left alone, interrupted ones
    continue. A second command at the same time is refused by a lock that this one holds until it
    returns.

    Args:
        expansion: The sweep and its runs.
        folder: Where the sweep lives; made if need be.
        executor: Who executes.
        kind: The executor's name, written down so that `cancel` finds it.
        retry: Ends that are tried again: of `RETRIABLE`.
        force: Start every run anew; old records are moved aside.
        speed: How much faster finished runs were than the plan estimates.
        stacks: Runs that one process each is to train together, for an executor that does that.
        argv: The command line that trains one run; with further ids behind it, those as well.

    Raises:
        InputError: The folder holds another sweep, or the executor can never execute this one.
        SystemTroubleError: Another command works in the folder, or the disk refuses.
        KeyboardInterrupt: A signal asked to stop; the same command continues.
    """
    if not folder.root.exists():
        # For what can never be executed here not even the folder is made.
        everything = {spec.id for spec in expansion.runs}
        executor.check([_job(spec, folder, argv, speed, everything) for spec in expansion.runs])
    with one_command(folder):
        check_same_sweep(folder, expansion.spec.name, [spec.id for spec in expansion.runs])
        standing = ask_executors(folder)
        todo = find_missing(expansion.runs, folder, retry=retry, force=force, standing=standing)
        for trouble in release_held(standing):
            sys.stderr.write(f"a job that could not be launched is still held: {trouble}\n")
        starting = {spec.id for spec in todo.start}
        jobs = [
            stack_jobs([_job(spec, folder, argv, speed, starting) for spec in specs])
            for specs in _grouped(todo.start, stacks)
        ]
        executor.check(jobs)
        lines = [spec.to_json() for spec in expansion.runs]
        write_plan(folder, expansion.spec.resolved_yaml(), lines)
        if not jobs:
            return Outcome((), todo.states, held=todo.held)
        log = JobLog(folder)
        log.write(
            "intent",
            schema=SCHEMA,
            executor=kind,
            command=process_handle(os.getpid()),
            code=code_state(),
            runs=[run for job in jobs for run in job.runs],
        )
        for run in todo.replace:
            move_aside(folder, run)
        # What a trunk saved for a branch that never began is of the old run.
        for run in starting if force else ():
            drop_checkpoints(folder, run)
        codes = _execute(jobs, todo, folder, executor, log)
        states = scan_states(folder, todo.states)
    started = tuple(run for job in jobs for run in job.runs)
    return Outcome(started, states, codes, todo.held)


def _execute(
    jobs: Sequence[Job], todo: Todo, folder: SweepFolder, executor: Executor, log: JobLog
) -> Mapping[str, int]:
    watch = _Watch(jobs, todo, folder, log)
    try:
        if executor.in_foreground:
            with watch.progress:
                executor.start(jobs, watch)
        else:
            executor.start(jobs, watch)
    finally:
        log.write("closed")
    return watch.codes


class _Watch:
    """Writes down what an executor tells, and shows it."""

    def __init__(self, jobs: Sequence[Job], todo: Todo, folder: SweepFolder, log: JobLog) -> None:
        self.codes: dict[str, int] = {}
        self.progress = Progress(self._count)
        self._folder, self._log = folder, log
        self._running: set[str] = set()
        self._ended: set[str] = set()
        self._total = len(todo.states)
        self._before = todo.n_finished
        self._flops = {spec.id: _flops(spec) for spec in todo.start}
        self._plans = {spec.id: spec.plan for spec in todo.start}
        self._cancels_seen = -1
        self._cancelled: set[str] = set()
        self._since = time.time()

    def is_wanted(self, job: Job) -> bool:
        files = len(list(self._folder.jobs.glob("*-cancel-*.jsonl")))
        if files != self._cancels_seen:
            self._cancels_seen = files
            self._cancelled = read_cancels(self._folder, self._since)
        return self._cancelled.isdisjoint(job.runs)

    def started(self, jobs: Sequence[Job], handle: Handle) -> None:
        runs = [run for job in jobs for run in job.runs]
        self._log.write("started", runs=runs, handle=dict(handle))
        self._running |= set(runs)

    def ended(self, job: Job, code: int) -> None:
        for run in job.runs:
            self._running.discard(run)
            self._ended.add(run)
            # The code of several is that of the worst of them.
            is_done = job.beside and read_state(self._folder.record(run)).status == "done"
            self.codes[run] = OK if is_done else code
            self._log.write("ended", runs=[run], code=self.codes[run])

    def tick(self) -> None:
        self.progress.tick()

    def _count(self) -> Count:
        codes = [self.codes[run] for run in self._ended]
        flops = 0.0
        for run in self._ended | self._running:
            is_over = run in self.codes and self.codes[run] not in STOPPED
            if is_over:
                flops += self._flops[run]
                continue
            step = read_state(self._folder.record(run)).step
            flops += self._flops[run] * share_done(self._plans[run], step)
        return Count(
            done=self._before + codes.count(OK),
            running=len(self._running),
            failed=sum(code not in (OK, *STOPPED) for code in codes),
            total=self._total,
            flops_done=flops,
            flops_total=sum(self._flops.values()),
        )


def _job(
    spec: RunSpec,
    folder: SweepFolder,
    argv: Callable[[SweepFolder, str], Sequence[str]],
    speed: float,
    starting: Collection[str],
) -> Job:
    plan = spec.plan
    parent = plan.get("parent", "")
    estimate = plan.get("estimate")
    return Job(
        run=spec.id,
        argv=tuple(argv(folder, spec.id)),
        log=folder.log(spec.id),
        resources=spec.resources,
        flops=_flops(spec),
        seconds=estimate / speed if isinstance(estimate, int | float) else None,
        after=parent if parent in starting else "",
        needs=folder.checkpoints(spec.id) if parent in starting else None,
    )


def _flops(spec: RunSpec) -> float:
    """Return the FLOPs that a run takes itself."""
    return float(spec.plan["flops"][spec.plan["flops_kind"]]) * own_share(spec.plan)


def _grouped(specs: Sequence[RunSpec], stacks: Sequence[Sequence[str]]) -> list[list[RunSpec]]:
    """Put the runs of each stack together, where its first stands in the plan's order."""
    stack_of = {run: number for number, runs in enumerate(stacks) for run in runs}
    groups: dict[str | int, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(stack_of.get(spec.id, spec.id), []).append(spec)
    return list(groups.values())
