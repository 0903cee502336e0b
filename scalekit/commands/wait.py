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
    is_alive,
    is_local,
    open_sweep,
    read_states,
)
from scalekit.errors import NOT_FINISHED
from scalekit.executors._progress import Count, Progress
from scalekit.results.live import Standing, ask_executors
from scalekit.results.states import TROUBLES, RunState, verdict
from scalekit.sweep.spec import own_share, share_done

POLL_SECONDS = 1.0
LEAST_QUEUE_SECONDS, MOST_QUEUE_SECONDS = 2.0, 30.0


def wait(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="seconds after which to give up")
    ] = None,
) -> None:
    """Wait until nothing of a sweep is executed any more, and exit with how it ended."""
    place, lines = open_sweep(folder)
    deadline = None if timeout is None else time.monotonic() + timeout
    began = asked = time.monotonic()
    standing = ask_executors(place)
    states = read_states(place, lines, standing.jobs)
    with Progress(lambda: _count(lines, states)) as progress:
        while verdict(states.values()) == NOT_FINISHED and is_alive(standing, states):
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                print(f"{folder}: still at work after {timeout:g} s", file=sys.stderr)
                break
            time.sleep(POLL_SECONDS)
            if now - asked >= _patience(standing, now - began):
                asked, standing = now, ask_executors(place)
            states = read_states(place, lines, standing.jobs)
            progress.tick()
    code = verdict(states.values())
    print(f"{folder}: {counts_sentence(count_states(states))}")
    if code == NOT_FINISHED and not is_alive(standing, states):
        print("nothing is running; run the sweep command again, it continues", file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _patience(standing: Standing, waited: float) -> float:
    """Return the seconds between questions: a scheduler, whom many ask, is asked ever less."""
    if is_local(standing):
        return 0.0
    return min(MOST_QUEUE_SECONDS, max(LEAST_QUEUE_SECONDS, waited / 10))


def _count(lines: Sequence[Mapping[str, Any]], states: Mapping[str, RunState]) -> Count:
    words = [state.status for state in states.values()]
    total = done = 0.0
    for line in lines:
        plan, state = line["plan"], states[line["id"]]
        flops = plan["flops"][plan["flops_kind"]] * own_share(plan)
        total += flops
        share = 1.0 if state.is_finished else share_done(plan, state.step)
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
