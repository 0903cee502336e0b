"""One attempt at a run: from its last checkpoint to the end line of its record, or to a stop."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.datasets.base import Corpus
from scalekit.errors import InputError, ScalekitError, SystemTroubleError
from scalekit.models.base import build_seeded
from scalekit.results.record import (
    RecordWriter,
    RunRecord,
)
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.account import Account, spends
from scalekit.train.average import build_average
from scalekit.train.checkpoint import Checkpoints, step_of
from scalekit.train.device import Device
from scalekit.train.gradients import gradients_of, uses_kernels
from scalekit.train.job import Job, Progress, tell_again
from scalekit.train.loop import run_loop
from scalekit.train.optimizer import build_optimizer
from scalekit.train.provenance import describe_attempt, describe_spread
from scalekit.train.regional import compile_layers
from scalekit.train.restore import Parts, restore_state
from scalekit.train.score import open_tasks
from scalekit.train.spread import Spread, recompute_activations, shard_model
from scalekit.train.start import begin, write_start
from scalekit.train.stop import StopRequest
from scalekit.train.weights import save_weights, whole_state


@dataclass(frozen=True)
class Setting:
    """Where and how an attempt runs.

    Attributes:
        device: Where it computes.
        record: Where it reports.
        checkpoints: Where it saves.
        stop: What asks it to stop.
        report: Called with a line for a person now and then.
        spread: Over which processes, and how.
        branches: By step, where a trunk saves its state for its branches.
        account: What the run has cost.
        weights: Where the last weights go, if they are kept.
    """

    device: Device
    record: RecordWriter
    checkpoints: Checkpoints
    stop: StopRequest
    report: Callable[[str], None]
    spread: Spread
    branches: Mapping[int, Sequence[Checkpoints]]
    account: Account
    weights: Path | None


class Attempt:
    """One attempt at a run, whose loop is somebody else's.

    Args:
        spec: The run.
        config: Its config.
        corpus: Its data.
        setting: Where and how.
        before: What earlier attempts wrote.
    """

    def __init__(
        self,
        spec: RunSpec,
        config: RunConfig,
        corpus: Corpus,
        setting: Setting,
        before: RunRecord | None,
    ) -> None:
        self.spec, self.config, self.corpus = spec, config, corpus
        self.setting, self.before = setting, before
        self.number = 1 + (before.n_attempts if before else 0)
        self.job: Job | None = None

    def begin(self, **facts: Any) -> tuple[Job, Progress]:
        """Put the run where its newest checkpoint left off, and write its attempt line.

        Args:
            facts: What that line says beside or instead.
        """
        setting, config = self.setting, self.config
        job, progress = _prepare(self.spec, config, self.corpus, setting, self.before)
        self.job, self.resumed_from = job, progress.step
        tell_again(job, progress, self.before)
        setting.account.begin()
        setting.record.write(
            "attempt",
            **describe_attempt(self.number, progress.step, setting.device, setting.spread.team),
            **{**describe_spread(setting.spread, job.model, setting.device), **facts},
            startup_s=setting.account.startup_seconds(),
            wall_s=job.wall_before,
            device_s=job.device_before,
            energy_by=setting.account.energy_by(),
        )
        if config.start.run is not None and progress.step == 0:
            write_start(job, progress)
        return job, progress

    def finish(self, status: str, progress: Progress) -> str:
        """Write what the loop's end means, unless it was stopped; return the status."""
        assert self.job is not None
        self.setting.device.synchronise()
        if status == "stopped":
            self.job.write_spent(progress.step)  # with the checkpoint that was saved
            return status
        steps = progress.step - self.resumed_from
        if status == "done" and self.setting.weights is not None:
            _keep(self.job, self.setting.weights, self.spec.id)
        _write_end(self.job, status, self.number, steps, self.spec.plan["flops_kind"])
        return status

    def fail(self, error: Exception) -> None:
        """Write down that the run failed, and of what."""
        job, before, account = self.job, self.before, self.setting.account
        wall = job.wall_seconds() if job else _wall_before(before)
        devices = job.device_seconds(wall) if job else _devices_before(before, account)
        self.setting.record.write(
            "end",
            status="failed",
            **_spent(wall, devices, account, has_failed=True),
            attempts=self.number,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )


def run_attempt(attempt: Attempt) -> str:
    """Run an attempt to its end line, or to a stop; whatever goes wrong stands in the record."""
    setting = attempt.setting
    try:
        job, progress = attempt.begin()
        status = attempt.finish(run_loop(job, progress), progress)
    except SystemTroubleError:
        raise
    except Exception as error:  # the edge of a job: the traceback belongs into the record
        attempt.fail(error)
        if isinstance(error, ScalekitError):
            raise
        if not setting.spread.team.is_first:
            raise  # the first writes it down
        traceback.print_exception(error, file=sys.stderr)
        return "failed"
    if status != "stopped" and setting.spread.team.is_first:
        setting.checkpoints.remove()
    return status


