"""One run from its plan line to the end line of its record."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from scalekit import registry
from scalekit.datasets.base import Corpus, check_supply
from scalekit.errors import InputError, ScalekitError, SystemTroubleError
from scalekit.models.base import build_seeded
from scalekit.results.record import (
    SCHEMA,
    STATUSES,
    RecordWriter,
    RunRecord,
    holds_torn_headers_only,
    read_record,
)
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import Device, choose_device
from scalekit.train.loop import Job, Progress, run_loop
from scalekit.train.optimizer import build_optimizer
from scalekit.train.provenance import describe_attempt
from scalekit.train.stop import StopRequest


@dataclass(frozen=True)
class Setting:
    """Where and how an attempt runs.

    Attributes:
        device: Where it computes.
        record: Where it reports.
        checkpoints: Where it saves.
        stop: What asks it to stop.
        report: Called with a line for a person now and then.
    """

    device: Device
    record: RecordWriter
    checkpoints: Checkpoints
    stop: StopRequest
    report: Callable[[str], None]


def train_run(
    spec: RunSpec,
    folder: SweepFolder,
    *,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    stop: StopRequest | None = None,
) -> str:
    """Train one run, or carry on with it, and write its record.

    A run that is done, diverged or pruned already is left alone; one that failed is tried again.

    Args:
        spec: The resolved run.
        folder: Where the record and the checkpoints go.
        device: `auto`, `cpu` or `cuda`.
        threads: Threads of torch in this process; left as they are when None.
        report: Called with a line for a person now and then.
        stop: When it notes a signal, the run saves a checkpoint and stops.

    Returns:
        The status: `done`, `diverged`, `failed`, or `stopped`, which leaves no end line.

    Raises:
        InputError: The config asks for what the model or the data cannot give.
        SystemTroubleError: Another process writes this record, or the disk refuses.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = _read_config(spec)
    where = choose_device(device, config.train.dtype)
    _check_rows(config)
    with RecordWriter(folder.record(spec.id)) as record:
        before = _read_before(folder, spec.id)
        checkpoints = Checkpoints(folder.checkpoints(spec.id), spec.id)
        status = before.end.get("status") if before and before.end else None
        if status in STATUSES and status != "failed":
            # A run killed between its end line and this still has them.
            checkpoints.remove()
            return str(status)
        corpus = _open_corpus(config)
        if before is None:
            _drop_strays(checkpoints, report)
            record.write(
                "run",
                schema=SCHEMA,
                id=spec.id,
                config=spec.config,
                plan=spec.plan,
                facts=_facts(corpus, config),
            )
        setting = Setting(where, record, checkpoints, stop or StopRequest(), report)
        return _attempt(spec, config, corpus, setting, before)


def _read_config(spec: RunSpec) -> RunConfig:
    try:
        return RunConfig.model_validate(spec.config)
    except ValidationError as error:
        first = error.errors()[0]
        place, value = ".".join(map(str, first["loc"])), first["input"]
        raise InputError(
            f"{place}: {value!r} in the plan of run {spec.id}, {first['msg'].lower()}; run the "
            "sweep command again, it rewrites the plan"
        ) from error


def _attempt(
    spec: RunSpec, config: RunConfig, corpus: Corpus, setting: Setting, before: RunRecord | None
) -> str:
    """Run one attempt to its end line, or to a stop; whatever goes wrong stands in the record."""
    n = 1 + (len(before.attempts) if before else 0)
    job = None
    try:
        job, progress = _prepare(spec, config, corpus, setting, _wall_seconds(before))
        setting.record.write(
            "attempt",
            **describe_attempt(n, progress.step, setting.device),
            computed_by=job.model.computed_by(),
        )
        resumed_from = progress.step
        status = run_loop(job, progress)
        setting.device.synchronise()
        if status == "stopped":
            return status
        tokens = (progress.step - resumed_from) * config.train.batch_tokens
        _write_end(job, status, n, tokens)
    except SystemTroubleError:
        raise
    except Exception as error:  # the edge of a job: the traceback belongs into the record
        wall = job.wall_seconds() if job else _wall_seconds(before)
        setting.record.write(
            "end",
            status="failed",
            wall_s=wall,
            attempts=n,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )
        if isinstance(error, ScalekitError):
            raise
        traceback.print_exception(error, file=sys.stderr)
        return "failed"
    setting.checkpoints.remove()
    return status


