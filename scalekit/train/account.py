"""What a run has cost so far: seconds by what they went into, energy, and memory.

All are running totals over a run's attempts, in the `spent` line of each checkpoint, once more when
a run is stopped, and in the end line; an attempt that is killed is known up to the last of these.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import torch

from scalekit.results.record import RunRecord
from scalekit.train.device import Device
from scalekit.train.energy import open_team_meter
from scalekit.train.team import SOLO, Team

Loss = Literal["eval_s", "checkpoint_s"]

P = ParamSpec("P")
R = TypeVar("R")


class HasAccount(Protocol):
    """What carries an account: a job."""

    @property
    def account(self) -> Account:
        """The account."""
        ...


J = TypeVar("J", bound=HasAccount)


def spends(
    loss: Loss,
) -> Callable[[Callable[Concatenate[J, P], R]], Callable[Concatenate[J, P], R]]:
    """Put the seconds that a function takes on the account of the job that it is given first."""

    def decorate(function: Callable[Concatenate[J, P], R]) -> Callable[Concatenate[J, P], R]:
        @wraps(function)
        def timed(job: J, *args: P.args, **options: P.kwargs) -> R:
            began = time.perf_counter()
            try:
                return function(job, *args, **options)
            finally:
                job.account.lose(loss, time.perf_counter() - began)

        return timed

    return decorate


@dataclass
class Pauses:
    """Seconds that a process spent on something other than training, for whichever of its runs."""

    seconds: float = 0.0


class Account:
    """The running totals of one run, from the beginning of an attempt on.

    Args:
        device: Where the run computes.
        before: What earlier attempts wrote.
        since: When `time.perf_counter` says that the attempt began.
        packed: Processes that share the GPU. Each takes an equal share of it, and of its energy.
        team: The processes that train the run, each with a device of its own.
        replicas: Runs that this process began to train as one model. Each takes an equal share of
            its start-up, its device and the energy, to its end, also where another ends before it.
        pauses: What they have in common: while one is measured or saved, none trains.

    Attributes:
        device_share: Devices that are the run's own; replicas, and what shares a GPU, have a part.
        process_share: Devices of the process that trains it, whose replicas' it is as well.
    """

    def __init__(
        self,
        device: Device,
        before: RunRecord | None,
        *,
        since: float,
        packed: int = 1,
        team: Team = SOLO,
        replicas: int = 1,
        pauses: Pauses | None = None,
    ) -> None:
        self.device, self.replicas, n_devices = device, replicas, team.size
        on_gpu = device.torch.type == "cuda"  # what is packed onto a CPU has cores of its own
        self.process_share = n_devices / packed if on_gpu else float(n_devices)
        self.device_share = self.process_share / replicas
        self._since = since
        self._began: float | None = None
        self._first_step_s: float | None = None
        self._known = _last_known(before)
        self._started_before = self._startup_devices(before, n_devices)
        self._lost = {"eval_s": 0.0, "checkpoint_s": 0.0}
        self._pauses = pauses or Pauses()
        self._paused_before = 0.0
        self._is_alone = team.size == 1
        self._meter = open_team_meter(device, team, packed=packed, replicas=replicas)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device.torch)

    def begin(self) -> None:
        """End the start-up: from here on the run trains, and `wall_s` counts."""
        self._began = time.perf_counter()
        self._paused_before = self._pauses.seconds

    def end_first_step(self) -> None:
        """Note what the attempt's first step took, with all that comes with it.

        It compiles and warms up; and a stack's first step waits until all its runs have begun.
        """
        if self._first_step_s is None:
            self._first_step_s = self.training_seconds()

    def lose(self, loss: Loss, seconds: float) -> None:
        """Count seconds that went into something other than training."""
        self._lost[loss] += seconds
        self._pauses.seconds += seconds

    def startup_seconds(self) -> float:
        """Return the run's share of the seconds that starting took, of this attempt."""
        return ((self._began or time.perf_counter()) - self._since) / self.replicas

    def startup_device_seconds(self) -> float:
        """Return what starting held of devices, of all attempts, each with its own processes."""
        return self._started_before + self.startup_seconds() * self.process_share

    def _startup_devices(self, before: RunRecord | None, n_devices: int) -> float:
        starts = [
            (float(a.get("startup_s") or 0.0), int(a.get("processes") or n_devices))
            for a in (before.attempts if before else ())
        ]
        told = sum(seconds * n for seconds, n in starts) / n_devices
        # Of an attempt that ended before its line only the seconds are known.
        untold = self._known["startup_s"] - sum(seconds for seconds, _ in starts)
        return (told + untold) * self.process_share

    def training_seconds(self) -> float:
        """Return the seconds that this attempt trained for, nothing else."""
        began = time.perf_counter() if self._began is None else self._began
        paused = self._pauses.seconds - self._paused_before
        return max(0.0, time.perf_counter() - began - paused)

    def steady(self, steps: int) -> tuple[int, float]:
        """Return of how many of an attempt's steps the speed is known, and the seconds they took.

        The first is left out where there are others.
        """
        seconds = self.training_seconds()
        if steps > 1 and self._first_step_s is not None:
            return steps - 1, seconds - self._first_step_s
        return steps, seconds

    def read_energy(self) -> None:
        """Read the counter, more often than checkpoints ask: a package's is full in a minute.

        The processes of a team have to ask together, here and for the totals.
        """
        if self._meter is not None:
            self._meter.joules()

    def energy_by(self) -> str | None:
        """Say whose counter the energy of this attempt is from; None where there is none."""
        return self._meter.by if self._meter else None

    def totals(self, *, has_failed: bool = False) -> dict[str, Any]:
        """Return the totals of all attempts, as fields of a record's line.

        `energy_j` is None where an attempt's is not known: a part is not passed off as the whole.

        Args:
            has_failed: Whether this process failed. Others of its team then answer no more.
        """
        known = self._known
        can_ask = self._is_alone or not has_failed
        energy = self._meter.joules() if self._meter and can_ask else None
        before = known["energy_j"]
        return {
            "startup_s": known["startup_s"] + self.startup_seconds(),
            "eval_s": known["eval_s"] + self._lost["eval_s"],
            "checkpoint_s": known["checkpoint_s"] + self._lost["checkpoint_s"],
            "energy_j": None if energy is None or before is None else before + energy,
            "peak_memory_bytes": max(known["peak_memory_bytes"], self._peak_memory()),
        }

    def _peak_memory(self) -> int:
        """Return what tensors took at most on a GPU, or this process's memory at most on a CPU."""
        if self.device.torch.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device.torch)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _last_known(before: RunRecord | None) -> dict[str, Any]:
    """Return the totals that earlier attempts are known to have reached.

    Start-up stands in the attempt lines too, so that one killed before its first checkpoint counts;
    one that failed before it had such a line has told it at its end.
    """
    last: Mapping[str, Any] = before.spent if before else {}
    attempts = before.attempts if before else ()
    starts = sum(float(a.get("startup_s") or 0.0) for a in attempts)
    measured = all(a.get("energy_by") for a in attempts)
    return {
        "startup_s": max(starts, last.get("startup_s") or 0.0),
        "eval_s": last.get("eval_s") or 0.0,
        "checkpoint_s": last.get("checkpoint_s") or 0.0,
        "energy_j": (last.get("energy_j", 0.0) if measured else None),
        "peak_memory_bytes": last.get("peak_memory_bytes") or 0,
    }


def process_seconds() -> float | None:
    """Return the age of this process in seconds; None where the system does not tell."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        # The name in brackets may hold spaces; the start in ticks is the 20th field after it.
        ticks = int(stat.rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
