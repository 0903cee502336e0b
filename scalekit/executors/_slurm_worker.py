"""What a Slurm job executes: a worker that claims runs and trains them side by side.

Jobs own no runs. Each fills its slots from the board its submission shares, the longest run first,
and takes another when one ends and time is left; so no run waits behind a slow one, and what a job
that ends early did not begin is left to the next. Started by the script that sbatch was given:

    python -m scalekit.executors._slurm_worker FOLDER [PYTHON...]

The words of a profile's interpreter come from there, for runs too: a shell has read them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scalekit.errors import OK, RUNS_FAILED, SYSTEM_TROUBLE
from scalekit.executors._child import signal_group, start_child
from scalekit.executors._slurm_board import (
    CANCELLED,
    DONE,
    FAILED,
    KILLED,
    MOST_LOST,
    SAVED,
    Board,
    Folder,
    Manifest,
    find_company,
    open_board,
)
from scalekit.executors._slurm_self import Self, find_self
from scalekit.executors._slurm_turns import BoardTurns
from scalekit.executors.base import STOPPED
from scalekit.signals import stop_requests

POLL_SECONDS = 0.1
CANCEL_SECONDS = 2.0
"""How often the worker looks for runs that a person cancelled."""

FREE_SECONDS = 2.0
"""How often it reads the board for another run while its own go on: for many that takes long."""

GHOST_SECONDS = 2.0
"""How often it looks whether the lock of its own run, held by an earlier life of it, is free."""

GRACE_SECONDS = 60.0
"""How long a run that a person cancelled may take to save a checkpoint. What the scheduler ends has
the scheduler's time.
"""


@dataclass(frozen=True)
class _Running:
    number: int
    process: subprocess.Popen[bytes]


class Worker:
    """One job's work on its submission."""

    def __init__(
        self, folder: Folder, me: Self, board: Board, manifest: Manifest, python: Sequence[str]
    ) -> None:
        self.folder, self.me, self.board, self.python = folder, me, board, python
        self.header, self.jobs = manifest
        self.runs = [frozenset((job["run"], *job.get("beside", ()))) for job in self.jobs]
        self.pack = self.fresh = int(self.header["pack"])
        self.turns = BoardTurns(self.jobs, Path(self.header["root"]), board)
        self.running: list[_Running] = []
        self.cancelled: frozenset[str] = frozenset()
        self.looked = self.found_none = 0.0
        self.asked: dict[int, float] = {}
        self.unasked: Counter[int] = Counter()  # how often somebody else stopped a run
        self.codes: list[int] = []
        self.is_quiet, self.is_ending = True, False
        limit = self.header["limit_s"]
        self.until = None if limit is None else time.monotonic() + limit - self.header["lead_s"]

    def work(self, signals: Sequence[int]) -> int:
        """Train runs until none is left, the time is over, or a signal asks to stop."""
        try:
            return self._work(signals)
        except OSError as error:
            return self._give_up(error)

    def _work(self, signals: Sequence[int]) -> int:
        while not signals and not self.is_ending:
            self._look_for_cancels()
            self._fill()
            if not self.running:
                if not self._waits_for_itself():
                    break
                time.sleep(GHOST_SECONDS)
            time.sleep(POLL_SECONDS)
            if not signals:
                self._reap(SAVED)
        if signals or self.is_ending:
            return self._stop(f"signal {signals[0]}" if signals else "a node is lost")
        return self._leave(is_asked=False)

    # --- starting and ending runs ------------------------------------------------------------

    def _fill(self) -> None:
        if self.running and time.monotonic() - self.found_none < FREE_SECONDS:
            return
        while len(self.running) < self.pack:
            number = self.board.claim([n for n in self._wanted() if self._fits(n)])
            if number is None:
                self.found_none = time.monotonic()
                return
            self.fresh -= 1
            self._start(number)

    def _wanted(self) -> Iterator[int]:
        """Yield what a worker may take now: not cancelled, and waiting for no other run.

        A branch whose trunk still has to come further is nobody's concern: whoever trains the
        trunk looks for branches when it ends.
        """
        return (
            n for n in range(len(self.jobs)) if not self._is_cancelled(n) and self.turns.is_ready(n)
        )

    def _is_cancelled(self, number: int) -> bool:
        """Whether a person cancelled a run; one of a stack is cancelled with all."""
        return not self.cancelled.isdisjoint(self.runs[number])

    def _fits(self, number: int) -> bool:
        """Whether there is time for a run; the first of a job need not end in it."""
        if self.fresh > 0 or self.until is None:
            return True
        seconds = self.jobs[number]["seconds"]
        if seconds is None:
            return False
        return seconds * self.header["safety"] <= self.until - time.monotonic()

    def _start(self, number: int) -> None:
        job = self.jobs[number]
        self.asked.pop(number, None)
        argv = [*self.python, *self.header["argv"], *job["argv"]]
        if self.board.is_begun_again(number) and len(self.runs[number]) > 1:
            # Of a run alone the board knows that it failed; of one of a stack, its record.
            argv.append("--no-retry")
        log = Path(self.header["root"], job["log"])
        try:
            process = start_child(argv, log, self.header["threads"], {})
        except OSError as error:
            why = f"{error.strerror} ({error.filename})"
            self._trouble(f"{self._name(number)}: cannot be started, {why}")
            self.board.note(number, FAILED, 127)
            self.codes.append(127)
            return
        self.running.append(_Running(number, process))

    def _reap(self, stopped: str) -> None:
        """Note the runs that ended; `stopped` is what those are that saved their state."""
        for one in list(self.running):
            code = one.process.poll()
            is_cancelled = self._is_cancelled(one.number)
            if code is None:
                asked = self.asked.get(one.number)
                if is_cancelled and asked and time.monotonic() - asked > GRACE_SECONDS:
                    signal_group(one.process, signal.SIGKILL)
                continue
            self.running.remove(one)
            self.found_none = 0.0
            self.turns.look_again()
            self.codes.append(code)
            self.unasked[one.number] += one.number not in self.asked
            if code == OK:
                self.board.note(one.number, DONE, code)
            elif is_cancelled:
                self.board.note(one.number, CANCELLED, code)
            elif code in (*STOPPED, -signal.SIGTERM) and self.unasked[one.number] <= MOST_LOST:
                self.board.note(one.number, stopped, code)
            elif code == SYSTEM_TROUBLE and self.me.ask().is_ending:
                self.board.note(one.number, KILLED, code)
                self.is_ending = True
            else:
                self.board.note(one.number, FAILED, code)
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                self._trouble(f"{self._name(one.number)}: {how}")

    def _ask_to_stop(self, one: _Running) -> None:
        self.asked.setdefault(one.number, time.monotonic())
        signal_group(one.process, signal.SIGTERM)

    def _look_for_cancels(self, *, seldom: bool = True) -> None:
        now = time.monotonic()
        if seldom and now - self.looked < CANCEL_SECONDS:
            return
        self.looked = now
        before = {one.number for one in self.running if self._is_cancelled(one.number)}
        self.cancelled = self.folder.read_cancelled()
        for one in self.running:
            if self._is_cancelled(one.number) and one.number not in before:
                self._ask_to_stop(one)

    def _waits_for_itself(self) -> bool:
        """Whether a run is left only because another process holds its lock.

        That is a worker that takes it at this moment, or an earlier life of this job on a node that
        was lost but still works.
        """
        return bool(self.board.free([n for n in self._wanted() if self._fits(n)]))

    # --- leaving -----------------------------------------------------------------------------

    def _stop(self, why: str) -> int:
        """Let the runs save, then leave as the scheduler allows."""
        self._look_for_cancels(seldom=False)
        for one in self.running:
            self._ask_to_stop(one)
        state = self.me.ask()
        left = "" if state.left is None else f", {state.left} s left"
        self.me.say(f"{why}, job {state.word}{left}: saving")
        # A job that is told while it runs makes room or meets its limit, and anyone may go on with
        # its runs. One that is told while Slurm ends it was perhaps cancelled, and only Slurm may
        # say that they go on.
        stopped = SAVED if state.is_running else KILLED
        while self.running:
            self._look_for_cancels()
            self._reap(stopped)
            time.sleep(POLL_SECONDS)
        at_limit = state.left is not None and state.left <= self.header["lead_s"] + 90
        return self._leave(is_asked=True, at_limit=at_limit)

    def _give_up(self, error: OSError) -> int:
        """Let the runs save where the board cannot be used, as on a full disk; do not go back."""
        why = error.strerror or str(error)
        self._trouble(f"{self.folder.board}: cannot be used, {why}; the runs here save and stop")
        for one in self.running:
            self._ask_to_stop(one)
        stopped = SAVED if self.me.ask().is_running else KILLED
        while self.running:
            with suppress(OSError):
                self._reap(stopped)
            time.sleep(POLL_SECONDS)
        return SYSTEM_TROUBLE

    def _leave(self, *, is_asked: bool, at_limit: bool = False) -> int:
        """Requeue this job if runs are left that nobody else would take, and say how it went."""
        self._look_for_cancels(seldom=False)
        left = sum(len(self.runs[number]) for number in self.board.free(list(self._wanted())))
        if not left or (not is_asked and self.me.has_waiting_siblings()):
            return self._code()
        ended = [code for code in self.codes if code not in (-signal.SIGTERM, -signal.SIGKILL)]
        if at_limit and not ended:
            self._trouble(f"no run got anywhere in this job's time; {left} are left, not requeued")
            return RUNS_FAILED
        words = self.me.requeue()
        if words:
            self._trouble(
                f"{left} {'run is' if left == 1 else 'runs are'} left and this job cannot be "
                f"requeued: {words}"
            )
        return self._code()

    def _code(self) -> int:
        is_fine = all(code in (OK, *STOPPED, -signal.SIGTERM) for code in self.codes)
        return OK if is_fine else RUNS_FAILED

    def _name(self, number: int) -> str:
        run, n_beside = self.jobs[number]["run"], len(self.runs[number]) - 1
        return f"{run} and {n_beside} in its stack" if n_beside else run

    def _trouble(self, sentence: str) -> None:
        self.is_quiet = False
        self.me.say(sentence)


def main(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Work on a submission as the job that the environment names."""
    folder = Folder(Path(argv[0]))
    if not folder.board.exists():
        sys.stdout.write(f"{folder.board}: gone, the submission was given up; nothing done\n")
        return OK
    with stop_requests() as signals:
        me = find_self(environment)
        manifest = folder.read()
        with open_board(folder, me.job, find_company(manifest[1])) as board:
            worker = Worker(folder, me, board, manifest, argv[1:])
            code = worker.work(signals)
    if code == OK and worker.is_quiet:
        with suppress(OSError):
            folder.output(me.job).unlink()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
