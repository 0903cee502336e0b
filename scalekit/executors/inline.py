"""Runs one after the other inside this process: for debuggers, and where no process may start."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from scalekit.executors._process import process_handle, process_state, stop_process
from scalekit.executors._team import nodes_for
from scalekit.executors._turns import Turns
from scalekit.executors.base import STOPPED, Job, JobState, Placed, Settings, Watch


class Inline:
    """Each job's command line, executed in this interpreter; output goes where ours goes."""

    in_foreground = True

    def __init__(self, settings: Settings) -> None:
        self.threads = settings.threads or 1

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse runs of more nodes than there are; a run decides on its device itself.

        Raises:
            InputError: There is such a run.
        """
        for job in jobs:
            nodes_for(int(job.resources.get("nodes") or 1))

    def start(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Run the jobs in the order given, but each after the one that it waits for.

        Raises:
            KeyboardInterrupt: A run was interrupted; it saved its state first.
        """
        turns, queue = Turns(), list(jobs)
        while (job := next(filter(turns.is_ready, queue), None)) is not None:
            queue.remove(job)
            if not watch.is_wanted(job):
                turns.dropped(job.run)
                continue
            watch.started([job], process_handle(os.getpid()))
            # stdout is for the result of the command that started it.
            with redirect_stdout(sys.stderr):
                code = run_here([*job.argv, "--threads", str(self.threads)])
            watch.ended(job, code)
            turns.ended(job.run, code)
            watch.tick()
            if code in STOPPED:
                raise KeyboardInterrupt

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        """Say of every process whether it still runs."""
        return [process_state(handle) for _, handle in placed]

    def release(self, placed: Sequence[Placed]) -> list[str]:
        """Do nothing: no process is ever held back."""
        return []

    def cancel(self, placed: Sequence[Placed]) -> list[str]:
        """Ask every process that still runs to save and stop."""
        # Not its group, which is the command's own and may hold the rest of a shell's pipeline.
        told = (stop_process(handle, group=False) for _, handle in placed)
        return [sentence for sentence in told if sentence]


def run_here(argv: Sequence[str]) -> int:
    """Execute a Python command line (`python -m module ...`, `python file ...`) in this process.

    Returns:
        Its exit code.
    """
    _, *words = argv
    is_module = words[0] == "-m"
    name, *rest = words[1:] if is_module else words
    before = sys.argv
    sys.argv = [name, *rest]
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return 0


EXECUTOR = Inline