def _prepare(
    spec: RunSpec, config: RunConfig, corpus: Corpus, setting: Setting, wall_before: float
) -> tuple[Job, Progress]:
    """Build model and optimizer, and put them where the newest checkpoint left off."""
    member = registry.find("models", config.model.arch)
    model = build_seeded(member, spec.config["model"], config.train.seed).to(setting.device.torch)
    optimizer = build_optimizer(model, config.train)
    progress = Progress()
    state = setting.checkpoints.load(setting.device.torch, setting.report)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"].cpu())
        progress = Progress(**state["progress"])
    job = Job(
        config=config,
        flops_per_token=float(spec.plan["flops_per_token"][spec.plan["flops_kind"]]),
        model=model,
        optimizer=optimizer,
        corpus=corpus,
        device=setting.device,
        record=setting.record,
        checkpoints=setting.checkpoints,
        stop=setting.stop,
        report=setting.report,
        wall_before=wall_before,
    )
    return job, progress


def _write_end(job: Job, status: str, attempts: int, tokens: int) -> None:
    """Write the end line; speed and MFU are those of the last attempt, evaluation included."""
    wall = job.wall_seconds()
    speed = tokens / (wall - job.wall_before) if tokens else None
    peak = job.device.peak_flops
    job.record.write(
        "end",
        status=status,
        wall_s=wall,
        device_s=wall,
        energy_j=None,
        mfu=speed * job.flops_per_token / peak if speed and peak else None,
        attempts=attempts,
        tokens_per_second=speed,
    )
    job.record.sync()


def _facts(corpus: Corpus, config: RunConfig) -> dict[str, Any]:
    """Return what is known about the data, with the different tokens that this run sees."""
    assert config.train.tokens is not None
    tokens, n_rows = int(config.train.tokens), corpus.train.n_rows
    different = tokens if n_rows is None else min(tokens, n_rows * config.model.context)
    return {**corpus.facts, "unique_tokens": different}


def _check_rows(config: RunConfig) -> None:
    if config.train.batch_tokens % config.model.context:
        raise InputError(
            f"train.batch_tokens: {config.train.batch_tokens} is not a whole number of rows of "
            f"model.context {config.model.context}; choose a multiple"
        )


def _open_corpus(config: RunConfig) -> Corpus:
    """Open the data and refuse what it cannot give.

    Raises:
        InputError: Too few tokens, a vocabulary too small, or another text than was planned.
    """
    member = registry.find("datasets", config.data.source)
    data = config.data.model_dump()
    corpus = member.open(data, config.model.context, config.train.seed)
    assert config.train.tokens is not None
    assert config.model.vocab is not None
    check_supply(config.train.tokens, corpus.facts["train_tokens"], data)
    needed = corpus.facts["vocab"]
    if needed is not None and config.model.vocab < needed:
        raise InputError(
            f"model.vocab: {config.model.vocab}, but {config.data.source!r} has {needed} different "
            "tokens; raise it to that"
        )
    planned, found = config.data.fingerprint, corpus.facts["fingerprint"]
    if planned is not None and planned != found:
        raise InputError(
            f"data.fingerprint: planned {planned!r}, found {found!r}, so {config.data.source!r} "
            "holds other text here than where the sweep was planned; plan it again here"
        )
    return corpus


def _read_before(folder: SweepFolder, run_id: str) -> RunRecord | None:
    """Read what earlier attempts wrote: None where none of them got past its header."""
    path = folder.record(run_id)
    try:
        before = read_record(path)
    except InputError:
        if holds_torn_headers_only(path):
            return None
        raise
    owner = before.header.get("id")
    if owner != run_id:
        raise InputError(f"{path}: belongs to run {owner!r}; move the file away and run again")
    return before


def _drop_strays(checkpoints: Checkpoints, report: Callable[[str], None]) -> None:
    """Remove checkpoints whose record is gone: a run that used them would lack its beginning."""
    if checkpoints.newest_first():
        report(
            f"{checkpoints.folder}: checkpoints without the record they belong to, removed; this "
            "run starts from its beginning"
        )
        checkpoints.remove()


def _wall_seconds(before: RunRecord | None) -> float:
    """Return the seconds that earlier attempts are known to have taken."""
    if before is None:
        return 0.0
    lines = [*before.steps[-1:], *([before.end] if before.end else [])]
    known = (line.get("wall_s") for line in lines)
    return max((float(s) for s in known if isinstance(s, int | float)), default=0.0)
