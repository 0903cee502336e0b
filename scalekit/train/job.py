"""A run with everything that training it needs in hand, how far it is, and measuring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from scalekit.datasets.base import Corpus
from scalekit.models.base import LanguageModel
from scalekit.results.record import RecordWriter, RunRecord
from scalekit.sweep.spec import RunConfig
from scalekit.train.account import Account
from scalekit.train.average import Average
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import Device
from scalekit.train.evaluate import HeldOut, evaluate_corpus, report_sources
from scalekit.train.gradients import Gradients
from scalekit.train.optimizers.base import Optimizer
from scalekit.train.restore import Parts
from scalekit.train.score import Tasks
from scalekit.train.spread import Spread
from scalekit.train.stop import StopRequest


@dataclass
class Progress:
    """How far a run is, and what the next step line and the divergence rule need.

    `told` has the lines of start, steps and evaluations so far: a record that lost some gets them
    back.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    first_loss: float | None = None
    bad_lines: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One run with everything it needs in hand.

    `parts` has under their names in a checkpoint what changes as it trains, `branches` by step who
    else wants its state.
    """

    config: RunConfig
    flops_per_token: float
    model: LanguageModel
    optimizer: Optimizer
    corpus: Corpus
    device: Device
    record: RecordWriter
    checkpoints: Checkpoints
    stop: StopRequest
    report: Callable[[str], None]
    account: Account
    wall_before: float
    spread: Spread
    gradients: Gradients
    parts: Parts
    device_before: float = 0.0
    tasks: Tasks = field(default_factory=Tasks)
    started: float = field(default_factory=time.perf_counter)
    branches: Mapping[int, Sequence[Checkpoints]] = field(default_factory=dict)
    average: Average | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        assert self.config.train.steps is not None
        return self.config.train.steps

    def wall_seconds(self) -> float:
        """Return the seconds that this and all earlier attempts took."""
        return self.wall_before + time.perf_counter() - self.started

    def device_seconds(self, wall: float) -> float:
        """Return the same of all devices together, at that moment of the wall clock."""
        return self.device_before + (wall - self.wall_before) * self.account.device_share

    def write_spent(self, step: int) -> None:
        """Write what the run has cost by now."""
        wall = self.wall_seconds()
        devices = self.device_seconds(wall)
        totals = self.account.totals()
        self.record.write("spent", step=step, wall_s=wall, device_s=devices, **totals)


def tell_again(job: Job, progress: Progress, before: RunRecord | None) -> None:
    """Give a record back what it told before its checkpoint and has lost since."""
    standing = [] if before is None else [*before.steps, *before.evals]
    if before is not None and before.start is not None:
        standing.append({**before.start, "step": 0})  # older records name no step there
    known = {(line["t"], line["step"]) for line in standing}
    for line in progress.told:
        if (line["t"], line["step"]) not in known:
            job.record.write(**line)


def tell(job: Job, progress: Progress, **line: Any) -> None:
    """Write a line into the record, and remember it."""
    job.record.write(**line)
    progress.told.append(line)


def measure(job: Job, step: int, *, scores_all: bool) -> tuple[HeldOut, dict[str, Any]]:
    """Measure the model as it is after a step; return its held-out loss and what a line says of it.

    Args:
        job: The run.
        step: How many steps it has learnt from.
        scores_all: Whether tasks that are scored once are scored now.
    """
    train, shape = job.config.train, job.config.model
    assert shape.vocab is not None
    seen = job.corpus.ordered(train.seed).seen(step * train.batch_tokens // shape.context)
    with job.average.applied() if job.average else nullcontext():
        held = evaluate_corpus(job.model, shape.vocab, job.corpus, job.device, job.spread.team)
        scores = job.tasks.report(job.model, job.device, is_last=scores_all)
    return held, {
        "val_loss": held.loss,
        "val_sem": held.sem,
        "val_tokens": held.tokens,
        "val_bpb": held.bits_per_byte,
        "unique_tokens": seen.unique * shape.context,
        "epochs": seen.epochs,
        **report_sources(held, seen, shape.context),
        **scores,
    }
