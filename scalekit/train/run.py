"""One run from its plan line to the end line of its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from scalekit.results.record import SCHEMA, STATUSES, RecordWriter, RunRecord
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec, adapters_of, shape_of
from scalekit.train.account import Account, Pauses
from scalekit.train.attempt import Attempt, Setting, run_attempt
from scalekit.train.branch import end_with_trunk, is_from_trunk, lost_with_trunk, open_branches
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import Device, choose_device
from scalekit.train.follower import UnwrittenRecord
from scalekit.train.live import open_record
from scalekit.train.opening import (
    count_rows,
    data_facts,
    drop_strays,
    open_corpus,
    read_before,
    read_config,
)
from scalekit.train.spread import Spread, plan_spread
from scalekit.train.stop import StopRequest
from scalekit.train.team import SOLO, Team


def train_run(
    spec: RunSpec,
    folder: SweepFolder,
    *,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    stop: StopRequest | None = None,
    team: Team = SOLO,
    startup_s: float = 0.0,
) -> str:
    """Train one run, or carry on with it, and write its record.

    A run that is done, diverged or pruned already is left alone; one that failed is tried again.
    Of a team every process calls this; the first writes the record.

    Args:
        spec: The resolved run.
        folder: Where the record and the checkpoints go.
        device: `auto`, `cpu` or `cuda`.
        threads: Threads of torch in this process; left as they are when None.
        report: Called with a line for a person now and then.
        stop: When it notes a signal, the run saves a checkpoint and stops.
        team: The processes that train this run together, from `join`.
        startup_s: Seconds that this process took for this run before.

    Returns:
        The status: `done`, `diverged`, `failed`, or `stopped`, which leaves no end line.

    Raises:
        InputError: The config asks for what the model or the data cannot give.
        NotFinishedError: It branches off a run that has not come so far.
        SystemTroubleError: Another process writes this record, or the disk refuses.
    """
    since = time.perf_counter() - startup_s
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        where = choose_device(device, read_config(spec).train.dtype)
        where.take()
        status = _train(spec, Room(folder, where, report, stop or StopRequest(), team, since))
        if status != "failed":  # then the others are where this one failed
            team.leave()
    except Exception as error:
        team.confess(error)
        raise
    return status


@dataclass(frozen=True)
class Room:
    """What the attempts of one process have in common.

    Attributes:
        folder: Where records and checkpoints go.
        device: Where they compute.
        report: Called with a line for a person now and then.
        stop: What asks them to stop.
        team: The processes that train a run together.
        since: When `time.perf_counter` says that the first of them began.
        replicas: Runs that this process trains as one batched model.
        pauses: What they spend on something other than training.
    """

    folder: SweepFolder
    device: Device
    report: Callable[[str], None]
    stop: StopRequest
    team: Team
    since: float
    replicas: int = 1
    pauses: Pauses = field(default_factory=Pauses)

    def open_record(self, spec: RunSpec) -> RecordWriter:
        """Return the writer of a run's record, which only the first of a team writes."""
        if self.team.is_first:
            return open_record(self.folder, spec, self.report)
        return UnwrittenRecord(self.folder.record(spec.id))

    def plan_spread(self, spec: RunSpec, config: RunConfig) -> Spread:
        """Choose how a run is spread; replicas share a device and what memory was asked for.

        Raises:
            InputError: The run asks for what there is not.
        """
        share: dict[str, Any] = {"pack": int(spec.resources.get("pack") or 1) * self.replicas}
        memory = spec.resources.get("memory_gb")
        if memory is not None:
            share["memory_gb"] = float(memory) / self.replicas
        return plan_spread(
            self.team,
            {**spec.resources, **share},
            shape_of(spec.config["model"]),
            count_rows(config),
            self.device,
            **adapters_of(spec.config),
        )


def _train(spec: RunSpec, room: Room) -> str:
    config = read_config(spec)
    spread = room.plan_spread(spec, config)
    with room.open_record(spec) as record:
        attempt = open_attempt(spec, config, spread, room, record)
        return attempt if isinstance(attempt, str) else run_attempt(attempt)


def open_attempt(
    spec: RunSpec, config: RunConfig, spread: Spread, room: Room, record: RecordWriter
) -> Attempt | str:
    """Make ready for an attempt at a run, or return the status that it has already.

    Raises:
        InputError: The config asks for what the model or the data cannot give.
        NotFinishedError: It branches off a run that has not come so far.
    """
    folder, report, team = room.folder, room.report, room.team
    before = team.agree(lambda: read_before(folder, spec.id))
    checkpoints = Checkpoints(folder.checkpoints(spec.id), spec.id)
    status = before.end.get("status") if before and before.end else None
    if status in STATUSES and status != "failed":
        # A run killed between its end line and this still has them.
        if team.is_first:
            checkpoints.remove()
        return str(status)
    if team.is_first and before is None and not is_from_trunk(spec, checkpoints):
        drop_strays(checkpoints, report)
    lost_at = team.agree(lambda: lost_with_trunk(spec, folder, checkpoints, report))
    corpus = open_corpus(config)
    if before is None:
        record.write(
            "run",
            schema=SCHEMA,
            id=spec.id,
            config=spec.config,
            plan=spec.plan,
            facts=data_facts(corpus, config),
        )
    if lost_at is not None:
        return end_with_trunk(spec, record, before, room.device, lost_at)
    setting = Setting(
        device=room.device,
        record=record,
        checkpoints=checkpoints,
        stop=room.stop,
        report=report,
        spread=spread,
        branches=team.agree(lambda: open_branches(spec, folder)),
        account=_account(spec, room, before),
        weights=folder.weights(spec.id) if config.log.keep_weights else None,
    )
    return Attempt(spec, config, corpus, setting, before)


def _account(spec: RunSpec, room: Room, before: RunRecord | None) -> Account:
    shares = int(spec.resources.get("gpus") or 0) <= 1
    return Account(
        room.device,
        before,
        since=room.since,
        packed=int(spec.resources.get("pack") or 1) if shares else 1,
        team=room.team,
        replicas=room.replicas,
        pauses=room.pauses,
    )
