"""Runs as subprocesses of this command: a bounded pool, longest first, GPUs dealt out as slots."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._child import signal_group, start_child
from scalekit.executors._process import process_handle, process_state, stop_process
from scalekit.executors._turns import Turns
from scalekit.executors.base import (
    STOPPED_BY_SIGTERM,
    Job,
    JobState,
    Placed,
    Settings,
    Watch,
    count_processes,
)
from scalekit.signals import stop_requests

GRACE_SECONDS = 60.0
"""How long runs that were asked to stop may take to save a checkpoint."""

POLL_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

DEVICES = Path("/dev")


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]


class Local:
    """A bounded pool of subprocesses.

    Every run has its own process group, so that a signal to the pool reaches a run only when the
    pool decides so. On a machine with GPUs every run gets at least one; with `pack` as many runs
    share a GPU.

    The number of threads is the same whatever the number of runs: sums are taken in another order
    with other threads, and a resumed run would differ in its last bits.
    """

    in_foreground = True

    def __init__(self, settings: Settings, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self.threads = settings.threads or 1
        self._turns = Turns()
        self.gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._max_parallel = settings.max_parallel
        self._by_cores = max(1, (cores or 1) // self.threads)

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse runs that need more GPUs than this machine shows.

        Raises:
            InputError: There is such a run, or one of several nodes.
        """
        for job in jobs:
            nodes = int(job.resources.get("nodes") or 1)
            if nodes > 1:
                raise InputError(
                    f"run {job.run}: {nodes} nodes asked and this is one machine; lower "
                    "resources.nodes, or take executor: {kind: slurm}"
                )
            asked = int(job.resources.get("gpus") or 0)
            if asked > len(self.gpus):
                raise InputError(
                    f"run {job.run}: {asked} GPUs asked but this machine shows {len(self.gpus)}; "
                    "lower resources.gpus or run it elsewhere"
                )

    def start(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Run the jobs to their ends; on a signal, ask those that run to save and stop.

        Raises:
            SystemTroubleError: A process or its log cannot be started.
            KeyboardInterrupt: A signal came, or a run was interrupted from outside.
        """
        queue = sorted(jobs, key=lambda job: (-(job.seconds or 0.0), -job.flops))
        running: list[_Running] = []
        self._turns = Turns()
        free = dict.fromkeys(self.gpus, Fraction(1))
        # nohup ignores SIGHUP, and so do we then.
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        with stop_requests(heard) as requests:
            try:
                while (queue or running) and not requests:
                    self._fill(queue, running, free, watch)
                    self._reap(running, free, watch)
                    watch.tick()
                    if running:
                        time.sleep(POLL_SECONDS)
            finally:
                self._stop(running, free, watch, requests)
            if requests:
                raise KeyboardInterrupt

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        """Say of every process whether it still runs."""
        return [process_state(handle) for _, handle in placed]

    def release(self, placed: Sequence[Placed]) -> list[str]:
        """Do nothing: no process is ever held back."""
        return []

    def cancel(self, placed: Sequence[Placed]) -> list[str]:
        """Ask every process that still runs to save and stop."""
        told = (stop_process(handle, group=True) for _, handle in placed)
        return [sentence for sentence in told if sentence]

    @property
    def max_parallel(self) -> int:
        """How many runs may run at a time."""
        if self._max_parallel is not None:
            return self._max_parallel
        # With GPUs the slots are the bound; cores are not what runs wait for.
        return 10**6 if self.gpus else self._by_cores

    def _fill(
        self,
        queue: list[Job],
        running: list[_Running],
        free: dict[str, Fraction],
        watch: Watch,
    ) -> None:
        """Start jobs while there is room; a job that does not fit lets smaller ones pass."""
        for job in list(queue):
            if len(running) >= self.max_parallel or not self._has_cores(job, running):
                return
            if self._turns.is_hopeless(job):
                queue.remove(job)
                continue
            gpus = _fitting(job, free)
            if gpus is None or not self._turns.is_ready(job):
                continue
            queue.remove(job)
            if not watch.is_wanted(job):
                self._turns.dropped(job.run)
                continue
            process = self._spawn(job, gpus)
            for gpu in gpus:
                free[gpu] -= _share(job)
            running.append(_Running(job, process, gpus))
            watch.started([job], process_handle(process.pid))

    def _has_cores(self, job: Job, running: Sequence[_Running]) -> bool:
        """Whether every process of a job would have its cores, where cores are what jobs share."""
        if self._max_parallel is not None or self.gpus or not running:
            return True
        taken = sum(count_processes(one.job.resources) for one in running)
        return taken + count_processes(job.resources) <= self._by_cores

    def _spawn(self, job: Job, gpus: tuple[str, ...]) -> subprocess.Popen[bytes]:
        variables = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self.gpus else {}
        try:
            return start_child(job.argv, job.log, self.threads, variables)
        except OSError as error:
            raise SystemTroubleError(
                f"run {job.run}: cannot be started, {error.strerror} ({error.filename}); mend that "
                "and run the same command again, it continues"
            ) from error

    def _reap(self, running: list[_Running], free: dict[str, Fraction], watch: Watch) -> None:
        for one in list(running):
            code = one.process.poll()
            if code is None:
                continue
            # A run that is asked to stop while it still imports has no handler yet, and dies of it.
            if code == -signal.SIGTERM:
                code = STOPPED_BY_SIGTERM
            running.remove(one)
            for gpu in one.gpus:
                free[gpu] += _share(one.job)
            watch.ended(one.job, code)
            self._turns.ended(one.job.run, code)

    def _stop(
        self,
        running: list[_Running],
        free: dict[str, Fraction],
        watch: Watch,
        requests: Sequence[int],
    ) -> None:
        """Ask what still runs to save and stop, and kill what does not in time."""
        for one in running:
            signal_group(one.process, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_seconds
        while running:
            # A second request means: now.
            if time.monotonic() > deadline or len(requests) > 1:
                for one in running:
                    signal_group(one.process, signal.SIGKILL)
            self._reap(running, free, watch)
            watch.tick()
            if running:
                time.sleep(POLL_SECONDS)


def visible_gpus() -> tuple[str, ...]:
    """List the GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        names = [name.strip() for name in told.split(",") if name.strip()]
        # CUDA ignores what follows the first invalid name.
        return tuple(names[: names.index("-1")] if "-1" in names else names)
    found = (path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*"))
    # CUDA counts what it may use from zero: in a container nvidia3 alone is its number 0.
    return tuple(str(number) for number, _ in enumerate(filter(str.isdigit, found)))


def _share(job: Job) -> Fraction:
    """Return the part of each of its GPUs that a job takes."""
    packs = int(job.resources.get("gpus") or 0) <= 1
    return Fraction(1, int(job.resources.get("pack") or 1)) if packs else Fraction(1)


def _fitting(job: Job, free: Mapping[str, Fraction]) -> tuple[str, ...] | None:
    """Choose GPUs for a job: the fullest that still fit, so that whole ones stay for large runs."""
    if not free:
        return ()
    wanted = max(1, int(job.resources.get("gpus") or 0))
    fitting = sorted((room, gpu) for gpu, room in free.items() if room >= _share(job))
    return tuple(gpu for _, gpu in fitting[:wanted]) if len(fitting) >= wanted else None


EXECUTOR = Local
