"""What produced a run: code, torch, host, device, job. The `attempt` line of a record."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import torch

from scalekit.models.base import LanguageModel
from scalekit.results.code import code_state
from scalekit.train.device import Device
from scalekit.train.gradients import uses_kernels
from scalekit.train.spread import Spread
from scalekit.train.team import SOLO, Team


def describe_attempt(
    n: int, resumed_from: int, device: Device, team: Team = SOLO
) -> dict[str, Any]:
    """Return the fields of an attempt line; host and device are the first process's."""
    return {
        "n": n,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "host": team.hosts[team.rank],
        "device": device.name,
        "threads": torch.get_num_threads(),
        "processes": team.size,
        "nodes": team.n_nodes,
        "hosts": list(dict.fromkeys(team.hosts)),
        "code": code_state(),
        "torch": str(torch.__version__),
        "resumed_from": resumed_from,
    }


def describe_spread(spread: Spread, model: LanguageModel, device: Device) -> dict[str, Any]:
    """Return what an attempt says of how its gradients come about."""
    # The kernels split the rows by a rule of their own and compute nothing again.
    is_told = not uses_kernels(model, device)
    return {
        "computed_by": told_with_format(model.computed_by(), device),
        "shard": spread.shards,
        "micro_batch_tokens": spread.micro_batch_tokens if is_told else None,
        "recompute": spread.recompute if is_told else None,
        "compile": spread.compiled if is_told else None,
        "cuda_graph": spread.recorded,
    }


def told_with_format(by: str, device: Device) -> str:
    """Say by what means gradients are computed, and in which format where that is not `dtype`."""
    return by if device.products == device.dtype else f"{by}, products in {device.products}"
