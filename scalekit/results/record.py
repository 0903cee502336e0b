"""What a run reports: one JSON object a line, appended, read back with a torn end forgiven.

A resumed run appends an `attempt` line that names the step it resumed from; steps and evaluations
after that step which an earlier attempt wrote are superseded, so a reader sees one curve.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalekit.errors import InputError, SystemTroubleError

SCHEMA = "scalekit.run/1"
STATUSES = ("done", "diverged", "pruned", "failed")
LOCK_SECONDS = 1.0
"""How long a writer waits for the lock: a reader that asks who writes holds it for an instant."""


@dataclass(frozen=True)
class RunRecord:
    """One run's record, as far as it was written.

    Attributes:
        header: The `run` line: id, config, plan.
        attempts: The `attempt` lines, oldest first.
        steps: The `step` lines that stand, by step.
        evals: The `eval` lines that stand, by step.
        end: The `end` line, or None while the run is not finished.
        spent: The last `spent` or `end` line, of any attempt: what the run had cost by then; empty
            where there is none.
        torn: How many lines could not be read (a killed writer leaves at most one an attempt).
        start: The `start` line of a run that starts from another one's weights.
    """

    header: Mapping[str, Any]
    attempts: tuple[Mapping[str, Any], ...]
    steps: tuple[Mapping[str, Any], ...]
    evals: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any] | None
    torn: int
    spent: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the record has an end line."""
        return self.end is not None

    @property
    def n_attempts(self) -> int:
        """How many attempts are known: one that failed before it had a line says so at its end."""
        numbers = [line.get("n") for line in self.attempts[-1:]]
        numbers += [len(self.attempts), (self.end or {}).get("attempts")]
        return max(int(number or 0) for number in numbers)


class RecordWriter:
    """Append lines to a run's record; one writer at a time, held by a lock on the file.

    Use as a context manager. Opening changes nothing; the first line written ends a torn one before
    it, so nothing that was written is touched.

    Raises:
        SystemTroubleError: Another process writes this record, or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> RecordWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise SystemTroubleError(
                f"{self.path}: cannot be written, {error.strerror}; free the folder and run again"
            ) from error
        try:
            self._lock()
            size = os.fstat(self._fd).st_size
            self._is_torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _lock(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise SystemTroubleError(
                    f"{self.path}: another process is writing this run; wait for it or stop it"
                ) from error
            except OSError as error:
                raise SystemTroubleError(
                    f"{self.path}: cannot be locked, {error.strerror}; put the sweep's folder on "
                    "a file system with locks"
                ) from error

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, t: str, **fields: Any) -> None:
        """Append one line of type `t`. NaN and infinity are written as null."""
        line = json.dumps({"t": t, **_finite(fields)}, allow_nan=False)
        self._append(line.encode() + b"\n")

    def sync(self) -> None:
        """Ask the system to put what was written on the disk.

        Raises:
            SystemTroubleError: It cannot.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._trouble(error) from error

    def _append(self, data: bytes) -> None:
        if self._is_torn:
            data = b"\n" + data
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._is_torn = True
            raise self._trouble(error) from error
        self._is_torn = False

    def _trouble(self, error: OSError) -> SystemTroubleError:
        return SystemTroubleError(
            f"{self.path}: cannot be written, {error.strerror}; free some space and run the same "
            "command again, it continues"
        )


def read_record(path: Path, *, steps: bool = True) -> RunRecord:
    """Read a run's record.

    Without `steps` the step lines, nearly all of a record, are skipped unparsed.

    Raises:
        InputError: The file has no readable header, or its schema is not ours.
    """
    lines, torn = _read_lines(path, steps=steps)
    headers = [line for line in lines if line.get("t") == "run"]
    if not headers:
        raise InputError(f"{path}: no run header in the record; move the file away and run again")
    if headers[0].get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {headers[0].get('schema')!r}, not {SCHEMA!r}; read it with the "
            "version of scalekit that wrote it"
        )
    try:
        return _standing(lines, torn, headers[0])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a line lacks its step or holds no number there; move the file away and run "
            "again"
        ) from error


def holds_torn_headers_only(path: Path) -> bool:
    """Whether a file is empty or holds only what writers killed within their first line leave."""
    lines, _ = _read_lines(path, steps=True)
    raw = path.read_bytes().split(b"\n")
    return not lines and all(_HEADER.startswith(line[: len(_HEADER)]) for line in raw)


def _standing(
    lines: Sequence[Mapping[str, Any]], torn: int, header: Mapping[str, Any]
) -> RunRecord:
    """Drop what a resumed attempt superseded."""
    attempts: list[Mapping[str, Any]] = []
    steps: dict[int, Mapping[str, Any]] = {}
    evals: dict[int, Mapping[str, Any]] = {}
    spent: Mapping[str, Any] = {}
    start = end = None
    for line in lines:
        match line.get("t"):
            case "attempt":
                attempts.append(line)
                kept = int(line.get("resumed_from", 0))
                steps = {k: v for k, v in steps.items() if k <= kept}
                evals = {k: v for k, v in evals.items() if k <= kept}
                end = None
            case "step":
                steps[int(line["step"])] = line
            case "eval":
                evals[int(line["step"])] = line
            case "spent":
                spent = line
            case "start":
                start = line
            case "end":
                end = spent = line
    return RunRecord(
        header,
        tuple(attempts),
        tuple(steps[k] for k in sorted(steps)),
        tuple(evals[k] for k in sorted(evals)),
        end,
        torn,
        spent,
        start,
    )


def _read_lines(path: Path, *, steps: bool) -> tuple[list[dict[str, Any]], int]:
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}") from error
    lines, torn = [], 0
    for raw in text.split("\n"):
        if not raw.strip():
            continue
        if not steps and raw.startswith(_STEP) and raw.endswith("}"):
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            torn += 1
            continue
        if isinstance(value, dict):
            lines.append(value)
        else:
            torn += 1
    return lines, torn


_STEP = '{"t": "step", '
_HEADER = b'{"t": "run", '


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has no word for them."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
