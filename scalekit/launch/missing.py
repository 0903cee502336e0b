"""Which runs of a sweep are missing, and why the others are left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scalekit.errors import SystemTroubleError
from scalekit.results.live import Standing, ask_executors
from scalekit.results.plan import planned_ids
from scalekit.results.states import RunState, scan_states
from scalekit.results.store import SweepFolder
from scalekit.results.trunks import is_held
from scalekit.sweep.spec import RunSpec

RETRIABLE = ("failed", "diverged", "pruned")
"""Ends that `--retry` may name; runs without an end are started again in any case."""


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
