"""`scalekit logs DIR RUN`: what a run printed; `--failed` shows the end of every failure."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._standing import match_run, open_sweep, read_states
from scalekit.errors import InputError, UsageError
from scalekit.results.live import ask_executors
from scalekit.results.record import read_record
from scalekit.results.states import TROUBLES, RunState, read_state
from scalekit.results.store import SweepFolder

FOLLOW_SECONDS = 0.2
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
        jobs = ask_executors(place).jobs
        _show_failures(place, read_states(place, lines, jobs), n_lines)
        return
    if run is None:
        raise UsageError("logs: no run is named; give the beginning of its id, or --failed")
    found = match_run(place, ids, run)
    path = _log(place, found)
    if not path.exists() and not follow:
        state = read_state(place.record(found)).status
        raise InputError(f"{path}: no log, the run is {state}; a run has one once it was started")
    for text in tail(path, n_lines):
        sys.stdout.write(text)
    if follow:
        _follow(place, found)


def _log(folder: SweepFolder, run: str) -> Path:
    """Return where a run's output is: of one that trained in a stack, the log of its first."""
    path = folder.log(run)
    if path.exists() or not folder.record(run).exists():
        return path
    try:
        attempts = read_record(folder.record(run), steps=False).attempts
    except InputError:
        return path
    stack = attempts[-1].get("stack") if attempts else None
    return folder.log(stack[0]) if stack else path


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


def _follow(folder: SweepFolder, run: str) -> None:
    """Print what the run adds, until it is finished or was stopped."""
    path = _log(folder, run)
    at = path.stat().st_size if path.exists() else 0
    while True:
        # The state first: what is printed before the end is then never missed.
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
        time.sleep(FOLLOW_SECONDS)


def _show_failures(folder: SweepFolder, states: Mapping[str, RunState], n_lines: int) -> None:
    found = 0
    for run, state in states.items():
        crashed = state.status == "stopped" and state.why
        if state.status not in TROUBLES and not crashed:
            continue
        found += 1
        print(f"==> {run} {state.status}" + (f", {state.why}" if state.why else ""))
        if state.last.get("error"):
            print(state.last["error"])
        text = "".join(tail(_log(folder, run), n_lines))
        print(text if text.endswith("\n") or not text else text + "\n", end="")
    if not found:
        print(f"{folder.root}: no run failed", file=sys.stderr)


COMMAND = logs
