"""How a model lies on the processes of its run, and how a batch's gradients come about there.

Three ways, all with the numbers of one process but for rounding:

- The CPU's own kernels write all gradients into one tensor, layer after layer with nothing to wait
  for; one sum over the processes after that is the whole of it. A wrapper that overlaps sums with
  autograd has no autograd to hook into here.
- With autograd, `DistributedDataParallel` sums while the rest of the backward pass still runs.
- Sharded, FSDP2's `fully_shard` keeps of every weight, gradient and moment one part a process.

Weights stay in float32 and autocast decides on the products, sharded or not: spreading a run must
not change what it computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from scalekit.counting import Shape
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.train.device import Device
from scalekit.train.forward import Forward, change_forward
from scalekit.train.micro_batch import choose_rows, learn_within_memory, memory_for
from scalekit.train.team import Team

Gradients = Callable[[Tensor, Tensor], Tensor]
"""From inputs and targets (B, T) of this process to its mean loss; sets every parameter's gradient
to that of the mean loss of the whole batch.
"""


@dataclass(frozen=True)
class Spread:
    """How one run is spread.

    Attributes:
        team: The processes.
        shards: Whether each keeps a part of the model only.
        recompute: Of the model's `recomputable()`, or `none`: what is not kept for the backward
            pass but computed again in it.
        micro_rows: Rows a process learns from at once.
        batch_rows: Rows of a step, all processes together.
        context: Tokens a row.
        compiled: What of the model is compiled, `blocks` or `none`.
    """

    team: Team
    shards: bool
    recompute: str
    micro_rows: int
    batch_rows: int
    context: int
    compiled: str = "none"

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens that a process learns from at once."""
        return self.micro_rows * self.context

    @property
    def most_rows(self) -> int:
        """The most rows of a step that one process has."""
        return -(-self.batch_rows // self.team.size)


def plan_spread(
    team: Team, resources: Mapping[str, Any], shape: Shape, batch_rows: int, device: Device
) -> Spread:
    """Choose how a run is spread, from what it asks for.

    Raises:
        InputError: More processes than rows a step.
    """
    if team.size > batch_rows:
        raise InputError(
            f"resources.processes: {team.size}, but a step has {batch_rows} "
            f"row{'s' * (batch_rows > 1)} of {shape.context} tokens, so some would have no data; "
            f"take at most {batch_rows} processes, or raise train.batch_tokens"
        )
    shards = bool(resources.get("shard")) and team.size > 1
    recompute = resources.get("recompute") or "none"
    rows = -(-batch_rows // team.size)
    asked = resources.get("micro_batch_tokens")
    if asked is not None:
        micro = min(rows, max(1, int(asked) // shape.context))
    else:
        memory = memory_for(device.torch, resources, _processes_here(team))
        n_shards = team.size if shards else 1
        micro = choose_rows(shape, rows, memory, n_shards=n_shards, recompute=recompute)
    compiled = resources.get("compile") or "none"
    return Spread(team, shards, recompute, micro, batch_rows, shape.context, compiled)


def _processes_here(team: Team) -> int:
    return team.hosts.count(team.hosts[team.rank])


def recompute_activations(model: LanguageModel, what: str) -> None:
    """Let parts of a model forget what they computed and compute it again in the backward pass.

    Raises:
        InputError: The model has no parts of that name.
    """
    if what == "none":
        return
    parts = model.recomputable()
    if what not in parts:
        raise InputError(
            f"resources.recompute: {what!r}, but this model has {', '.join(parts) or 'nothing'} "
            "to compute again; choose from those, or none"
        )
    change_forward(parts[what], _twice)


def _twice(plain: Forward) -> Forward:
    from torch.utils.checkpoint import checkpoint

    def forward(module: nn.Module, *inputs: Any) -> Tensor:
        return cast(Tensor, checkpoint(plain, module, *inputs, use_reentrant=False))

    return forward


def shard_model(model: LanguageModel, team: Team, device: Device, optimizer: str) -> None:
    """Keep of every parameter the part of this process, gathered a block at a time when needed.

    Raises:
        InputError: An optimizer that looks at more than one number of a parameter at a time.
    """
    if optimizer != "adamw":
        raise InputError(
            f"resources.shard: true with train.optimizer {optimizer!r}, which needs whole "
            "matrices; leave shard out, or take adamw"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.torch.type, (team.size,))
    for child in model.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.lies_in_parts = True


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
    return _Accumulated(model, device, spread, note)


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
        self.by_hand = _learning(model) if model.learns_by_hand else []
        if spread.team.size > 1 and not spread.shards and not self.by_hand:
            from torch.nn.parallel import DistributedDataParallel

            ids = [device.torch] if device.torch.type == "cuda" else None
            with spread.team.listening(), warnings.catch_warnings():
                # What torch offers instead would send the buffers around once.
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
                # All are equal already (`restore_state`), and there are no buffers that change.
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
            partial(self._learn, tokens, targets),
            self._halve,
            partial(self._too_much, tokens),
            may_halve=self.spread.team.size == 1 and self.micro_rows > 1,
        )

    def _halve(self) -> None:
        self.micro_rows = -(-self.micro_rows // 2)
        self.note(self.micro_rows)

    def _too_much(self, tokens: Tensor) -> InputError:
        context = tokens.shape[1]
        now, less = self.micro_rows * context, max(1, self.micro_rows // 2) * context
        return InputError(
            f"out of memory with {now:,} tokens at once; set resources.micro_batch_tokens to "
            f"{less:,} or less, recompute: blocks, or shard: true over more processes"
        )

    def _learn(self, tokens: Tensor, targets: Tensor) -> Tensor:
        team = self.spread.team
        n_parts = -(-self.spread.most_rows // self.micro_rows)
        # The wrappers take the mean over processes where the sum is meant.
        wrapped = 1 if self.by_hand else team.size
        if team.size == 1 and n_parts == 1:
            return _alone(self.model, self.device, tokens, targets)
        self.model.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=tokens.device)
        with team.listening():
            for i in range(n_parts):
                part, weight = _part(len(tokens), i, n_parts)
                with self._last(is_last=i == n_parts - 1):
                    with self.device.autocast():
                        mean = self.call(tokens[part], targets[part])
                    (mean * (weight * wrapped / self.spread.batch_rows)).backward()
                loss += mean.detach() * (weight / len(tokens))
        if team.size > 1 and self.by_hand:
            with _one_tensor([p.grad for p in self.by_hand if p.grad is not None]) as whole:
                team.add_up(whole)
        return loss

    def _last(self, *, is_last: bool) -> AbstractContextManager[object]:
        """Return the context of a part: replicas speak after the last one only."""
        if self.replicas is not None and not is_last:
            return cast(Any, self.replicas).no_sync()
        return nullcontext()


def _part(rows: int, i: int, n_parts: int) -> tuple[slice, int]:
    """Return the rows of part i and their number; where none is left the first row, and zero."""
    start, stop = i * rows // n_parts, (i + 1) * rows // n_parts
    return (slice(start, stop), stop - start) if stop > start else (slice(0, 1), 0)
