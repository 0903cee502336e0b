"""What the scheduler says of submissions: one squeue, and one sacct for what has left the queue.

Both are asked by the submissions' names, which are unique, never by job numbers, which are used
again; so a job of another time or another person is never taken for ours.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scalekit.errors import SystemTroubleError

ASK_SECONDS = 60.0
"""How long a scheduler that is busy may take to answer."""

_HELD_BACK = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_AT_WORK = (
    *("RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING"),
    *("SIGNALING", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD"),
)
_NOT_LAUNCHED = "launch_failed_requeued_held"

_WHERE = ("SLURM_CONF", "SLURM_CLUSTERS")
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMIX_", "PMI_")
_OF_A_PERSON = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
"""Of what a person likes to see: a partition named there would hide the jobs of others from us."""
_ASKED = {
    # 64 characters of an array's pending elements are the default.
    "SLURM_BITSTR_LEN": "0",
    # Jobs of partitions that a site hides are shown to those who ask for all.
    "SQUEUE_ALL": "1",
    "SCONTROL_ALL": "1",
}
_OF_A_RANK = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Row:
    """Jobs of one array in one state.

    Attributes:
        name: The submission's name.
        array: The array's number.
        elements: First and last index of each range of elements; empty for a job that is no array.
        state: Slurm's word, without what may follow it.
        why: Its reason or exit code.
    """

    name: str
    array: str
    elements: tuple[tuple[int, int], ...]
    state: str
    why: str = ""

    def holds(self, job: str) -> bool:
        """Say whether the job that the board calls `job` is among these."""
        array, _, index = job.partition("_")
        if array != self.array:
            return False
        if not index:
            return not self.elements
        return any(first <= int(index) <= last for first, last in self.elements)

    @property
    def is_alive(self) -> bool:
        """Whether these jobs hold or await resources."""
        return self.state in _HELD_BACK or self.is_at_work

    @property
    def is_held(self) -> bool:
        """Whether Slurm could not launch these jobs and waits for a person to release them."""
        return self.is_alive and self.why.replace(" ", "_") == _NOT_LAUNCHED

    @property
    def jobs(self) -> list[str]:
        """What Slurm's commands call each of these jobs."""
        return [f"{self.array}_{i}" for a, b in self.elements for i in range(a, b + 1)] or [
            self.array
        ]

    @property
    def is_at_work(self) -> bool:
        """Whether processes of these jobs may be at work."""
        return self.state in _AT_WORK


def call(argv: Sequence[str], *, text: str | None = None, seconds: float = ASK_SECONDS) -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises:
        SystemTroubleError: It is not there, refuses, or does not answer; in its own words.
    """
    if shutil.which(argv[0]) is None:
        raise SystemTroubleError(
            f"{argv[0]}: not found, so this is no login node of a Slurm cluster; run it on one, or "
            "choose another executor with -e local"
        )
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**outside_a_job(os.environ), **_ASKED},
        )
    except subprocess.TimeoutExpired as error:
        raise SystemTroubleError(
            f"{argv[0]}: no answer in {seconds:g} s; try again when the scheduler is less busy"
        ) from error
    if done.returncode:
        raise SystemTroubleError(f"{argv[0]}: {own_words(done.stderr, argv[0])}")
    return done.stdout


def outside_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what describes the job that this process is in: a job submitted here would take it.

    So goes what a person likes Slurm's commands to show. What says where the cluster is stays;
    submitit's own `clean_env` takes that away too.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _WHERE or not (name.startswith(_OF_A_JOB + _OF_A_PERSON) or name in _OF_A_RANK)
    }


def own_words(stderr: str, program: str) -> str:
    """Return what a command of Slurm complained of, in one line and without its prefixes."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [re.sub(rf"^({program}: )?((fatal|error): )?", "", line) for line in lines]
    return "; ".join(dict.fromkeys(lines)) or "it failed without a word"


def ask_queue(names: Iterable[str], users: Iterable[str]) -> list[Row]:
    """Ask for every job of these submissions that waits, runs, or ended minutes ago.

    Raises:
        SystemTroubleError: squeue is not there or does not answer.
    """
    argv = ["squeue", "-h", "-t", "all", "-u", ",".join(sorted(set(users)))]
    said = call([*argv, f"--name={','.join(names)}", "-o", "%j|%F|%K|%T|%r"])
    return [row for line in said.splitlines() if (row := _queue_row(line)) is not None]


def _queue_row(line: str) -> Row | None:
    fields = line.split("|", 4)
    if len(fields) < 5:
        return None
    name, array, elements, state, why = fields
    return Row(name, array, read_elements(elements), state, why)


def ask_accounting(names: Iterable[str], users: Iterable[str], since: float) -> list[Row]:
    """Ask for every job of these submissions, however long ago it ended.

    Args:
        names: Of the submissions.
        users: Who submitted them.
        since: When the first was submitted, seconds since 1970.

    Raises:
        SystemTroubleError: There is no accounting here, or it does not answer.
    """
    # A day's grace for clocks and time zones that differ; the names are unique anyway.
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 86400))
    argv = ["sacct", "-X", "-n", "-P", "-S", begin, "-u", ",".join(sorted(set(users)))]
    said = call([*argv, f"--name={','.join(names)}", "-o", "JobName,JobID,State,ExitCode"])
    return [row for line in said.splitlines() if (row := _accounting_row(line)) is not None]


def _accounting_row(line: str) -> Row | None:
    fields = line.split("|")
    if len(fields) < 4 or "." in fields[1]:
        return None
    name, job, state, code = fields
    array, _, elements = job.partition("_")
    # `CANCELLED by 1000`
    return Row(name, array, read_elements(elements.strip("[]")), state.partition(" ")[0], code)


def read_elements(text: str) -> tuple[tuple[int, int], ...]:
    """Read which elements of an array a row speaks of.

    >>> read_elements("4,6,8-20%2"), read_elements("0-8:4"), read_elements("N/A")
    (((4, 4), (6, 6), (8, 20)), ((0, 0), (4, 4), (8, 8)), ())
    """
    ranges: list[tuple[int, int]] = []
    for part in text.partition("%")[0].split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part.strip())
        if found is None:
            continue
        first, last, step = (int(group) if group else None for group in found.groups())
        assert first is not None
        last = first if last is None else last
        if step in (None, 1):
            ranges.append((first, last))
        else:
            ranges += [(i, i) for i in range(first, last + 1, step)]
    return tuple(ranges)
