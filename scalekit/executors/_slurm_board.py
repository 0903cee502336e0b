"""A submission's folder: the manifest of its runs, and the board on which workers claim them.

The board holds one line of equal width a run. Whoever works on a run holds a lock on its line, and
a lock ends with its process however that dies, on whichever node: so a claim needs no clock, no
file of its own, and no run has two workers. What stays after the process is the line's text.

A stack is claimed and noted through the line of its first run: its lock is the stack's, and the
lines of the others say what it says.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

SCHEMA = "scalekit.manifest/1"

WAITING = "."
"""Nobody began it."""
RUNNING = "r"
"""A worker holds it; with its lock free, that worker is gone and could say nothing."""
SAVED = "s"
"""Its worker was asked to stop while the scheduler still let it: any worker may continue it."""
KILLED = "k"
"""The scheduler was ending its worker's job: the same job continues it if it is requeued."""
DONE = "d"
"""Exit code 0."""
FAILED = "f"
"""Any other exit code that no stop explains; nobody starts it again unasked."""
CANCELLED = "c"
"""A person asked for it."""

MOST_LOST = 3
"""How often a run may take its worker with it and be continued by the requeued job."""

ENDED = (DONE, FAILED, CANCELLED)
"""What no worker of this submission begins again."""

STATES = (WAITING, RUNNING, SAVED, KILLED, *ENDED)


@dataclass(frozen=True)
class Line:
    """What the board says of a run.

    Attributes:
        run: Its id.
        state: One of `STATES`.
        starts: How often it was begun.
        lost: How often its worker vanished while it ran, as when its node failed.
        code: The exit code of its last process; 0 while there is none.
        job: The job that had it last (`123_4` for element 4 of the array 123); may be empty.
        time: When the line was written, seconds since 1970.
    """

    run: str
    state: str = WAITING
    starts: int = 0
    lost: int = 0
    code: int = 0
    job: str = "-"
    time: int = 0


def write_line(line: Line, width: int) -> bytes:
    """Write a line of the board, `width` columns for the run."""
    text = f"{line.run:<{width}} {line.state} {line.starts:>4} {line.lost} {line.code:>4} "
    return (text + f"{line.job:<22.22} {line.time:>10}\n").encode()


def read_line(raw: bytes) -> Line | None:
    """Read a line of the board; None where it cannot be read."""
    try:
        run, state, starts, lost, code, job, moment = raw.decode().split()
        line = Line(run, state, int(starts), int(lost), int(code), job, int(moment))
    except ValueError:
        return None
    return line if state in STATES else None


Manifest = tuple[dict[str, Any], list[dict[str, Any]]]
"""What holds for all runs, and a mapping for each run or stack."""


