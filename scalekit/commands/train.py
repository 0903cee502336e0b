"""`scalekit train DIR RUN...`: train a run here, in the foreground; exactly what a job calls."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit import errors

if TYPE_CHECKING:
    from scalekit.executors._place import Place
    from scalekit.results.store import SweepFolder
    from scalekit.sweep.spec import RunSpec
    from scalekit.train.stop import StopRequest


def train(  # noqa: PLR0917  # typer reads the options from the signature
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="a run's id, or the start of it")
    ],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads of each process; torch's choice unless given")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="processes that train it; the plan's unless given")
    ] = None,
    no_retry: Annotated[
        bool, typer.Option("--no-retry", help="leave alone those of several runs that failed")
    ] = False,
) -> None:
    """Train a run of a sweep here; started again it carries on where it was.

    A run of several processes is started by one call, which starts itself once for each. Several
    runs that differ in seed, learning rate or weight decay alone train as one batched model.
    """
    from scalekit.executors._place import die_with_launcher, find_place
    from scalekit.executors._team import run_team
    from scalekit.executors.base import count_processes
    from scalekit.results.store import SweepFolder
    from scalekit.sweep.spec import RunSpec

    place = SweepFolder(folder)
    lines = list(place.plan_lines())
    found = [RunSpec.from_json(_find_run(lines, run, folder)) for run in runs]
    specs = list({spec.id: spec for spec in found}.values())
    if len(specs) > 1 and processes not in (None, 1):
        raise errors.UsageError(
            f"--processes {processes}: {len(specs)} runs as one batched model train in one "
            "process; name one run, or leave it out"
        )
    mine = find_place(os.environ)
    n_processes = processes or max(count_processes(spec.resources) for spec in specs)
    if mine is None and n_processes > 1 and len(specs) == 1:
        n_nodes = 1 if processes else int(specs[0].resources.get("nodes") or 1)
        words = _words(folder, specs[0].id, device=device, threads=threads)
        raise typer.Exit(_end_as(run_team(words, n_processes, n_nodes)))
    die_with_launcher()

    from scalekit.train.account import process_seconds
    from scalekit.train.device import keep_freed_memory
    from scalekit.train.stop import StopRequest

    keep_freed_memory()
    if mine is None and device == "auto":
        _tell_of_no_gpu(specs)
    # The age of a process that trains many runs, one after the other, is no run's start-up.
    is_own = "train" in sys.orig_argv
    with StopRequest() as stop:
        since = time.perf_counter() - ((process_seconds() or 0.0) if is_own else 0.0)
        here = _Here(place, device, threads, stop, since, not no_retry)
        is_stack = len(specs) > 1
        statuses = _train_stack(specs, here) if is_stack else _train_one(specs[0], here, mine)
    if "stopped" in statuses:
        interrupted = stop.signal == signal.SIGINT
        raise typer.Exit(errors.INTERRUPTED if interrupted else 128 + signal.SIGTERM)
    if set(statuses) != {"done"}:
        raise typer.Exit(errors.RUNS_FAILED)


def _tell_of_no_gpu(specs: Sequence[RunSpec]) -> None:
    """Say that runs which ask for a GPU go on without: a broken driver looks like no GPU at all."""
    from scalekit.train.device import choose_device

    asking = [spec.id for spec in specs if spec.resources.get("gpus")]
    if asking and choose_device("auto", "float32").torch.type == "cpu":
        print(
            f"run {', '.join(asking)}: resources.gpus asks for a GPU and torch finds none here; "
            "training on the CPU (--device cuda refuses to)",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class _Here:
    """What training in this process needs to know."""

    folder: SweepFolder
    device: str
    threads: int | None
    stop: StopRequest
    since: float
    retries: bool

    def startup_s(self) -> float:
        """Return the seconds since `time.perf_counter` said `since`."""
        return time.perf_counter() - self.since


def _train_one(spec: RunSpec, here: _Here, mine: Place | None) -> list[str]:
    """Train a run as one of its processes; print its status and return it."""
    from scalekit.train.meeting import device_of, join
    from scalekit.train.run import train_run

    where = device_of(mine, here.device, wants_gpu=bool(spec.resources.get("gpus")))
    team = join(mine, where)
    try:
        status = train_run(
            spec,
            here.folder,
            device=where,
            threads=here.threads,
            report=_Reporter() if team.is_first else _silent,
            stop=here.stop,
            team=team,
            startup_s=here.startup_s(),
        )
    except errors.ScalekitError as error:
        if team.is_first:
            raise
        # The first process says it for all, and its exit code is the run's.
        raise typer.Exit(errors.OK) from error
    if not team.is_first:
        raise typer.Exit(errors.OK)
    print(f"{spec.id} {status}")
    return [status]


def _train_stack(specs: Sequence[RunSpec], here: _Here) -> list[str]:
    """Train runs as one batched model; print their statuses and return them."""
    from scalekit.train.stacked_run import train_stack

    statuses = train_stack(
        specs,
        here.folder,
        device=here.device,
        threads=here.threads,
        report=_Reporter(),
        stop=here.stop,
        startup_s=here.startup_s(),
        retries=here.retries,
    )
    for run, status in statuses.items():
        print(f"{run} {status}")
    return list(statuses.values())


def _end_as(code: int) -> int:
    """Return the exit code of a run's processes; die of the signal if a signal it is.

    So ends a run of one process that is told too early: who started it sees that nothing was saved.
    """
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _words(folder: Path, run: str, *, device: str, threads: int | None) -> list[str]:
    """Return the command line of each of a run's processes."""
    words = [sys.executable, "-m", "scalekit", "train", str(folder), run, "--device", device]
    return words if threads is None else [*words, "--threads", str(threads)]


def _silent(line: str) -> None:
    pass


class _Reporter:
    """Show progress on stderr: a line rewritten in place on a terminal, one now and then off it."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._seconds = 0.2 if self._on_terminal else 10.0
        self._last = 0.0

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return
        self._last = now
        end = "\r" if self._on_terminal else "\n"
        print(line.ljust(78), end=end, file=sys.stderr, flush=True)


def _find_run(lines: Iterable[dict[str, Any]], run: str, folder: Path) -> dict[str, Any]:
    ids = []
    matching = []
    for line in lines:
        ids.append(line["id"])
        if line["id"].startswith(run):
            matching.append(line)
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise errors.UsageError(
            f"{folder}: no run {run!r} in the plan; {errors.did_you_mean(run, ids)}"
        )
    raise errors.UsageError(
        f"{folder}: {run!r} starts {len(matching)} runs; give more digits of the id"
    )


COMMAND = train
