"""One run from its plan line to the end line of its record."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from scalekit.results.record import (
    SCHEMA,
    STATUSES,
)
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec, shape_of
from scalekit.train.account import Account
from scalekit.train.attempt import Setting, run_attempt
from scalekit.train.branch import end_with_trunk, is_from_trunk, lost_with_trunk, open_branches
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import choose_device
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
from scalekit.train.spread import (
    plan_spread,
)
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
        told = stop or StopRequest()
        status = _train(
            spec, folder, device=device, report=report, stop=told, team=team, since=since
        )
        if status != "failed":  # then the others are where this one failed
            team.leave()
    except Exception as error:
        team.confess(error)
        raise
    return status


def _train(
    spec: RunSpec,
    folder: SweepFolder,
    *,
    device: str,
    report: Callable[[str], None],
    stop: StopRequest,
    team: Team,
    since: float,
) -> str:
    config = read_config(spec)
    where = choose_device(device, config.train.dtype)
    batch_rows = count_rows(config)
    spread = plan_spread(team, spec.resources, shape_of(spec.config["model"]), batch_rows, where)
    path = folder.record(spec.id)
    with open_record(folder, spec, report) if team.is_first else UnwrittenRecord(path) as record:
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
            return end_with_trunk(spec, record, before, where, lost_at)
        branches = team.agree(lambda: open_branches(spec, folder))
        account = Account(where, before, since=since, packed=_packed(spec), n_devices=team.size)
        weights = folder.weights(spec.id) if config.log.keep_weights else None
        setting = Setting(
            where, record, checkpoints, stop, report, spread, branches, account, weights
        )
        return run_attempt(spec, config, corpus, setting, before)


def _packed(spec: RunSpec) -> int:
    """Return how many runs share this one's GPU."""
    shares = int(spec.resources.get("gpus") or 0) <= 1
    return int(spec.resources.get("pack") or 1) if shares else 1
