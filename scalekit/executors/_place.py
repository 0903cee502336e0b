"""What a process knows of the team that it trains a run with: its place, and who started it.

By the variables of torchrun and of submitit's `TorchDistributedEnvironment`, so that either can
start a team as well as `_team` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from scalekit.errors import InputError

LIFELINE = "SCALEKIT_LIFELINE"
LISTENER = "SCALEKIT_LISTENER"
BY_SRUN = "SCALEKIT_BY_SRUN"


@dataclass(frozen=True)
class Place:
    """A process's place among those that train one run.

    Attributes:
        rank: Its number, counted through all nodes.
        size: How many there are.
        local_rank: Its number on its node.
        local_size: How many there are on its node.
        address: Where the first one is found.
        port: And at which port.
        listener: A socket at that port, opened for the first by its launcher; None elsewhere.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    listener: int | None = None


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Read from the environment which place this process was given; None where nobody gave one.

    Raises:
        InputError: A variable is missing, or is no number.
    """
    if environment.get(BY_SRUN):
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", None)
    elif "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    else:
        return None
    try:
        rank, size, local_rank = (int(environment[name]) for name in names[:3])
        if names[3] is None:
            local_size = size // int(environment["SLURM_STEP_NUM_NODES"])
        else:
            local_size = int(environment.get(names[3], size))
        listener = environment.get(LISTENER)
        return Place(
            rank,
            size,
            local_rank,
            local_size,
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            None if listener is None or rank else int(listener),
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"environment: {error} where torch.distributed's variables are read; unset RANK and "
            "WORLD_SIZE, or start the run with torchrun or srun"
        ) from error


def die_with_launcher() -> None:
    """Kill this process when its launcher is gone, whatever it is doing then.

    A launcher that is killed cannot tell its processes; the pipe that it held open ends.
    """
    pipe = os.environ.get(LIFELINE)
    if pipe is not None:
        threading.Thread(target=_wait_for_end, args=(int(pipe),), daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)
