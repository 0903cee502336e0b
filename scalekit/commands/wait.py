"""`scalekit wait DIR`: return when nothing of a sweep is running any more."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scalekit.commands._standing import (
    count_states,
    counts_sentence,
    find_live,
    open_sweep,
    read_states,
)
from scalekit.errors import NOT_FINISHED
from scalekit.executors._progress import Count, Progress
from scalekit.results.states import TROUBLES, RunState, verdict
from scalekit.results.store import SweepFolder

POLL_SECONDS = 1.0


def wait(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="seconds after which to give up")
    ] = None,
) -> None:
    """Wait until nothing of a sweep is executed any more, and exit with how it ended."""
    place, lines = open_sweep(folder)
    deadline = None if timeout is None else time.monotonic() + timeout
    states = read_states(place, lines)
    with Progress(lambda: _count(lines, states)) as progress:
        while verdict(states.values()) == NOT_FINISHED and _is_alive(place, states):
            if deadline is not None and time.monotonic() >= deadline:
                print(f"{folder}: still at work after {timeout:g} s", file=sys.stderr)
                break
            time.sleep(POLL_SECONDS)
            states = read_states(place, lines)
            progress.tick()
    code = verdict(states.values())
    print(f"{folder}: {counts_sentence(count_states(states))}")
    if code == NOT_FINISHED and not _is_alive(place, states):
        print("nothing is running; run the sweep command again, it continues", file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _is_alive(folder: SweepFolder, states: Mapping[str, RunState]) -> bool:
    return any(s.status == "running" for s in states.values()) or bool(find_live(folder))


def _count(lines: Sequence[Mapping[str, Any]], states: Mapping[str, RunState]) -> Count:
    words = [state.status for state in states.values()]
    total = done = 0.0
    for line in lines:
        plan, state = line["plan"], states[line["id"]]
        flops = plan["flops"][plan["flops_kind"]]
        total += flops
        share = 1.0 if state.is_finished else min(1.0, state.step / plan["steps"])
        done += flops * share
    return Count(
        done=words.count("done") + words.count("pruned"),
        running=words.count("running"),
        failed=sum(words.count(word) for word in TROUBLES),
        total=len(words),
        flops_done=done,
        flops_total=total,
    )


COMMAND = wait
