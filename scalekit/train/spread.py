"""How a model lies on the processes of its run: whole on each, or a part of it on each.

Weights stay in float32 and autocast decides on the products, sharded or not: spreading a run must
not change what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from scalekit.counting import Shape
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.train.device import Device
from scalekit.train.forward import Forward, change_forward
from scalekit.train.micro_batch import choose_rows, memory_for
from scalekit.train.team import Team


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
        recorded: Whether a GPU replays a recording of a step's gradients.
    """

    team: Team
    shards: bool
    recompute: str
    micro_rows: int
    batch_rows: int
    context: int
    compiled: str = "none"
    recorded: bool = False

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens that a process learns from at once."""
        return self.micro_rows * self.context

    @property
    def most_rows(self) -> int:
        """The most rows of a step that one process has."""
        return -(-self.batch_rows // self.team.size)


def plan_spread(
    team: Team,
    resources: Mapping[str, Any],
    shape: Shape,
    batch_rows: int,
    device: Device,
    **adapters: Any,
) -> Spread:
    """Choose how a run is spread, from what it asks for; `adapters` are as in `adapters_of`.

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
        how = {"n_shards": n_shards, "recompute": recompute, **adapters}
        micro = choose_rows(shape, rows, memory, **how)
    compiled = resources.get("compile") or "none"
    # On CPUs there is nothing to record, and a sweep may be tried there.
    recorded = bool(resources.get("cuda_graph")) and device.torch.type == "cuda"
    return Spread(team, shards, recompute, micro, batch_rows, shape.context, compiled, recorded)


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
        # Nothing draws numbers on the way, and a recorded step may not ask for their state.
        found = checkpoint(plain, module, *inputs, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, found)

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
