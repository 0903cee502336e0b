"""How a sweep stands: its plan, the tails of its records, and what its executors still hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.errors import InputError, UsageError, did_you_mean
from scalekit.executors._process import process_state
from scalekit.executors.base import Executor, Handle, Settings
from scalekit.results.jobs import Submission, read_submissions
from scalekit.results.states import STATES, RunState, scan_states
from scalekit.results.store import SweepFolder


@dataclass(frozen=True)
class Live:
    """A submission of which something still lives.

    Attributes:
        command: The handle of the sweep command, where it still runs and starts runs itself.
        handles: By run, those that the executor still holds.
    """

    submission: Submission
    executor: Executor
    command: Handle | None
    handles: Mapping[str, Handle]

    @property
    def runs(self) -> set[str]:
        """Runs that are being executed or will be without anyone doing anything."""
        waiting = set(self.submission.intent["runs"]) - set(self.submission.codes)
        return waiting if self.command else set(self.handles)


def find_live(folder: SweepFolder) -> list[Live]:
    """Find the submissions of which something still lives; each executor is asked once."""
    found = []
    for submission in read_submissions(folder):
        kind = submission.intent["executor"]
        executor = registry.find("executors", kind)(Settings(folder=folder.root / kind))
        command = submission.intent["command"]
        works = (
            executor.in_foreground
            and not submission.is_closed
            and process_state(command).word != "gone"
        )
        handles = submission.open_handles
        states = executor.states(list(handles.values()))
        # What cannot be known, on another machine, is taken to live as long as its command may.
        held = {
            run: handle
            for (run, handle), state in zip(handles.items(), states, strict=True)
            if state.is_alive or (state.word == "unknown" and works)
        }
        if works or held:
            found.append(Live(submission, executor, command if works else None, held))
    return found


def last_codes(folder: SweepFolder) -> dict[str, int]:
    """Return by run the exit code of its last job that ended under someone's eyes."""
    codes: dict[str, int] = {}
    for submission in read_submissions(folder):
        codes |= submission.codes
    return codes


def open_sweep(root: Path) -> tuple[SweepFolder, list[dict[str, Any]]]:
    """Return a sweep's folder and its plan.

    Raises:
        InputError: Not a sweep's folder, or a plan that cannot be read.
    """
    folder = SweepFolder(root)
    lines = list(folder.plan_lines())
    if not lines:
        raise InputError(f"{folder.plan_file}: no runs in it; run the sweep command again")
    return folder, lines


def read_states(folder: SweepFolder, lines: Iterable[Mapping[str, Any]]) -> dict[str, RunState]:
    """Say of every planned run where it stands."""
    return scan_states(folder, [line["id"] for line in lines])


def count_states(states: Mapping[str, RunState]) -> dict[str, int]:
    """Count the runs by state, in the order of `STATES`, leaving out what does not occur."""
    words = [state.status for state in states.values()]
    return {word: words.count(word) for word in STATES if word in words}


def counts_sentence(counts: Mapping[str, int]) -> str:
    """Say the counts in one line.

    >>> counts_sentence({"done": 3, "failed": 1})
    '4 runs: 3 done, 1 failed'
    """
    total = sum(counts.values())
    return f"{total} runs: " + ", ".join(f"{n} {word}" for word, n in counts.items())


def match_run(folder: SweepFolder, ids: Iterable[str], word: str) -> str:
    """Find the run whose id begins so.

    Raises:
        UsageError: None does, or several do.
    """
    known = list(ids)
    found = [run for run in known if run.startswith(word)]
    if word in known or len(found) == 1:
        return word if word in known else found[0]
    if not found:
        raise UsageError(f"{folder.root}: no run {word!r} in the plan; {did_you_mean(word, known)}")
    raise UsageError(f"{folder.root}: {word!r} begins {len(found)} ids; give more of its digits")