@dataclass(frozen=True)
class Folder:
    """Where a submission keeps its files."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What there is to run: a line for all, then a line a run or stack, the longest first."""
        return self.path / "manifest.jsonl"

    @property
    def board(self) -> Path:
        """Who has which run."""
        return self.path / "board"

    @property
    def script(self) -> Path:
        """What sbatch was given."""
        return self.path / "job.sh"

    @property
    def cancelled(self) -> Path:
        """Runs that a person cancelled, an id a line; made by the first."""
        return self.path / "cancelled"

    def output(self, job: str) -> Path:
        """What a job itself printed; it removes the file when all went well."""
        return self.path / f"{job}.out"

    def write(self, header: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> None:
        """Write the manifest and an empty board.

        Args:
            header: What holds for all runs.
            jobs: A mapping a run, its id under `run`; a stack has those of its others in `beside`.
        """
        self.path.mkdir(parents=True)
        lines = [json.dumps({"schema": SCHEMA, **header}), *map(json.dumps, jobs)]
        self.manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        runs = [job["run"] for job in jobs]
        runs += [run for company in find_company(jobs).values() for run in company.values()]
        width = max(map(len, runs))
        self.board.write_bytes(b"".join(write_line(Line(run), width) for run in runs))

    def read(self) -> Manifest:
        """Read the manifest back."""
        header, *jobs = self.manifest.read_text(encoding="utf-8").splitlines()
        return json.loads(header), [json.loads(job) for job in jobs]

    def read_cancelled(self) -> frozenset[str]:
        """Read which runs were cancelled."""
        try:
            return frozenset(self.cancelled.read_text(encoding="utf-8").split())
        except OSError:
            return frozenset()

    def cancel(self, runs: Sequence[str]) -> None:
        """Tell the workers that these runs are not wanted."""
        with self.cancelled.open("a", encoding="utf-8") as file:
            file.write("".join(f"{run}\n" for run in runs))

    def lines(self) -> list[Line]:
        """Read the board; lines that cannot be read are passed over, none if there is no board."""
        try:
            raw = self.board.read_bytes()
        except OSError:
            return []
        found = (read_line(line) for line in raw.splitlines())
        return [line for line in found if line is not None]


Company = Mapping[int, Mapping[int, str]]
"""By the line of a stack's first run: the lines of its other runs, and their ids."""
_NO_COMPANY: Company = MappingProxyType({})


def find_company(jobs: Sequence[Mapping[str, Any]]) -> Company:
    """Say where on the board the runs of stacks stand: behind a line for each of the jobs.

    >>> find_company([{"run": "a", "beside": ["b", "c"]}, {"run": "d"}])
    {0: {2: 'b', 3: 'c'}}
    """
    lines = count(len(jobs))
    stacks = ((number, job["beside"]) for number, job in enumerate(jobs) if job.get("beside"))
    return {number: {next(lines): run for run in beside} for number, beside in stacks}


class Board:
    """The board in a worker's hands.

    A process must open it once only: a POSIX lock ends when any of the process's descriptors of
    the file is closed.
    """

    def __init__(self, fd: int, job: str, company: Company) -> None:
        self._fd, self._job, self._company = fd, job, company
        self._length = len(os.pread(fd, 4096, 0).partition(b"\n")[0]) + 1
        # What was written, for the board may be cut at any byte while a run is at work.
        self._mine: dict[int, Line] = {}

    def claim(self, wanted: Sequence[int]) -> int | None:
        """Take the first of these lines that is free, and hold it.

        Free are runs that nobody began, that were saved, and those that this very job had before
        it was requeued. A run that took its worker with it too often is given up.
        """
        raw = self._read()
        for number in wanted:
            if number in self._mine or not self._is_free(self._line(raw, number)):
                continue
            if self._lock(number):
                if self._take(number):
                    return number
                self._unlock(number)
        return None

    def _take(self, number: int) -> bool:
        """Write a line whose lock is held as ours, if it is still free."""
        line = self._line(self._read_one(number), 0)
        if line is None or not self._is_free(line):
            return False
        lost = line.lost + (line.state == RUNNING)
        is_given_up = lost > MOST_LOST
        state, code = (FAILED, -signal.SIGKILL) if is_given_up else (RUNNING, 0)
        starts = line.starts + (not is_given_up)
        line = Line(line.run, state, starts, lost, code, self._job, _now())
        self._write(number, line)
        if not is_given_up:
            self._mine[number] = line
        return not is_given_up

    def is_begun_again(self, number: int) -> bool:
        """Whether a held run was begun before."""
        return self._mine[number].starts > 1

    def lines(self) -> dict[int, Line | None]:
        """Read all lines that are there; None stands for one that cannot be read."""
        return dict(enumerate(map(read_line, self._read().splitlines())))

    def free(self, wanted: Sequence[int]) -> list[int]:
        """List those of these lines that this job could claim, were their locks free."""
        raw = self._read()
        return [
            number
            for number in wanted
            if number not in self._mine and self._is_free(self._line(raw, number))
        ]

    def note(self, number: int, state: str, code: int) -> None:
        """Say how a held run ended, and let go of it."""
        line = self._mine.pop(number)
        self._write(number, replace(line, state=state, code=code, time=_now()))
        self._unlock(number)

    def _is_free(self, line: Line | None) -> bool:
        if line is None:
            return False
        if line.state in (RUNNING, KILLED):
            return line.job == self._job
        return line.state in (WAITING, SAVED)

    def _line(self, raw: bytes, number: int) -> Line | None:
        return read_line(raw[number * self._length : (number + 1) * self._length])

    def _read(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def _read_one(self, number: int) -> bytes:
        return os.pread(self._fd, self._length, number * self._length)

    def _write(self, number: int, line: Line) -> None:
        # The board is as wide as its first run; ids of one sweep are equally long.
        width = self._length - len(write_line(Line(""), 0))
        lines = {n: replace(line, run=run) for n, run in self._company.get(number, {}).items()}
        # The first run's line last: after a kill in between, the next claim finds it as it was.
        for n, one in {**lines, number: line}.items():
            os.pwrite(self._fd, write_line(one, width), n * self._length)

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, *self._place(number))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, number: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, *self._place(number))

    def _place(self, number: int) -> tuple[int, int]:
        return self._length, number * self._length


@contextmanager
def open_board(folder: Folder, job: str, company: Company = _NO_COMPANY) -> Iterator[Board]:
    """Open a submission's board for the worker of `job`."""
    fd = os.open(folder.board, os.O_RDWR)
    try:
        yield Board(fd, job, company)
    finally:
        os.close(fd)


def _now() -> int:
    return int(time.time())
