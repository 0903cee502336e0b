"""What a sweep's runs have cost together, from the last line of each record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

LOST = {"startup_s": "start-up", "eval_s": "evaluation", "checkpoint_s": "checkpoints"}
"""What time goes into beside training, by the record's field."""

SHARES = ("device_s", "wall_s", "startup_s", "stack")
"""What `count_devices` takes, as the record calls it."""


@dataclass(frozen=True)
class Spending:
    """Sums and middles over runs; a figure that no run has is None.

    Attributes:
        device_s: Seconds of devices, of the runs that have ended.
        lost_s: Of these, by `LOST`; only of runs that say it.
        energy_j: Of the runs whose energy is known.
        n_energy: How many those are.
        mfu: The median.
        tokens_per_second: The median.
        peak_memory_bytes: Of the run that took most.
    """

    device_s: float
    lost_s: Mapping[str, float]
    energy_j: float | None
    n_energy: int
    mfu: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None


def add_up(ends: Iterable[Mapping[str, Any]]) -> Spending:
    """Add up the end lines of runs.

    >>> add_up([{"device_s": 9.0, "eval_s": 1.0, "energy_j": None}, {"device_s": 1.0}]).lost_s
    {'eval_s': 1.0}
    """
    ends = list(ends)
    columns = {
        name: [float(end[name]) for end in ends if isinstance(end.get(name), int | float)]
        for name in ("device_s", "energy_j", "mfu", "tokens_per_second", "peak_memory_bytes")
    }
    for name in LOST:
        columns[name] = [
            _number(end, name) * count_devices(**{key: _number(end, key) for key in SHARES})
            for end in ends
            if isinstance(end.get(name), int | float)
        ]
    energy = columns["energy_j"]
    middles = {k: median(columns[k]) if columns[k] else None for k in ("mfu", "tokens_per_second")}
    return Spending(
        device_s=sum(columns["device_s"]),
        lost_s={name: sum(columns[name]) for name in LOST if columns[name]},
        energy_j=sum(energy) if energy else None,
        n_energy=len(energy),
        mfu=middles["mfu"],
        tokens_per_second=middles["tokens_per_second"],
        peak_memory_bytes=max(columns["peak_memory_bytes"], default=None),
    )


def count_devices(
    device_s: float, wall_s: float, startup_s: float, stack: float = math.nan
) -> float:
    """Return the mean number of devices that stood still while a run lost time; one if unknown.

    What it lost is in seconds of the clock: all its devices waited, or, of one that processes
    share, its own part. Replicas of a stack wait for each other, so that what one of them lost the
    device lost; their clock's time is that of the whole stack, and the start-up their share.

    >>> count_devices(device_s=88.0, wall_s=10.0, startup_s=1.0)
    8.0
    >>> count_devices(device_s=5.5, wall_s=10.0, startup_s=1.0)
    0.5
    >>> count_devices(device_s=6.0, wall_s=10.0, startup_s=1.0, stack=2)
    1.0
    """
    held = (wall_s / stack if stack > 1 else wall_s) + startup_s
    return device_s / held if held > 0 and math.isfinite(device_s) else 1.0


def _number(end: Mapping[str, Any], name: str) -> float:
    value = end.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def describe_lost(share: Mapping[str, float]) -> str:
    """Say what share of the time went into what beside training.

    >>> describe_lost({"startup_s": 0.25, "checkpoint_s": 0.004})
    '25 % start-up, 0.4 % checkpoints'
    """
    return ", ".join(
        f"{100 * share[name]:.2g} % {word}" for name, word in LOST.items() if name in share
    )
