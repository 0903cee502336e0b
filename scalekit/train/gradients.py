"""How a batch's gradients come about, on one process or on several.

Three ways, all with the numbers of one process but for rounding:

- The CPU's own kernels write all gradients into one tensor, layer after layer with nothing to wait
  for; one sum over the processes after that is the whole of it. A wrapper that overlaps sums with
  autograd has no autograd to hook into here.
- With autograd, `DistributedDataParallel` sums while the rest of the backward pass still runs.
- Sharded, FSDP2's `fully_shard` keeps of every weight, gradient and moment one part a process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.train.device import Device
from scalekit.train.micro_batch import learn_within_memory
from scalekit.train.recorded import Recorded
from scalekit.train.spread import Spread

Gradients = Callable[[Tensor, Tensor], Tensor]
"""From inputs and targets (B, T) of this process to its mean loss; sets every parameter's gradient
to that of the mean loss of the whole batch.
"""


def gradients_of(
    model: LanguageModel, device: Device, spread: Spread, note: Callable[[int], None]
) -> Gradients:
    """Choose how gradients come about.

    Args:
        model: Where its parameters are to stay.
        device: Where it computes.
        spread: Over which processes, and how.
        note: Called with the rows at once when memory ran out and they were halved.
    """
    if uses_kernels(model, device):
        # The kernels go through the rows by themselves, some at a time, and keep little.
        alone = partial(_alone, model, device)
        params = _learning(model)
        return alone if spread.team.size == 1 else partial(_summed, alone, params, spread)
    found = _Accumulated(model, device, spread, note)
    if spread.recorded:
        return Recorded(found.learn, found, list(model.parameters()))
    return found


def uses_kernels(model: LanguageModel, device: Device) -> bool:
    """Say whether the CPU's own kernels compute this model's gradients."""
    return device.dtype == "float32" and model.computed_by() == "kernels"


def _alone(model: LanguageModel, device: Device, tokens: Tensor, targets: Tensor) -> Tensor:
    return model.gradients(tokens, targets, device.autocast())


def _summed(
    alone: Gradients, params: Sequence[Tensor], spread: Spread, tokens: Tensor, targets: Tensor
) -> Tensor:
    """Compute this process's gradients, weigh them by its share of the rows, and add all up."""
    loss = alone(tokens, targets)
    with _one_tensor([p.grad for p in params if p.grad is not None]) as whole:
        whole.mul_(len(tokens) / spread.batch_rows)
        spread.team.add_up(whole)
    return loss


def _learning(model: LanguageModel) -> list[nn.Parameter]:
    return [p for group in model.groups() for p in group.params]


@contextmanager
def _one_tensor(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
    """Lend all gradients as one tensor: that which the kernels cut them from, or a copy."""
    whole = gradients[0]._base
    if whole is not None and all(g._base is whole for g in gradients):
        yield whole
        return
    copied = torch.cat([g.flatten() for g in gradients])
    yield copied
    for g, part in zip(gradients, copied.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


class _LossModule(nn.Module):
    """A model whose forward pass ends in the loss, as `DistributedDataParallel` wants it."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, targets)


class _Accumulated:
    """Gradients by autograd, some rows at a time, over one or several processes.

    Every process goes through equally many parts, because each part of a sharded model is computed
    by all together; one that has a row less than the others learns from it with weight zero.
    """

    def __init__(
        self, model: LanguageModel, device: Device, spread: Spread, note: Callable[[int], None]
    ) -> None:
        self.model, self.device, self.spread, self.note = model, device, spread, note
        self.micro_rows = spread.micro_rows
        self.call: Callable[[Tensor, Tensor], Tensor] = model.loss
        self.replicas: nn.Module | None = None
        self._is_laid_out = False
        if spread.team.size > 1 and not spread.shards:
            from torch.nn.parallel import DistributedDataParallel

            ids = [device.torch] if device.torch.type == "cuda" else None
            with spread.team.listening(), warnings.catch_warnings():
                # What torch offers instead would send the buffers around once.
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
                # All processes are equal already (`restore_state`), and no buffer changes.
                self.replicas = DistributedDataParallel(
                    _LossModule(model),
                    device_ids=ids,
                    gradient_as_bucket_view=True,
                    broadcast_buffers=False,
                    init_sync=False,
                )
            self.call = self.replicas

    def __call__(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return learn_within_memory(
            partial(self.learn, tokens, targets),
            self._halve,
            partial(self._too_much, tokens),
            may_halve=self.spread.team.size == 1 and self.micro_rows > 1,
        )

    def _halve(self) -> None:
        self.micro_rows = -(-self.micro_rows // 2)
        self.note(self.micro_rows)

    def _too_much(self, tokens: Tensor) -> InputError:
        context = tokens.shape[1]
        less = self.micro_rows // 2 * context
        fewer = f"micro_batch_tokens to {less:,} or less, " if less else ""  # one row is the least
        return InputError(
            f"out of memory with {self.micro_rows * context:,} tokens at once; set resources."
            f"{fewer}recompute: blocks, or shard: true over more processes"
        )

    def learn(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Learn from a batch; running out of memory is the caller's."""
        team = self.spread.team
        n_parts = -(-self.spread.most_rows // self.micro_rows)
        if team.size == 1 and n_parts == 1:
            return _alone(self.model, self.device, tokens, targets)
        loss = torch.zeros((), device=tokens.device)
        with team.listening():
            if self.replicas is not None and not self._is_laid_out:
                self._lay_out(*(t[_part(len(tokens), 0, n_parts)[0]] for t in (tokens, targets)))
            self.model.zero_grad(set_to_none=True)
            for i in range(n_parts):
                part, weight = _part(len(tokens), i, n_parts)
                with self._last(is_last=i == n_parts - 1):
                    with self.device.autocast():
                        mean = self.call(tokens[part], targets[part])
                    # Times `size`: the wrappers average over processes where the sum is meant.
                    (mean * (weight * team.size / self.spread.batch_rows)).backward()
                loss += mean.detach() * (weight / len(tokens))
        return loss

    def _lay_out(self, tokens: Tensor, targets: Tensor) -> None:
        """Go backward once for nothing, after which replicas lay their sums out for good.

        They do so in the order in which gradients came, and three numbers or more add up to others
        where they lie otherwise: the first step of a resumed run would not be that of a whole one.
        """
        self._is_laid_out = True
        with self.device.autocast():
            loss = self.call(tokens, targets)
        loss.backward()

    def _last(self, *, is_last: bool) -> AbstractContextManager[object]:
        """Return the context of a part: replicas speak after the last one only."""
        if self.replicas is not None and not is_last:
            return cast(Any, self.replicas).no_sync()
        return nullcontext()


def _part(rows: int, i: int, n_parts: int) -> tuple[slice, int]:
    """Return the rows of part i and their number; where none is left the first row, and zero."""
    start, stop = i * rows // n_parts, (i + 1) * rows // n_parts
    return (slice(start, stop), stop - start) if stop > start else (slice(0, 1), 0)
