"""`scalekit logs DIR RUN`: what a run printed; `--failed` shows the end of every failure."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._standing import match_run, open_sweep, read_states
from scalekit.errors import InputError, UsageError
from scalekit.results.jobs import Submission, read_submissions
from scalekit.results.live import ask_executors
from scalekit.results.states import TROUBLES, RunState, read_state
from scalekit.results.store import SweepFolder

FOLLOW_SECONDS = 0.2

ASK_SECONDS = 15.0
"""How often an executor is asked whether it still has a run that has not begun."""

_CHUNK = 65536


def logs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="a run's id, or its beginning")
    ] = None,
    n_lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="how many last lines")] = 20,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="go on until the run has ended")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="the last lines of every run that failed or crashed")
    ] = False,
) -> None:
    """Show the last lines that a run printed."""
    place, lines = open_sweep(folder)
    ids = [line["id"] for line in lines]
    if failed:
        if run is not None or follow:
            raise UsageError("logs: --failed goes with neither RUN nor -f; drop one of them")
        _show_failures(place, read_states(place, lines, ask_executors(place).jobs), n_lines)
        return
    if run is None:
        raise UsageError("logs: no run is named; give the beginning of its id, or --failed")
    found = match_run(place, ids, run)
    path = _log(place, read_submissions(place), found)
    if not path.exists() and not (follow and _is_coming(place, found)):
        state = read_state(place.record(found)).status
        raise InputError(f"{path}: no log, the run is {state}; a run has one once it was started")
    for text in tail(path, n_lines):
        sys.stdout.write(text)
    if follow:
        _follow(path, place, found)


def _log(folder: SweepFolder, submissions: Sequence[Submission], run: str) -> Path:
    """Return where a run's newest output is: of a stack it is in the log of its first."""
    newest = (one for one in reversed(submissions) if run in one.intent["runs"])
    paths = [folder.log(one.stack_of(run)[0]) for one in newest]
    return next((path for path in paths if path.exists()), (*paths, folder.log(run))[0])


def tail(path: Path, n_lines: int) -> Iterator[str]:
    """Return the last lines of a file without reading the rest of it; nothing if it is absent."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end and data.count(b"\n") <= n_lines:
                start = max(0, end - _CHUNK)
                file.seek(start)
                data, end = file.read(end - start) + data, start
    except FileNotFoundError:
        return
    for line in data.splitlines(keepends=True)[-n_lines:]:
        yield line.decode("utf-8", errors="replace")


def _is_coming(folder: SweepFolder, run: str) -> bool:
    """Whether someone executes a run, or will without anyone doing anything."""
    return any(run in live.runs for live in ask_executors(folder).live)


def _follow(path: Path, folder: SweepFolder, run: str) -> None:
    """Print what is added to a log until the run is finished or was stopped, or nobody has it."""
    at = path.stat().st_size if path.exists() else 0
    asked, coming = float("-inf"), True
    state = read_state(folder.record(run))
    while True:
        if state.status == "pending" and time.monotonic() - asked >= ASK_SECONDS:
            asked, coming = time.monotonic(), _is_coming(folder, run)
        # The state is read before the log, so that nothing printed before the end is missed.
        state = read_state(folder.record(run))
        if path.exists():
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            at += len(data)
            sys.stdout.write(data.decode("utf-8", errors="replace"))
            sys.stdout.flush()
        if state.is_finished or state.status in ("stopped", "unreadable"):
            return
        if state.status == "pending" and not coming:
            print(f"run {run}: pending, and nothing is to start it", file=sys.stderr)
            return
        time.sleep(FOLLOW_SECONDS)


def _show_failures(folder: SweepFolder, states: Mapping[str, RunState], n_lines: int) -> None:
    found, submissions = 0, read_submissions(folder)
    for run, state in states.items():
        if state.status not in TROUBLES and not state.crashed:
            continue
        found += 1
        print(f"==> {run} {state.status}" + (f", {state.why}" if state.why else ""))
        if state.last.get("error"):
            print(state.last["error"])
        text = "".join(tail(_log(folder, submissions, run), n_lines))
        print(text if text.endswith("\n") or not text else text + "\n", end="")
    if not found:
        print(f"{folder.root}: no run failed", file=sys.stderr)


COMMAND = logs
