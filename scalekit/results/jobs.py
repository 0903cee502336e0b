"""What was handed to an executor: one append-only file a submission, the intent written first.

A submission that dies between its intent and the executor's answer leaves the intent; who reads it
later knows what may have been started.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalekit.errors import SystemTroubleError
from scalekit.results.store import SweepFolder

SCHEMA = "scalekit.jobs/1"


@dataclass(frozen=True)
class Submission:
    """One file of `jobs/`, as far as it was written.

    Attributes:
        intent: executor, runs, `stacks`: those of the runs that go together, `command`: the handle
            of the command that submits, and `code`: what code that was.
        handles: By run: what finds its job.
        codes: By run that ended: its exit code.
        is_closed: Whether the command that submitted has finished its work.
    """

    path: Path
    intent: Mapping[str, Any]
    handles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    is_closed: bool = False

    def stack_of(self, run: str) -> tuple[str, ...]:
        """Return the runs that one process trains together with this one, the first first."""
        stacks = self.intent.get("stacks", ())
        return next((tuple(stack) for stack in stacks if run in stack), (run,))

    @property
    def open_handles(self) -> dict[str, Mapping[str, Any]]:
        """The handles of runs that were started and of which no end is known."""
        return {run: handle for run, handle in self.handles.items() if run not in self.codes}


class JobLog:
    """Appends the lines of one submission.

    Raises:
        SystemTroubleError: The disk refuses.
    """

    def __init__(self, folder: SweepFolder, kind: str = "submit") -> None:
        # Sorts by time; host and process make it one writer's own.
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"{time.time() % 1:.6f}"[1:]
        name = f"{stamp}-{kind}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self.path = folder.jobs / name

    def write(self, t: str, **fields: Any) -> None:
        """Append one line of type `t` and put it on the disk."""
        line = json.dumps({"t": t, "time": time.time(), **fields}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SystemTroubleError(
                f"{self.path}: cannot be written, {error.strerror}; free some space and run the "
                "same command again, it continues"
            ) from error


def read_submissions(folder: SweepFolder) -> list[Submission]:
    """Read all submissions of a sweep, oldest first, passing over torn lines and foreign files."""
    found = (_read(path) for path in sorted(folder.jobs.glob("*-submit-*.jsonl")))
    return [submission for submission in found if submission is not None]


def submitted_codes(folder: SweepFolder) -> dict[str, frozenset[str]]:
    """Return by run the code of the commands that handed it to an executor."""
    found: dict[str, set[str]] = {}
    for submission in read_submissions(folder):
        code = submission.intent.get("code")
        if not code:
            continue
        for run in submission.intent["runs"]:
            found.setdefault(run, set()).add(code)
    return {run: frozenset(codes) for run, codes in found.items()}


def list_cancels(folder: SweepFolder) -> frozenset[Path]:
    """Return the files in which runs of a sweep were cancelled: each is written once."""
    return frozenset(folder.jobs.glob("*-cancel-*.jsonl"))


def read_cancels(paths: Iterable[Path]) -> set[str]:
    """Return the runs that were cancelled in these files of `list_cancels`."""
    runs: set[str] = set()
    for line in (line for path in paths for line in _lines(path)):
        if line.get("t") == "cancel":
            runs.update(line.get("runs", ()))
    return runs


def _read(path: Path) -> Submission | None:
    lines = _lines(path)
    intent = next((line for line in lines if line.get("t") == "intent"), None)
    if intent is None or intent.get("schema") != SCHEMA:
        return None
    handles: dict[str, Mapping[str, Any]] = {}
    codes: dict[str, int] = {}
    for line in lines:
        if line.get("t") == "started":
            handles |= dict.fromkeys(line["runs"], line["handle"])
        elif line.get("t") == "ended":
            codes |= dict.fromkeys(line["runs"], line["code"])
    closed = any(line.get("t") == "closed" for line in lines)
    return Submission(path, intent, handles, codes, closed)


def _lines(path: Path) -> Sequence[Mapping[str, Any]]:
    lines = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for raw in text.splitlines():
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines
