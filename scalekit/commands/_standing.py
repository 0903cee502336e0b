"""How a sweep stands: its plan, the tails of its records, and what its executors still hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scalekit.errors import InputError, UsageError, did_you_mean
from scalekit.executors.base import JobState
from scalekit.quantities import count_words
from scalekit.results.live import Standing
from scalekit.results.states import STATES, RunState, scan_states, with_job
from scalekit.results.store import SweepFolder
from scalekit.results.trunks import with_trunk


def open_sweep(root: Path) -> tuple[SweepFolder, list[dict[str, Any]]]:
    """Return a sweep's folder and its plan: of each run the `id` and the `plan`.

    The configs of ten thousand runs would take most of the memory.

    Raises:
        InputError: Not a sweep's folder, or a plan that cannot be read.
    """
    folder = SweepFolder(root)
    lines = [{"id": line["id"], "plan": line["plan"]} for line in folder.plan_lines()]
    if not lines:
        raise InputError(f"{folder.plan_file}: no runs in it; run the sweep command again")
    return folder, lines


def read_states(
    folder: SweepFolder, lines: Iterable[Mapping[str, Any]], jobs: Mapping[str, JobState]
) -> dict[str, RunState]:
    """Say of every planned run where it stands, by its record and its job."""
    plans = {line["id"]: line["plan"] for line in lines}
    records = scan_states(folder, plans)
    states = {run: with_job(state, jobs.get(run)) for run, state in records.items()}
    return {run: with_trunk(run, plans[run], folder, states) for run in states}


def is_alive(standing: Standing, states: Mapping[str, RunState]) -> bool:
    """Whether anything of a sweep is being executed, or will be without anyone doing anything."""
    return bool(standing.live) or any(state.status == "running" for state in states.values())


def is_local(standing: Standing) -> bool:
    """Whether no scheduler has to be asked where what lives is."""
    return all(one.executor.in_foreground for one in standing.live)


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
    return f"{count_words(total, 'run')}: " + ", ".join(f"{n} {word}" for word, n in counts.items())


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
