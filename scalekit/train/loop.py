"""The training loop: what happens in a step, what is written, when a run has diverged.

Everything that decides the numbers is in `Progress`, the model and the optimizer; all three go into
a checkpoint, so a run that is killed and started again writes the same lines.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import RunConfig
from scalekit.train.account import Account, spends
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.device import Device
from scalekit.train.evaluate import HeldOut
from scalekit.train.feed import Feed
from scalekit.train.gradients import Gradients
from scalekit.train.job import Job, Progress, measure, tell
from scalekit.train.optimizer import clip_gradients, set_lr
from scalekit.train.optimizers.base import Optimizer
from scalekit.train.restore import save_state
from scalekit.train.schedule import lr_factor
from scalekit.train.spread import Spread

EXPLOSION_NATS = 1.0
EXPLOSION_LINES = 3
"""A run has diverged when a loss is not finite, or when after warm-up the mean training loss of
that many step lines in a row lies that far above the mean of the first line: worse than untrained.
"""


AHEAD = 2
"""Batches that are made while a GPU computes."""


class Learner:
    """What a step does to a model: gradients, clipping, update.

    Args:
        model: What learns.
        optimizer: From `build_optimizer`.
        device: Where both are.
        clip: Largest gradient norm.
        gradients: How gradients come about; the model's own way in one go when None.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        device: Device,
        clip: float,
        gradients: Gradients | None = None,
    ) -> None:
        self.model, self.optimizer, self.device, self.clip = model, optimizer, device, clip
        self.gradients = gradients or self._gradients
        self.params = [p for group in optimizer.param_groups for p in group["params"]]

    def learn(self, tokens: Tensor, targets: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Learn from a batch (B, T) at a learning rate; return its loss and the gradient's norm."""
        set_lr(self.optimizer, lr)
        loss = self.gradients(tokens, targets)
        norm = clip_gradients(self.params, self.clip)
        self.optimizer.step()
        return loss, norm

    def _gradients(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.gradients(tokens, targets, self.device.autocast())


def eval_steps(steps: int, evals: int) -> frozenset[int]:
    """Choose the steps after which the held-out loss is measured: evenly, the last included.

    >>> sorted(eval_steps(10, 3))
    [3, 7, 10]
    """
    return frozenset(max(1, round(i * steps / evals)) for i in range(1, evals + 1))


def run_loop(job: Job, progress: Progress) -> str:
    """Train from where `progress` stands; return `done`, `diverged` or `stopped`."""
    learner = Learner(job.model, job.optimizer, job.device, job.config.train.clip, job.gradients)
    job.model.train()
    with open_feed(job, progress) as feed:
        walk = Walk(job, progress, feed)
        while walk.status is None:
            rows = walk.take()
            loss, norm = learner.learn(*job.device.batch(rows), walk.lr)
            walk.note(loss, norm)
            walk.save_if_due(is_asked=job.stop.signal is not None)
    return walk.status


def open_feed(job: Job, progress: Progress) -> Feed:
    """Return the rows of the steps that a run still has to take."""
    train = job.config.train
    batch = train.batch_tokens // job.config.model.context
    steps = range(progress.step + 1, job.steps + 1)
    ahead = AHEAD if job.device.torch.type == "cuda" else 0
    order, share = job.corpus.ordered(train.seed), job.spread.team.share
    return Feed(job.corpus.train, order, batch, steps, ahead=ahead, share=share)


class Walk:
    """A run's way through its steps: what it takes for one, and what follows from what it learnt.

    Attributes:
        status: `done`, `diverged` or `stopped`; None while there are steps to take.
        lr: The learning rate of the step that was taken last.
    """

    def __init__(self, job: Job, progress: Progress, feed: Feed) -> None:
        self.job, self.progress, self.feed = job, progress, feed
        self.lr = 0.0
        self.status: str | None = None
        self._measured = eval_steps(job.steps, job.config.log.evals)
        self._clock = _Clock(job.account)
        self._pending: list[Tensor] = []
        self._is_first = True
        if progress.step == job.steps:  # a branch of which only the evaluation is its own
            ends_well = math.isfinite(_write_eval(job, progress).loss)
            self.status = "done" if ends_well else "diverged"

    def take(self) -> np.ndarray:
        """Begin a step: return its rows (B, T + 1)."""
        config = self.job.config
        self.lr = config.train.lr * lr_factor(self.progress.step + 1, self.job.steps, config.train)
        return self.feed.next()

    def note(self, loss: Tensor, norm: Tensor) -> None:
        """Write and measure what is due after a step, from its mean loss and gradient's norm."""
        job, progress = self.job, self.progress
        if self._is_first:
            self._is_first = False
            job.device.synchronise()  # once an attempt
            job.account.end_first_step()
        step = progress.step = progress.step + 1
        if job.average is not None:
            job.average.update(step)
        self._pending.append(loss)
        is_last = step == job.steps
        has_diverged = False
        if step % job.config.log.every == 0 or is_last:
            has_diverged = _write_step(
                job, progress, self._pending, self._clock, self.feed, lr=self.lr, norm=float(norm)
            )
        if step in self._measured and not has_diverged:
            job.device.synchronise()  # or steps that a GPU still computes were evaluation's time
            has_diverged = not math.isfinite(_write_eval(job, progress).loss)
            self._clock.restart(step)
        if has_diverged or is_last:
            self.status = "diverged" if has_diverged else "done"

    def save_if_due(self, *, is_asked: bool) -> None:
        """Save what is due after a step that was not the last, and stop where that is asked."""
        job, config, step = self.job, self.job.config, self.progress.step
        if self.status is not None:
            return
        if step in job.branches:
            self._save(*job.branches[step], is_own=False)
        stops, is_time = job.spread.team.any(is_asked, _is_time(config, self._clock))
        if stops or is_time or _is_due(config, step):
            self._save(job.checkpoints)
            self._clock.saved(step)
        if stops:
            self.status = "stopped"

    def _save(self, *places: Checkpoints, is_own: bool = True) -> None:
        _collect(self.job, self.progress, self._pending)
        told = self.progress.told
        if not is_own:
            # Of what a trunk told, its branches tell no more than the start.
            told = [line for line in told if line["t"] == "start"]
        save(self.job, replace(self.progress, told=told), *places)


@spends("checkpoint_s")
def save(job: Job, progress: Progress, *places: Checkpoints) -> None:
    """Write a checkpoint of everything that decides the numbers from here on."""
    job.write_spent(progress.step)
    job.record.sync()
    for place in places:
        save_state(place, job.parts, vars(progress), job.spread)


class _Clock:
    """Clock bookkeeping: training since the last line, all time since the last checkpoint."""

    def __init__(self, account: Account) -> None:
        self._account, self.save_at = account, time.perf_counter()
        self.line_at = 0.0
        self.line_step: int | None = None

    def restart(self, step: int) -> None:
        self.line_at, self.line_step = self._account.training_seconds(), step

    def saved(self, step: int) -> None:
        self.save_at = time.perf_counter()
        self.restart(step)


def _collect(job: Job, progress: Progress, pending: list[Tensor]) -> None:
    """Add the losses of the steps since the last time to the sum; this waits for the device."""
    for loss in mean_losses(pending, job.spread):
        progress.loss_sum += loss
        progress.loss_steps += 1
    pending.clear()


def mean_losses(losses: list[Tensor], spread: Spread) -> list[float]:
    """Return the mean loss of each step's whole batch, from this process's mean losses.

    Added up in the order of ranks, so that a loss does not depend on which steps it is sent with.
    """
    if not losses:
        return []
    if spread.team.size == 1:
        return torch.stack(losses).tolist()  # fetched at once, not each for itself
    shares = np.array_split(np.arange(spread.batch_rows), spread.team.size)
    weights = torch.tensor([len(share) for share in shares], dtype=torch.float64)
    means = spread.team.gather(torch.stack(losses).double())
    return [sum(column) for column in (means * weights[:, None] / spread.batch_rows).T.tolist()]


def _write_step(
    job: Job,
    progress: Progress,
    pending: list[Tensor],
    clock: _Clock,
    feed: Feed,
    *,
    lr: float,
    norm: float,
) -> bool:
    """Write a step line with the mean loss since the line before; say whether it diverged."""
    _collect(job, progress, pending)
    job.account.read_energy()
    train, step = job.config.train, progress.step
    loss = progress.loss_sum / progress.loss_steps
    progress.loss_sum, progress.loss_steps = 0.0, 0
    now = job.account.training_seconds()  # of a stack's runs, others may have been measured since
    speed = None
    if clock.line_step is not None and step > clock.line_step:
        speed = (step - clock.line_step) * train.batch_tokens / (now - clock.line_at)
    clock.restart(step)
    wall = job.wall_seconds()
    tell(
        job,
        progress,
        t="step",
        step=step,
        tokens=step * train.batch_tokens,
        loss=loss,
        lr=lr,
        grad_norm=norm,
        tokens_per_second=speed,
        data_wait_s=feed.take_waited(),
        wall_s=wall,
        device_s=job.device_seconds(wall),
    )
    job.report(
        f"step {step:,}/{job.steps:,}  loss {loss:.4f}  lr {lr:.2e}"
        + (f"  {speed:,.0f} tokens/s" if speed else "")
    )
    if progress.first_loss is None:
        progress.first_loss = loss
    exploded = loss > progress.first_loss + EXPLOSION_NATS
    is_warm = step > round(train.warmup_frac * job.steps)
    progress.bad_lines = progress.bad_lines + 1 if exploded and is_warm else 0
    return not math.isfinite(loss) or progress.bad_lines >= EXPLOSION_LINES


@spends("eval_s")
def _write_eval(job: Job, progress: Progress) -> HeldOut:
    step = progress.step
    held, measured = measure(job, step, scores_all=step == job.steps)
    tokens = step * job.config.train.batch_tokens
    flops = tokens * job.flops_per_token
    tell(job, progress, t="eval", step=step, tokens=tokens, flops=flops, **measured)
    job.report(f"step {step:,}/{job.steps:,}  held-out loss {held.loss:.4f}")
    return held


def _is_due(config: RunConfig, step: int) -> bool:
    every = config.log.checkpoint_steps
    return every is not None and step % every == 0


def _is_time(config: RunConfig, clock: _Clock) -> bool:
    return time.perf_counter() - clock.save_at >= config.log.checkpoint_seconds
