"""`scalekit cancel DIR [RUN...]`: ask a sweep's runs to save their state and stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._standing import match_run, open_sweep
from scalekit.errors import SystemTroubleError
from scalekit.executors._process import stop_process
from scalekit.quantities import count_words
from scalekit.results.jobs import JobLog
from scalekit.results.live import Live, ask_executors
from scalekit.results.states import read_state

_OVER = ("done", "diverged", "pruned")
"""Ends after which a run is begun again as a new one only."""


def cancel(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="ids or their beginnings; all where none is named"),
    ] = None,
) -> None:
    """Ask runs to save their state and stop; the sweep command starts them again later."""
    place, lines = open_sweep(folder)
    ids = [line["id"] for line in lines]
    named = {match_run(place, ids, word) for word in runs or ()}
    # A run that is over stops nothing, not even the stack that goes on without it.
    named = {run for run in named if read_state(place.record(run)).status not in _OVER}
    live = ask_executors(place).live if named or not runs else ()
    stacks = [one.submission.stack_of(run) for one in live for run in named & one.runs]
    named = named.union(*stacks)
    concerned = {run for one in live for run in one.runs} & (named or set(ids))
    if not concerned:
        print(f"{folder}: none of these runs is being executed", file=sys.stderr)
        return
    # Written first: a command that is about to start one of them sees it.
    JobLog(place, "cancel").write("cancel", runs=sorted(concerned))
    troubles = [sentence for one in live for sentence in _stop(one, named)]
    if troubles:
        raise SystemTroubleError(f"{folder}: {'; '.join(sorted(set(troubles)))}")
    asked = count_words(len(concerned), "run")
    print(f"asked {asked} to save and stop; the sweep command continues them")


def _stop(live: Live, named: set[str]) -> list[str]:
    if not named and live.command:
        # The command stops its own runs and waits for them.
        told = stop_process(live.command, group=False)
        return [told] if told else []
    return live.executor.cancel(
        [(run, handle) for run, handle in live.handles.items() if not named or run in named]
    )


COMMAND = cancel
