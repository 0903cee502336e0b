"""How the processes of one run come together: each on its device, and until the end."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._place import BY_SRUN, Place
from scalekit.train.device import choose_device
from scalekit.train.team import SOLO, Team, host_name

MEET_SECONDS = 600.0
"""How long the first to start waits for the others: nodes load modules and files unequally fast."""

SILENT_SECONDS = 1800.0
"""How long a process may say nothing, as while the first writes a checkpoint."""

_LET_GO_SECONDS = 0.1


def join(place: Place | None, device: str) -> Team:
    """Meet the other processes of this run.

    Args:
        place: From `find_place`.
        device: From `device_of`; GPUs speak by NCCL, CPUs by Gloo.

    Raises:
        SystemTroubleError: They do not come, or cannot be reached.
    """
    if place is None or place.size == 1:
        return SOLO
    import torch.distributed as dist

    gpu = torch.device(device) if device.startswith("cuda") else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    patience = timedelta(seconds=MEET_SECONDS)
    own: dict[str, Any] = {}
    if place.listener is not None:
        own["master_listen_fd"] = place.listener
    try:
        # Both stand among torch.distributed's documented stores, but not in its stubs.
        store = getattr(dist, "TCPStore")(  # noqa: B009
            place.address, place.port, place.size, place.rank == 0, patience, **own
        )
        words = getattr(dist, "PrefixStore")("torch", store)  # noqa: B009
        dist.init_process_group(
            "gloo" if gpu is None else "cpu:gloo,cuda:nccl",
            store=words,
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=SILENT_SECONDS),
            device_id=gpu,
        )
        hosts: list[Any] = [None] * place.size
        dist.all_gather_object(hosts, host_name())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise SystemTroubleError(_why_apart(place, reason, os.environ)) from error
    atexit.register(_end_threads)
    return Team(place.rank, place.size, tuple(hosts), store)


def _why_apart(place: Place, reason: str, environment: Mapping[str, str]) -> str:
    """Say what keeps the processes from meeting, and what whoever started them can do about it."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment  # it sets the variables itself
    if "EADDRINUSE" in reason:
        what = f"port {place.port}, where the first of {place.size} processes listens, is taken"
        todo = "set MASTER_PORT to a free one"
        if by_torchrun:
            todo = "give torchrun another --master-port or --rdzv-endpoint"
        elif environment.get(BY_SRUN):
            todo = "run the same command again, it takes another"
        return f"{place.address}: {what}, {reason}; {todo}"
    how = (
        "give torchrun as --master-addr or --rdzv-endpoint" if by_torchrun else "set MASTER_ADDR to"
    )
    return (
        f"the {place.size} processes of this run do not find each other at {place.address}, "
        f"{reason}; {how} a name of the first node that the others know"
    )


def _end_threads() -> None:
    """End torch's threads while Python can still serve them, however this process comes to its end.

    Gloo's drop the tensors of what they exchanged last when they get to it. One that does so while
    Python goes down aborts the process, and an exit code that said why becomes a signal.

    A group that somebody holds on to keeps its threads, as torch's caches do after a sharded model:
    those need an instant in which nobody computes to let go.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(_LET_GO_SECONDS)


def device_of(place: Place | None, name: str, *, wants_gpu: bool) -> str:
    """Choose the device of one of several processes: the GPU of its own number, or the CPU.

    Args:
        place: Of the process; None where it is alone and chooses later.
        name: `auto`, `cpu` or `cuda`.
        wants_gpu: Whether the run asks for GPUs, so that `auto` must not mean less.

    Raises:
        InputError: No GPU, or fewer than processes on this node.
    """
    if place is None:
        return name
    n_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if n_gpus and (wants_gpu or n_gpus >= place.local_size) else "cpu"
    if name != "cuda":
        return name
    choose_device(name, "float32")
    if n_gpus == 1 and place.local_size > 1 and "SLURM_GPUS_PER_TASK" in os.environ:
        return "cuda:0"  # each process was shown its own
    if place.local_size > n_gpus:
        raise InputError(
            f"resources.processes: {place.local_size} on {host_name()}, which shows {n_gpus} GPUs; "
            "a process takes a GPU of its own, so ask for as many, or train with --device cpu"
        )
    return f"cuda:{place.local_rank}"
