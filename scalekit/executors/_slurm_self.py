"""A job's view of itself: its name, state and time left, what it says, how it goes back."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

ASK_SECONDS = 10.0
"""A job that is being killed has no longer than that to learn why."""

PATIENCE_SECONDS = 60.0
"""How long a controller is asked again where a job would otherwise not go back to the queue: at a
time limit all jobs of a sweep ask it at once.
"""

PAUSE_SECONDS = 2.0
"""How long it is left alone in between."""

TRIES = 3
"""How often a job asks to go back where it was perhaps not heard."""

_UNHEARD = re.compile(
    r"timed out|unable to contact|communication|zero bytes|(send|receive) failure|standby"
    r"|temporarily|try again",
    re.IGNORECASE,
)
"""Slurm's words for a controller that is busy or away; any others are its answer."""


@dataclass(frozen=True)
class SelfState:
    """What the scheduler says of the job that asks: its state, and the seconds left if known."""

    word: str
    left: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether the scheduler still lets the job run, so that it may requeue itself."""
        return self.word == "RUNNING"

    @property
    def is_ending(self) -> bool:
        """Whether the job comes to its end: a run notices before its worker that a node is gone."""
        return self.word not in ("RUNNING", "UNKNOWN")


@dataclass(frozen=True)
class Self:
    """This job.

    Attributes:
        job: Its name on the board and for scontrol: `123_4` for element 4 of the array 123.
        raw: Its own number.
        array: The array it belongs to, or None.
    """

    job: str
    raw: str
    array: str | None

    def ask(self, patience: float = 0.0) -> SelfState:
        """Ask where this job stands; `UNKNOWN` when nobody answers for so many seconds."""
        until = time.monotonic() + patience
        while True:
            said = _call(["squeue", "-a", "-h", "-t", "all", "-j", self.raw, "-o", "%A|%T|%L"])
            for line in (said or "").splitlines():
                raw, word, left = line.split("|")
                if raw == self.raw:
                    return SelfState(word, read_left(left))
            if time.monotonic() >= until:
                return SelfState("UNKNOWN")
            time.sleep(PAUSE_SECONDS)

    def has_waiting_siblings(self) -> bool:
        """Whether other jobs of the array are still to start."""
        if self.array is None:
            return False
        return bool(_call(["squeue", "-a", "-h", "-t", "PENDING", "-j", self.array, "-o", "%F"]))

    def requeue(self) -> str | None:
        """Put this job back into the queue, unless it is being ended; return why not, or None.

        A job that someone cancelled would come to life again, so it is asked first each time: also
        a request that failed on its way back may have been heard.
        """
        words = ""
        for _ in range(TRIES):
            state = self.ask(PATIENCE_SECONDS)
            if not state.is_running:
                return None if state.is_ending else words or "the scheduler does not answer"
            try:
                subprocess.run(
                    ["scontrol", "requeue", self.job],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_SECONDS,
                    check=True,
                )
            except subprocess.CalledProcessError as error:
                words = error.stderr.strip() or f"exit code {error.returncode}"
            except (OSError, subprocess.TimeoutExpired) as error:
                words = str(error)
            else:
                return None
            if not _UNHEARD.search(words):
                break
            time.sleep(PAUSE_SECONDS)
        return words

    def say(self, sentence: str) -> None:
        """Print a sentence into the output of this job."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        with suppress(OSError):  # a full disk takes no words either
            sys.stdout.write(f"{now} job {self.job}: {sentence}\n")
            sys.stdout.flush()


def find_self(environment: Mapping[str, str]) -> Self:
    """Read from the environment which job this is."""
    raw = environment["SLURM_JOB_ID"]
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = raw if array is None else f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return Self(job, raw, array)


def read_left(text: str) -> int | None:
    """Read a duration as squeue writes it.

    >>> read_left("1-02:03:04"), read_left("9:58"), read_left("UNLIMITED")
    (93784, 598, None)
    """
    days, _, rest = text.rpartition("-")
    try:
        seconds = 0
        for part in rest.split(":"):
            seconds = 60 * seconds + int(part)
        return seconds + 86400 * int(days or 0)
    except ValueError:
        return None


def _call(argv: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
