"""The processes that train one run together, and what they say to each other.

`SOLO` is the team of one, which says nothing and loads nothing. Whatever decides a number or a
branch of the loop is either computed alike by all (the order of the data, the learning rate, the
mean losses) or decided by the first and handed on (`agree`); so all take the same way, and none
waits for a word that another never speaks.
"""

from __future__ import annotations

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
from scalekit.errors import ScalekitError, SystemTroubleError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

T = TypeVar("T")

_CONFESSION_SECONDS = 2.0


class PeerLostError(SystemTroubleError):
    """Another process of this run is gone."""


class PeerFailedError(Exception):
    """Another process of this run failed; its own words are the message."""


def host_name() -> str:
    """Return what this node is called: Slurm's name for it, where it has one."""
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
    hosts: tuple[str, ...] = field(default_factory=lambda: (host_name(),))
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


def _is_loss(error: RuntimeError) -> bool:
    import torch.distributed as dist

    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
