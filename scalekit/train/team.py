"""The processes that train one run together, and what they say to each other.

`SOLO` is the team of one, which says nothing and loads nothing. Whatever decides a number or a
branch of the loop is either computed alike by all (the order of the data, the learning rate, the
mean losses) or decided by the first and handed on (`agree`); so all take the same way, and none
waits for a word that another never speaks.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from scalekit import errors
from scalekit.errors import InputError, ScalekitError, SystemTroubleError
from scalekit.executors._team import Place

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

T = TypeVar("T")

MEET_SECONDS = 600.0
"""How long the first to start waits for the others: nodes load modules and files unequally fast."""

SILENT_SECONDS = 1800.0
"""How long a process may say nothing, as while the first writes a checkpoint."""

_CONFESSION_SECONDS = 2.0


class PeerLostError(SystemTroubleError):
    """Another process of this run is gone."""


class PeerFailedError(Exception):
    """Another process of this run failed; its own words are the message."""


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class Team:
    """A process and its fellows.

    Attributes:
        rank: This process's number.
        size: How many they are.
        hosts: The node of each, by rank.
        store: Where they leave words for each other; None in a team of one.
    """

    rank: int = 0
    size: int = 1
    hosts: tuple[str, ...] = field(default_factory=lambda: (_host(),))
    store: TCPStore | None = None
    _asked: list[tuple[Any, Tensor]] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the run: it alone writes record and messages."""
        return self.rank == 0

    @property
    def n_nodes(self) -> int:
        """On how many nodes they are."""
        return len(set(self.hosts))

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's part of what is dealt to all, as even as whole rows allow."""
        return rows if self.size == 1 else np.array_split(rows, self.size)[self.rank]

    # --- what all know afterwards ------------------------------------------------------------

    def agree(self, find: Callable[[], T]) -> T:
        """Let the first find something and hand it to all."""
        if self.size == 1:
            return find()
        import torch.distributed as dist

        said = [find() if self.is_first else None]
        with self.listening():
            dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        return cast(T, said[0])

    def gather(self, values: Tensor) -> Tensor:
        """Gather equally long vectors (k,) of all processes as (size, k), in order of rank."""
        if self.size == 1:
            return values.unsqueeze(0)
        import torch.distributed as dist

        mine = values.detach().cpu().contiguous()
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        with self.listening():
            dist.all_gather(all_of_them, mine)
        return torch.stack(all_of_them)

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes, equal to the bit in each."""
        import torch.distributed as dist

        with self.listening():
            dist.all_reduce(tensor)

    def copy_from_first(self, tensor: Tensor) -> None:
        """Replace a tensor by the first process's."""
        import torch.distributed as dist

        with self.listening():
            dist.broadcast(tensor, src=0)

    def wait_for_all(self) -> None:
        """Return when all have come here."""
        if self.size > 1:
            self.gather(torch.zeros(1))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Say which of these flags one of the processes raised.

        In a team the answer is that of the call before: what is raised now is exchanged while the
        next step is computed, and waits for nobody.
        """
        if self.size == 1:
            return flags
        import torch.distributed as dist

        with self.listening():
            before = self._answer() or [False] * len(flags)
            # Raised once: what was answered just now is not asked again.
            new = [flag and not known for flag, known in zip(flags, before, strict=True)]
            raised = torch.tensor(new, dtype=torch.int32)
            work = dist.all_reduce(raised, op=dist.ReduceOp.MAX, async_op=True)
            self._asked.append((work, raised))
        return tuple(before)

    def _answer(self) -> list[bool]:
        if not self._asked:
            return []
        work, raised = self._asked.pop()
        work.wait()
        return [bool(flag) for flag in raised.tolist()]

    # --- trouble -----------------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Tell the loss of another process from what else may go wrong inside.

        Raises:
            PeerLostError: One is gone and left no word.
            PeerFailedError: One failed and said why; a `ScalekitError` of it comes as itself.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_loss(error):
                raise
            self._raise_confession()
            raise PeerLostError(
                "another process of this run is gone; see its own words, if any, and run the same "
                "command again, it continues"
            ) from error

    def confess(self, error: BaseException) -> None:
        """Leave word of why this process ends, for the first to write down."""
        if self.store is None or self.is_first or isinstance(error, PeerLostError):
            return
        said = {"kind": type(error).__name__, "message": str(error)}
        if not isinstance(error, ScalekitError):
            where = f"process {self.rank} of {self.size} on {self.hosts[self.rank]}"
            words = "".join(traceback.format_exception(error))
            said["message"] = f"{where}: {said['kind']}: {error}\n{words}"
        with suppress(RuntimeError):  # the first is gone as well
            self.store.set("confession", json.dumps(said))

    def _raise_confession(self) -> None:
        assert self.store is not None
        if not self.is_first:
            return
        try:
            self.store.wait(["confession"], timedelta(seconds=_CONFESSION_SECONDS))
        except RuntimeError:
            return
        said = json.loads(self.store.get("confession"))
        kind = getattr(errors, said["kind"], PeerFailedError)
        raise kind(said["message"])

    def leave(self) -> None:
        """Part from the others when all have come here."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with self.listening():
            self._answer()
        self.wait_for_all()
        dist.destroy_process_group()


SOLO = Team()


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
        dist.all_gather_object(hosts, _host())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise SystemTroubleError(
            f"the {place.size} processes of this run do not find each other at {place.address}, "
            f"{reason}; set MASTER_ADDR to a name of the first node that the others know"
        ) from error
    atexit.register(_end_threads)
    return Team(place.rank, place.size, tuple(hosts), store)


def _end_threads() -> None:
    """End torch's threads while Python can still serve them, however this process comes to its end.

    Gloo's drop the tensors of what they exchanged last when they get to it. One that does so while
    Python goes down aborts the process, and an exit code that said why becomes a signal.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def device_of(place: Place | None, name: str, *, wants_gpu: bool) -> str:
    """Choose the device of one of several processes: the GPU of its own number, or the CPU.

    Args:
        place: Of the process; None where it is alone and chooses later.
        name: `auto`, `cpu` or `cuda`.
        wants_gpu: Whether the run asks for GPUs, so that `auto` must not mean less.

    Raises:
        InputError: Fewer GPUs than processes on this node.
    """
    if place is None:
        return name
    n_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if n_gpus and (wants_gpu or n_gpus >= place.local_size) else "cpu"
    if name != "cuda" or not n_gpus:
        return name
    if n_gpus == 1 and place.local_size > 1 and "SLURM_GPUS_PER_TASK" in os.environ:
        return "cuda:0"  # each process was shown its own
    if place.local_size > n_gpus:
        raise InputError(
            f"resources.processes: {place.local_size} on {_host()}, which shows {n_gpus} GPUs; "
            "a process takes a GPU of its own, so ask for as many, or train with --device cpu"
        )
    return f"cuda:{place.local_rank}"


def _is_loss(error: RuntimeError) -> bool:
    import torch.distributed as dist

    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
