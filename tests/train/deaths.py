"""Dying at a chosen moment of a run: before a disk operation, or with half of it done.

As a script, `deaths.py MOMENT train DIR RUN ...` is scalekit that kills itself with SIGKILL there.
In a test the death is an exception that no one catches: the same moments without a new process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Death(BaseException):
    """The end of a process that cannot do anything about it."""


def kill_this_process(what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_death(what: str) -> None:
    raise Death(what)


@contextmanager
def dying_at(moment: int | None, die: Callable[[str], None] = raise_death) -> Iterator[list[str]]:
    """Die at a moment, or never, and list what was done to the disk.

    Operation k has two moments: 2k before it, 2k + 1 with half of it done: half a line appended,
    half a checkpoint under its temporary name, or the operation done and nothing after it.
    """
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "unlink", "rmdir")}
    done: list[str] = []

    def wrap(name: str) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            number = len(done)
            done.append(name)
            if moment is not None and number == moment // 2:
                if moment % 2:
                    _do_half(name, real, args, options)
                die(f"{name}, operation {number}")
            return real[name](*args, **options)

        return operation

    try:
        for name in real:
            setattr(os, name, wrap(name))
        yield done
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def different_moments(done: Sequence[str]) -> list[int]:
    """List the moments of these operations; one that is done whole is the next one not begun."""
    moments = [[2 * k, 2 * k + 1] if name in _HALVES else [2 * k] for k, name in enumerate(done)]
    return [moment for both in moments for moment in both]


_HALVES = ("write", "fsync")


def _do_half(
    name: str, real: dict[str, Callable[..., Any]], args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    if name == "write":
        fd, data = args
        real["write"](fd, data[: len(data) // 2])
    elif name == "fsync":
        (fd,) = args
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".tmp":
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
    else:
        real[name](*args, **options)


if __name__ == "__main__":
    from scalekit.cli import main

    with dying_at(int(sys.argv[1]), kill_this_process):
        main(sys.argv[2:])
