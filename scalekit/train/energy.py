"""The energy that a run draws, from counters of the hardware; unknown where there are none.

A GPU's counter is NVML's, a CPU's is RAPL's of its packages; what else a machine draws (memory,
fans, network, the CPU beside a GPU) neither of them sees. Where several share a device a run is
given a share: of a GPU one over the runs that are packed onto it, of a CPU its part of all the CPU
time that the machine was busy for. Replicas that one process trains as one model share alike; of
processes that train one run each reads its own, and the run's is their sum.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

from scalekit.train.device import Device
from scalekit.train.team import Team

RAPL = Path("/sys/class/powercap")
STAT = Path("/proc/stat")

MOST_WATTS = 1000.0
"""More than one CPU package draws: a counter that it could have filled since is not trusted."""


class Counter(Protocol):
    """A device's counter of energy."""

    @property
    def by(self) -> str:
        """Return whose counter it is, for the record."""
        ...

    def joules(self) -> float | None:
        """Return the energy since some moment in the past; None where it cannot be known."""
        ...


class Meter:
    """A run's share of what a counter counts, from the moment that the meter is made.

    Args:
        counter: What counts.
        share: Called at each reading for the run's share since the one before.
    """

    def __init__(self, counter: Counter, share: Callable[[], float]) -> None:
        self.by = counter.by
        self._counter, self._share = counter, share
        self._last, self._total = counter.joules(), 0.0

    def joules(self) -> float | None:
        """Return the run's energy so far, or None from the first reading on that failed."""
        now, share = self._counter.joules(), self._share()
        if now is None or self._last is None:
            self._last = None
            return None
        self._total += (now - self._last) * share
        self._last = now
        return self._total


class TeamMeter:
    """What the processes of a team draw together; they must all ask, in the same order.

    Args:
        own: This process's meter.
        team: The team, of more than one.
    """

    def __init__(self, own: Meter, team: Team) -> None:
        self.by = own.by
        self._own, self._team = own, team

    def joules(self) -> float | None:
        """Return the run's energy so far, or None from the first reading on that failed in one."""
        own = self._own.joules()
        every = self._team.gather(torch.tensor([math.nan if own is None else own]).double())
        total = float(every.sum())
        return None if math.isnan(total) else total


def open_team_meter(
    device: Device, team: Team, *, packed: int = 1, replicas: int = 1
) -> Meter | TeamMeter | None:
    """Return a meter of all processes' energy, or None where one of them can read no counter."""
    own = open_meter(device, packed=packed, replicas=replicas)
    if team.size == 1:
        return own
    have = bool(team.gather(torch.tensor([float(own is not None)])).all())
    return TeamMeter(own, team) if own is not None and have else None


def open_meter(device: Device, *, packed: int = 1, replicas: int = 1) -> Meter | None:
    """Return a meter of this device's energy, or None where no counter can be read.

    Args:
        device: Where the run computes.
        packed: Processes that share the GPU.
        replicas: Runs that share this process.
    """
    if device.torch.type == "cuda":
        counter = open_nvml(device.torch)
        return Meter(counter, lambda: 1.0 / (packed * replicas)) if counter else None
    counter = open_rapl()
    if counter is None:
        return None
    share = _CpuShare()
    return Meter(counter, lambda: share() / replicas)


@dataclass(frozen=True)
class Nvml:
    """NVML's counter of one GPU, in mJ since its driver was loaded; from Volta on."""

    nvml: Any
    handle: Any
    by = "NVML"

    def joules(self) -> float | None:
        """Return the reading."""
        try:
            return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3
        except self.nvml.NVMLError:
            return None


def open_nvml(device: torch.device) -> Nvml | None:
    """Find the counter of a CUDA device; None without nvidia-ml-py, or on a part of a GPU (MIG)."""
    try:
        pynvml: Any = import_module("pynvml")  # by name: a type checker need not find it
    except ImportError:
        return None
    properties = torch.cuda.get_device_properties(device)
    if "MIG" in properties.name:
        return None
    uuid = "GPU-" + str(properties.uuid).removeprefix("GPU-")
    try:
        pynvml.nvmlInit()
        counter = Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:
        return None
    return counter if counter.joules() is not None else None


class Rapl:
    """The counters of all CPU packages, in microjoules; each begins again when it is full."""

    by = "RAPL"

    def __init__(self, packages: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ranges = {p: int((p / "max_energy_range_uj").read_text()) for p in packages}
        self._last = {p: self._read(p) for p in packages}
        self._at, self._total = clock(), 0

    def joules(self) -> float | None:
        """Return the reading, or None when a counter may have been full twice since the last."""
        now = self._clock()
        too_long = min(self._ranges.values()) / 1e6 / MOST_WATTS
        is_lost, self._at = now - self._at > too_long, now
        try:
            for package, before in self._last.items():
                self._last[package] = self._read(package)
                self._total += (self._last[package] - before) % self._ranges[package]
        except (OSError, ValueError):
            return None
        return None if is_lost else self._total / 1e6

    @staticmethod
    def _read(package: Path) -> int:
        return int((package / "energy_uj").read_text())


def open_rapl() -> Rapl | None:
    """Find the CPU packages' counters; None where the kernel has none or lets only root read."""
    try:
        packages = [
            zone
            for zone in sorted(RAPL.glob("intel-rapl:*"))
            if (zone / "name").read_text().startswith("package")
        ]
        return Rapl(packages) if packages else None
    except (OSError, ValueError):
        return None


class _CpuShare:
    """This process's part of the CPU time that the machine was busy for, since the last call."""

    def __init__(self) -> None:
        self._own, self._busy = time.process_time(), busy_seconds()

    def __call__(self) -> float:
        own, busy = time.process_time(), busy_seconds()
        spent, passed = own - self._own, busy - self._busy
        self._own, self._busy = own, busy
        # The kernel counts in ticks, so what is busy may lag behind.
        return min(1.0, spent / passed) if passed > 0 else 1.0


def busy_seconds() -> float:
    """Return the CPU seconds that this machine was busy for since it started."""
    line = STAT.read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