def _prepare(
    spec: RunSpec, config: RunConfig, corpus: Corpus, setting: Setting, before: RunRecord | None
) -> tuple[Job, Progress]:
    """Build model and optimizer, and put them where the newest checkpoint left off."""
    member = registry.find("models", config.model.arch)
    device, spread = setting.device, setting.spread
    fresh = build_seeded(member, spec.config["model"], config.train.seed)
    model = begin(fresh, config, setting.checkpoints, spread.team)
    # Before the wrappers that compute again and that gather shards, so that these lie around it;
    # and not where the CPU's kernels compute instead.
    by_kernels = device.torch.type == "cpu" and uses_kernels(model, device)
    if spread.compiled != "none" and (spread.shards or not by_kernels):
        compile_layers(model)
    recompute_activations(model, spread.recompute)
    if spread.shards:
        shard_model(model, spread.team, device, config.train.optimizer)
    else:
        model.to(device.torch)
    optimizer = build_optimizer(model, config.train)
    average = build_average(model, config.train)
    parts = {"model": model, "optimizer": optimizer, **({"average": average} if average else {})}
    progress = _restore(setting, parts)
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
        account=setting.account,
        wall_before=_wall_before(before),
        device_before=_devices_before(before, setting.account),
        spread=spread,
        gradients=gradients_of(model, device, spread, partial(note_memory, setting, config)),
        branches=setting.branches,
        parts=parts,
        average=average,
        tasks=open_tasks(config),
    )
    return job, progress


def _restore(setting: Setting, parts: Parts) -> Progress:
    """Put a run's parts where the newest checkpoint left off, and say how far that was."""
    try:
        state = restore_state(
            setting.checkpoints, parts, spread=setting.spread, report=setting.report
        )
        return Progress() if state is None else Progress(**state)
    except (KeyError, TypeError, RuntimeError) as error:
        newest, reason = setting.checkpoints.newest_first()[0], " ".join(str(error).split())
        raise InputError(
            f"{newest.parent}: the checkpoint of step {step_of(newest)} does not fit this run, "
            f"{reason}; move the folder away to start it from its beginning"
        ) from error


def note_memory(setting: Setting, config: RunConfig, rows: int) -> None:
    """Write down that memory ran out and that the run goes on with fewer rows at once."""
    tokens = rows * config.model.context
    setting.record.write("note", what="out of memory", micro_batch_tokens=tokens)
    setting.report(f"out of memory; going on with {tokens:,} tokens at once")


@spends("checkpoint_s")
def _keep(job: Job, path: Path, run_id: str) -> None:
    """Write the weights that the run ends with, those evaluated, before its end is told."""
    with job.average.applied() if job.average else nullcontext():
        state = whole_state(job.model)
        if job.spread.team.is_first:
            save_weights(path, run_id, job.steps, state)


def _write_end(job: Job, status: str, attempts: int, steps: int, flops_kind: str) -> None:
    """Write the end line; speed and MFU are those of the last attempt while it trained steadily.

    Evaluation, checkpoints, start-up and the first step are not in them.
    """
    steps, seconds = job.account.steady(steps)
    speed = steps * job.config.train.batch_tokens / seconds if steps and seconds > 0 else None
    one = job.device.peak_flops
    peak = one * job.account.device_share if one else None
    wall = job.wall_seconds()
    job.record.write(
        "end",
        status=status,
        **_spent(wall, job.device_seconds(wall), job.account),
        mfu=speed * job.flops_per_token / peak if speed and peak else None,
        flops_kind=flops_kind,
        attempts=attempts,
        tokens_per_second=speed,
    )
    job.record.sync()


def _spent(
    wall: float, devices: float, account: Account, *, has_failed: bool = False
) -> dict[str, Any]:
    """Return what a run took; its devices are held from the start-up on."""
    totals = account.totals(has_failed=has_failed)
    held = devices + account.startup_device_seconds()
    # wall_s is the time of the whole stack; the other numbers are this run's share.
    stack = {"stack": account.replicas} if account.replicas > 1 else {}
    return {"wall_s": wall, "device_s": held, **totals, **stack}


def _wall_before(before: RunRecord | None) -> float:
    """Return the seconds that earlier attempts are known to have taken."""
    known = [line.get("wall_s") for line in _last_lines(before)]
    return max((float(s) for s in known if isinstance(s, int | float)), default=0.0)


def _devices_before(before: RunRecord | None, account: Account) -> float:
    """Return the same of all devices.

    What was not told since the last line that knows it is at the mean rate so far, and at today's
    where none does. An end has the start-up in it.
    """
    told = [line for line in _last_lines(before) if line.get("t") != "end"]
    knows = [line for line in told if line.get("wall_s") and line.get("device_s") is not None]
    last = max(knows, key=lambda line: line["wall_s"], default=None)
    share = account.device_share if last is None else last["device_s"] / last["wall_s"]
    return _wall_before(before) * share


def _last_lines(before: RunRecord | None) -> list[Mapping[str, Any]]:
    """List the lines that tell last what a run had taken.

    The last attempt's too: it took lines of steps off the curve.
    """
    return [] if before is None else [*before.steps[-1:], before.spent, *before.attempts[-1:]]
