"""Several runs that differ in seed, learning rate or weight decay, trained as one batched model.

Each writes its own record and checkpoints and ends by itself: one that diverges or fails leaves the
others to go on. Saved together, they are at one step; where a kill came in between, each goes on
from its own.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scalekit.errors import ScalekitError, SystemTroubleError
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import check_alike
from scalekit.train.attempt import Attempt, note_memory, run_attempt
from scalekit.train.device import choose_device
from scalekit.train.job import Job, Progress
from scalekit.train.loop import Learner, Walk, open_feed
from scalekit.train.opening import read_config
from scalekit.train.provenance import told_with_format
from scalekit.train.run import Room, open_attempt
from scalekit.train.stack import Stack
from scalekit.train.stop import StopRequest
from scalekit.train.team import SOLO


def train_stack(
    specs: Sequence[RunSpec],
    folder: SweepFolder,
    *,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    stop: StopRequest | None = None,
    startup_s: float = 0.0,
    retries: bool = True,
) -> dict[str, str]:
    """Train several runs as one batched model, or carry on with them, and write their records.

    Runs that are done, diverged or pruned already are left alone. A single one that is left trains
    as it would alone.

    Args:
        specs: The resolved runs.
        folder: Where the records and the checkpoints go.
        device: `auto`, `cpu` or `cuda`.
        threads: Threads of torch in this process; left as they are when None.
        report: Called with a line for a person now and then.
        stop: When it notes a signal, the runs save a checkpoint each and stop.
        startup_s: Seconds that this process took before.
        retries: Whether runs that failed go on from their last checkpoint, or are left alone too.

    Returns:
        By run, the status: `done`, `diverged`, `failed`, or `stopped`, which leaves no end line.

    Raises:
        InputError: The runs differ in more than they may, or ask for what there is not.
        SystemTroubleError: Another process writes one of these records, or the disk refuses.
    """
    since = time.perf_counter() - startup_s
    if threads is not None:
        torch.set_num_threads(threads)
    check_alike(specs)
    where = choose_device(device, read_config(specs[0]).train.dtype)
    where.take()
    found = {spec.id: read_state(folder.record(spec.id)).status for spec in specs}
    failed = {run for run, status in found.items() if status == "failed" and not retries}
    over = {"done", "diverged", "pruned"}
    left = [run for run, status in found.items() if status not in over and run not in failed]
    room = Room(
        folder, where, report, stop or StopRequest(), SOLO, since, replicas=max(1, len(left))
    )
    with ExitStack() as records:
        opened = {spec.id: _open(spec, room, records) for spec in specs if spec.id not in failed}
        attempts = [attempt for attempt in opened.values() if isinstance(attempt, Attempt)]
        statuses = {run: status for run, status in opened.items() if isinstance(status, str)}
        statuses |= dict.fromkeys(failed, "failed")
        statuses |= _Troupe(attempts, left, room.stop).train()
    return {spec.id: statuses[spec.id] for spec in specs}


def _open(spec: RunSpec, room: Room, records: ExitStack) -> Attempt | str:
    own = replace(room, report=lambda line: room.report(f"{spec.id} {line}"))
    config = read_config(spec)
    spread = own.plan_spread(spec, config)
    record = records.enter_context(own.open_record(spec))
    return open_attempt(spec, config, spread, own, record)


@dataclass(frozen=True)
class _Member:
    """A run of a stack on its way."""

    attempt: Attempt
    job: Job
    progress: Progress
    walk: Walk
    learner: Learner


class _Troupe:
    """Attempts that train together, and what becomes of each.

    Args:
        attempts: The attempts.
        names: The runs of this stack, for the record.
        stop: What asks all of them to stop.
    """

    def __init__(
        self, attempts: Sequence[Attempt], names: Sequence[str], stop: StopRequest
    ) -> None:
        self.attempts, self.names, self.stop = attempts, list(names), stop
        self.statuses: dict[str, str] = {}

    def train(self) -> dict[str, str]:
        """Train every attempt to its end, or to a stop; return the statuses by run."""
        if len(self.attempts) == 1:
            # Unstacked: its numbers and its speed are those of a run alone.
            (attempt,) = self.attempts
            return {attempt.spec.id: run_attempt(attempt)}
        with ExitStack() as feeds:
            members = []
            for attempt in self.attempts:
                with self._edge(attempt):
                    members.append(self._begin(attempt, feeds))
            stack: Stack | None = None
            while members := [m for m in members if m.attempt.spec.id not in self.statuses]:
                stack = self._step(members, stack)
        return self.statuses

    def _begin(self, attempt: Attempt, feeds: ExitStack) -> _Member:
        by = told_with_format("torch, stacked", attempt.setting.device)
        job, progress = attempt.begin(stack=self.names, computed_by=by)
        job.model.train()
        walk = Walk(job, progress, feeds.enter_context(open_feed(job, progress)))
        learner = Learner(job.model, job.optimizer, job.device, job.config.train.clip)
        member = _Member(attempt, job, progress, walk, learner)
        self._finish_if_over(member)
        return member

    def _step(self, members: Sequence[_Member], stack: Stack | None) -> Stack | None:
        """Take one step with all members; return the stack of those that took it."""
        taken: list[tuple[_Member, np.ndarray]] = []
        for member in members:
            with self._edge(member.attempt):
                taken.append((member, member.walk.take()))
        if not taken:
            return None
        there = [member for member, _ in taken]
        try:
            stack = _stack_of(there, stack, self._note_memory)
            losses, norms = _learn(stack, there, [rows for _, rows in taken])
        except Exception as error:  # of all at once, so it is everyone's
            for member in there:
                self._fail(member.attempt, error)
            return None
        for member, loss, norm in zip(there, losses, norms, strict=True):
            with self._edge(member.attempt):
                member.walk.note(loss, norm)
        is_asked = self.stop.signal is not None  # asked once, so that all stop at the same step
        for member in there:
            if member.attempt.spec.id in self.statuses:
                continue
            with self._edge(member.attempt):
                member.walk.save_if_due(is_asked=is_asked)
                self._finish_if_over(member)
        return stack

    def _finish_if_over(self, member: _Member) -> None:
        attempt, status = member.attempt, member.walk.status
        if status is None:
            return
        self.statuses[attempt.spec.id] = attempt.finish(status, member.progress)
        if status != "stopped":
            attempt.setting.checkpoints.remove()

    @contextmanager
    def _edge(self, attempt: Attempt) -> Iterator[None]:
        """Write what goes wrong with one run into its record, and let the others go on."""
        try:
            yield
        except SystemTroubleError:
            raise
        except Exception as error:  # the edge of a job
            self._fail(attempt, error)

    def _note_memory(self, rows: int) -> None:
        """Write down that memory ran out and that those left go on with fewer rows at once."""
        for attempt in self.attempts:
            if attempt.spec.id not in self.statuses:  # behind an end nothing may stand
                note_memory(attempt.setting, attempt.config, rows)

    def _fail(self, attempt: Attempt, error: Exception) -> None:
        attempt.fail(error)
        self.statuses[attempt.spec.id] = "failed"
        if isinstance(error, ScalekitError):
            print(f"run {attempt.spec.id}: {error}", file=sys.stderr)  # noqa: T201
        else:
            traceback.print_exception(error, file=sys.stderr)


def _stack_of(
    members: Sequence[_Member], before: Stack | None, note: Callable[[int], None]
) -> Stack:
    """Return the stack of these runs: the one before where it is, made anew where some are gone."""
    learners = [member.learner for member in members]
    if before is None:
        spread = members[0].job.spread
        return Stack(learners, spread.micro_rows, note, records=spread.recorded)
    return before if len(learners) == len(before.learners) else before.only(learners)


def _learn(
    stack: Stack, members: Sequence[_Member], rows: Sequence[np.ndarray]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Let the runs learn, each from its rows (B, T + 1); return losses and norms."""
    tokens, targets = members[0].job.device.batch(np.concatenate(rows))
    wide = (len(members), -1, tokens.shape[1])
    lrs = [member.walk.lr for member in members]
    losses, norms = stack.learn(tokens.view(wide), targets.view(wide), lrs)
    return losses.unbind(), norms.unbind()
