"""A sweep's plan on disk: written whole, extended by new runs, never mixed with another sweep's."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from scalekit.errors import InputError, SystemTroubleError
from scalekit.results.states import record_names
from scalekit.results.store import SweepFolder, write_whole

_ID = re.compile(r'"id": "([^"]*)"')
_NAME = re.compile(r"^name: *['\"]?([^'\"\n]*)", re.MULTILINE)


@contextmanager
def one_command(folder: SweepFolder) -> Iterator[None]:
    """Hold a sweep's folder for one command that starts runs; a second one is refused.

    The lock is the system's and ends with the process, however it dies.

    Raises:
        SystemTroubleError: Another command holds it, or the folder cannot be written.
    """
    path = folder.root / ".lock"
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SystemTroubleError(
            f"{folder.root}: cannot be written, {error.strerror}; choose another folder with --out"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "unknown"
            raise SystemTroubleError(
                f"{folder.root}: another sweep command works here ({holder}); wait for it, or stop "
                "it with scalekit cancel"
            ) from error
        except OSError as error:
            raise SystemTroubleError(
                f"{path}: cannot be locked, {error.strerror}; choose a folder on a file system "
                "with locks with --out"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(fd)


def planned_ids(folder: SweepFolder) -> list[str]:
    """List the runs of the folder's plan; none where there is no plan.

    Lines that cannot be read are passed over: whoever asks is about to write the plan anew.
    """
    try:
        text = folder.plan_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [found[1] for line in text.splitlines() if (found := _ID.search(line))]


def check_same_sweep(folder: SweepFolder, name: str, ids: Iterable[str]) -> None:
    """Refuse to write a sweep into a folder that holds another one.

    A plan may be extended and shortened: new runs are added, records of runs that vanished stay.
    A plan that shares no run with the folder's is another sweep as soon as anything was trained.

    Raises:
        InputError: Another name, or no run in common.
    """
    before = planned_ids(folder)
    if not before:
        return
    try:
        found = _NAME.search(folder.sweep_file.read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is not None and found[1].strip() != name:
        raise InputError(
            f"{folder.root}: holds the sweep {found[1].strip()!r}, not {name!r}; choose another "
            "folder with --out"
        )
    if not set(before) & set(ids) and record_names(folder) & set(before):
        raise InputError(
            f"{folder.root}: none of its {len(before)} runs is in this sweep, and some were "
            "trained; choose another folder with --out"
        )


def write_plan(folder: SweepFolder, sweep: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write `sweep.yaml` and `plan.jsonl` whole, where they differ from what is there.

    Raises:
        SystemTroubleError: The disk refuses; what was there is untouched.
    """
    plan = "".join(json.dumps(line) + "\n" for line in lines)
    for path, text in ((folder.sweep_file, sweep), (folder.plan_file, plan)):
        if not path.exists() or path.read_bytes() != text.encode():
            write_whole(path, text)


def drop_checkpoints(folder: SweepFolder, run: str) -> None:
    """Remove a run's checkpoints, those too that its trunk has saved for it.

    Raises:
        SystemTroubleError: The disk refuses.
    """
    place = folder.checkpoints(run)
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise SystemTroubleError(
            f"{place}: cannot be removed, {error.strerror}; free the folder and run the same "
            "command again"
        ) from error


def move_aside(folder: SweepFolder, run: str) -> None:
    """Keep a run's record and its last weights under other names, so that the run starts anew.

    Its checkpoints belong to the old record and are removed.

    Raises:
        SystemTroubleError: The disk refuses.
    """
    # The checkpoints first: after a kill in between the run begins anew. The record last: until the
    # run has ended again nothing may take the old weights for those of the new record.
    drop_checkpoints(folder, run)
    try:
        place = folder.superseded(run)
        place.parent.mkdir(parents=True, exist_ok=True)
        if folder.weights(run).exists():
            folder.weights(run).rename(place.with_suffix(".pt"))
        folder.record(run).rename(place)
    except OSError as error:
        raise SystemTroubleError(
            f"{folder.record(run)}: cannot be moved aside, {error.strerror}; free the folder and "
            "run the same command again"
        ) from error
