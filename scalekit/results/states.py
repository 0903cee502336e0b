"""How far each run of a sweep is, from the ends of its records alone.

Ten thousand records are looked at in under a second: a record's last line says whether the run is
finished, and the lock on the file says whether someone writes it now.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scalekit.errors import NOT_FINISHED, OK, RUNS_FAILED
from scalekit.executors.base import CAUSES, STOPPED, JobState
from scalekit.results.record import STATUSES
from scalekit.results.store import SweepFolder

STATES = (*STATUSES, "running", "requeued", "stopped", "pending", *CAUSES, "unreadable")
"""A run's state: the status of its end line, or where it stands without one.

- `running`: a process holds the record's lock, or a scheduler says that its job is at work.
- `requeued`: it began, and a job in a scheduler's queue will continue it.
- `stopped`: it began, has no end, and nothing writes it; the sweep command continues it.
- `pending`: no record yet; the reason says whether a job waits for it.
- one of `executors.base.CAUSES`: what a scheduler says became of its job; the sweep command starts
  or continues it.
- `unreadable`: the file is not a record; the sweep command moves it aside and starts the run.
"""

OPEN = ("running", "requeued", "stopped", "pending", "cancelled")
"""States of runs that are still to end."""

TROUBLES = (*("diverged", "failed", "unreadable"), *(c for c in CAUSES if c not in OPEN))
"""States that a person should look at."""

_CHUNKS = (4096, 65536)
_HEAD = b'{"t":"run"'


@dataclass(frozen=True)
class RunState:
    """Where one run stands.

    Attributes:
        status: One of `STATES`.
        last: The last readable line of the record; empty where there is none. For a finished run
            this is its end line.
        why: What is known beside the record, as a sentence; may be empty.
        crashed: Whether its job ended although nobody asked it to and the run has no end, or no
            record even.
        step: The last step that the record speaks of.
        held: Whether it cannot begin before its trunk, whose state says how it goes on.
    """

    status: str
    last: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    crashed: bool = False
    step: int = 0
    held: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether the record has an end line."""
        return self.status in STATUSES


PENDING = RunState("pending")


def verdict(states: Iterable[RunState]) -> int:
    """Return the exit code that says how a sweep stands: not finished, some failed, or all well."""
    found = {state.status for state in states if not state.held}
    if found & set(OPEN):
        return NOT_FINISHED
    return RUNS_FAILED if found & set(TROUBLES) else OK


def with_job(state: RunState, job: JobState | None) -> RunState:
    """Say where a run stands when one also knows where its job is.

    The record has the last word on what it speaks of: an end, a writer at work.
    """
    if job is None or state.is_finished or state.status in ("running", "unreadable"):
        return state
    if job.word == "unknown":
        return replace(state, why=job.why, crashed=bool(job.why) and state.status == "stopped")
    if job.is_alive:
        # A run that saved and waits for a job is requeued whatever word the executor has for it.
        word = "requeued" if job.word == "pending" and state.status == "stopped" else job.word
        return replace(state, status=word, why=job.why)
    exit_words = _exit(job.code)
    return replace(
        state,
        status=job.cause or state.status,
        why=job.why or exit_words,
        crashed=bool(exit_words or (job.why and state.status == "stopped")),
    )


def _exit(code: int | None) -> str:
    if code is None or code == OK or code in STOPPED:
        return ""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def scan_states(folder: SweepFolder, ids: Iterable[str]) -> dict[str, RunState]:
    """Say of every run where it stands, in the order of `ids`."""
    present = record_names(folder)
    return {run: read_state(folder.record(run)) if run in present else PENDING for run in ids}


def record_names(folder: SweepFolder) -> set[str]:
    """List the runs that have a record, whatever is in it."""
    try:
        with os.scandir(folder.record("x").parent) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return set()
    return {name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")}


def read_state(path: Path) -> RunState:
    """Say where the run of this record stands."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return PENDING
    except OSError:
        return RunState("unreadable")
    try:
        return _state(fd)
    except OSError:  # a folder in the record's place
        return RunState("unreadable")
    finally:
        os.close(fd)


def _state(fd: int) -> RunState:
    size = os.fstat(fd).st_size
    last, step = _last_line(fd, size)
    if last.get("t") == "end" and last.get("status") in STATUSES:
        # A file that was cut while its writer went on has an end line and no header.
        ended = RunState(last["status"], last, step=step)
        return ended if _has_header(fd) else RunState("unreadable")
    if _is_locked(fd):
        return RunState("running", last, step=step)
    if size == 0:
        return PENDING
    # A killed writer may leave part of a header; anything else at the front is not ours.
    head = os.pread(fd, 64, 0).replace(b" ", b"")[: len(_HEAD)]
    is_ours = _HEAD.startswith(head) or head == _HEAD
    return RunState("stopped", last, step=step) if is_ours else RunState("unreadable")


def _has_header(fd: int) -> bool:
    """Whether the first line is a run's header, as far as a glance tells."""
    first, newline, _ = os.pread(fd, _CHUNKS[0], 0).partition(b"\n")
    if not newline:  # a long one, or the only line
        return first.replace(b" ", b"").startswith(_HEAD)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("t") == "run"


def _last_line(fd: int, size: int) -> tuple[dict[str, Any], int]:
    """Return the last line that is readable, a torn one passed over, and the last step told."""
    last: dict[str, Any] = {}
    for chunk in (*_CHUNKS, size):
        start = max(0, size - chunk)
        lines = os.pread(fd, size - start, start).split(b"\n")
        # The first piece may have lost its beginning.
        for raw in reversed(lines[1:] if start else lines):
            try:
                value = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                last = last or value
                step = value.get("step", value.get("resumed_from"))  # an end has neither
                if isinstance(step, int):
                    return last, step
        if start == 0:
            break
    return last, 0


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks cannot say; the record's lines still can
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
