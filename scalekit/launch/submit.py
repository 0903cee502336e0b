"""Handing the runs that are missing to an executor, each exactly once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scalekit.errors import OK, RUNS_FAILED
from scalekit.executors._process import process_handle
from scalekit.executors.base import STOPPED, Executor, Job, count_sharing, stack_jobs
from scalekit.launch.missing import Todo, find_missing
from scalekit.launch.watch import Notes, own_flops
from scalekit.results.code import code_state
from scalekit.results.jobs import SCHEMA, JobLog
from scalekit.results.live import ask_executors, release_held
from scalekit.results.plan import (
    check_same_sweep,
    drop_checkpoints,
    move_aside,
    one_command,
    write_plan,
)
from scalekit.results.states import RunState, scan_states, verdict
from scalekit.results.store import SweepFolder
from scalekit.results.trunks import is_held
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Group


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
class Outcome:
    """What a submission left behind.

    Attributes:
        started: Runs that were handed to the executor.
        states: Every planned run's state afterwards.
        codes: Exit codes by run, of jobs that ended while we watched.
        held: Branches that could not begin, for want of their trunk.
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
        # A held branch waits for its trunk, whose state says more than that the branch is pending.
        return verdict(state for run, state in self.states.items() if run not in self.held)


def job_argv(folder: SweepFolder, run: str) -> tuple[str, ...]:
    """Return the command line that trains one run: what every job calls."""
    # Not Path.absolute(): ten thousand of them take a tenth of the time that a sweep has.
    root = os.path.join(os.getcwd(), folder.root)  # noqa: PTH109, PTH118
    return (sys.executable, "-m", "scalekit", "train", root, run)


def submit(
    expansion: Expanded,
    folder: SweepFolder,
    executor: Executor,
    *,
    kind: str = "local",
    retry: Sequence[str] = (),
    force: bool = False,
    seconds: Mapping[str, float] | None = None,
    stacks: Sequence[Group] = (),
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
        seconds: By run what it takes, where finished runs say more of it than its plan.
        stacks: Runs that one process each is to train together.
        argv: The command line that trains one run; with further ids behind it, those as well.

    Raises:
        InputError: The folder holds another sweep, or the executor can never execute this one.
        SystemTroubleError: Another command works in the folder, or the disk refuses.
        KeyboardInterrupt: A signal asked to stop; the same command continues.
    """
    seconds = seconds or {}
    if not folder.root.exists():
        # Before the folder is made: a sweep that can never be executed here leaves none.
        everything = {spec.id for spec in expansion.runs}
        executor.check([_job(spec, folder, argv, seconds, everything) for spec in expansion.runs])
    with one_command(folder):
        check_same_sweep(folder, expansion.spec.name, [spec.id for spec in expansion.runs])
        standing = ask_executors(folder)
        todo = find_missing(expansion.runs, folder, retry=retry, force=force, standing=standing)
        for trouble in release_held(standing):
            sys.stderr.write(f"a job that could not be launched is still held: {trouble}\n")
        starting = {spec.id for spec in todo.start}
        jobs = [
            stack_jobs(
                [_job(spec, folder, argv, seconds, starting) for spec in specs],
                group.seconds if group else sum,
            )
            for group, specs in _grouped(todo.start, stacks)
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
            stacks=[job.runs for job in jobs if job.beside],
        )
        for run in todo.replace:
            move_aside(folder, run)
        # What a trunk saved for a branch that never began is of the old run.
        for run in starting if force else ():
            drop_checkpoints(folder, run)
        codes = _execute(jobs, todo, folder, executor, log)
        states = scan_states(folder, todo.states)
    started = tuple(run for job in jobs for run in job.runs)
    # A trunk may also have failed just now.
    held = {run.id for run in todo.start if is_held(run.id, run.plan, folder, states, ())}
    return Outcome(started, states, codes, todo.held | (held - codes.keys()))


def _execute(
    jobs: Sequence[Job], todo: Todo, folder: SweepFolder, executor: Executor, log: JobLog
) -> Mapping[str, int]:
    watch = Notes(todo, folder, log)
    try:
        if executor.in_foreground:
            with watch.progress:
                executor.start(jobs, watch)
        else:
            executor.start(jobs, watch)
    finally:
        log.write("closed")
    return watch.codes


def _job(
    spec: RunSpec,
    folder: SweepFolder,
    argv: Callable[[SweepFolder, str], Sequence[str]],
    seconds: Mapping[str, float],
    starting: Collection[str],
) -> Job:
    plan = spec.plan
    parent = plan.get("parent", "")
    estimate = seconds.get(spec.id, plan.get("estimate"))
    # The estimate is for a run that has its GPU to itself.
    slower = count_sharing(spec.resources)
    return Job(
        run=spec.id,
        argv=tuple(argv(folder, spec.id)),
        log=folder.log(spec.id),
        resources=spec.resources,
        flops=own_flops(spec),
        seconds=estimate * slower if isinstance(estimate, int | float) else None,
        after=parent if parent in starting else "",
        needs=folder.checkpoints(spec.id) if parent in starting else None,
    )


def _grouped(
    specs: Sequence[RunSpec], stacks: Sequence[Group]
) -> list[tuple[Group | None, list[RunSpec]]]:
    """Put the runs of each stack together, where its first stands in the plan's order."""
    stack_of = {run: group for group in stacks for run in group.runs}
    groups: dict[str, tuple[Group | None, list[RunSpec]]] = {}
    for spec in specs:
        group = stack_of.get(spec.id)
        name = group.runs[0] if group else spec.id
        groups.setdefault(name, (group, []))[1].append(spec)
    return list(groups.values())
