"""What runs cost beside time: money and energy by a site's prices and powers, and disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.counting import count_state
from scalekit.sweep.sections import Profile
from scalekit.sweep.spec import RunSpec, adapters_of, shape_of

# Bytes on average of the 40 runs of the quickstart: a run's plan line with the header, attempt and
# end of its record; a step line, which an evaluation's resembles.
_RUN_BYTES, _LINE_BYTES = 4300, 200

_CHECKPOINT_BYTES = 12
"""A number that learns, in a checkpoint: itself in float32 and AdamW's two moments."""

_CHECKPOINTS = 3
"""Of a run at a time: the last two, and the one that is being written."""

_WEIGHTS_BYTES = 4
"""A number in the last weights that a run keeps, and one in a checkpoint that does not learn."""


@dataclass(frozen=True)
class Cost:
    """What a set of runs costs; None is unknown, by the profile or for want of a time.

    Attributes:
        gpu_hours: Of the runs on GPUs.
        price: In `currency`.
        kwh: Of the GPUs, times the site's PUE where the profile has one.
        kg_co2e: Of that energy.
        disk_gb: Plan and records, weights that are kept, and the checkpoints of the runs that go
            side by side, with those that trunks leave for their branches.
        missing: What the profile would have to say for the rest to be known.
    """

    gpu_hours: float | None
    price: float | None
    currency: str
    kwh: float | None
    kg_co2e: float | None
    disk_gb: float
    missing: tuple[str, ...] = ()


def cost_runs(
    runs: Sequence[RunSpec], gpu_seconds: float | None, *, at_once: int, profile: Profile | None
) -> Cost:
    """Cost a set of runs.

    Args:
        runs: The runs.
        gpu_seconds: Summed over the GPUs of each; None if unknown, 0 where none has any.
        at_once: Runs that go side by side.
        profile: The site's prices and powers.
    """
    site, disk = profile or Profile(), disk_gb(runs, at_once)
    if gpu_seconds is None:
        return Cost(None, None, site.currency, None, None, disk, ("peak_flops",))
    hours = gpu_seconds / 3600
    if not hours:
        return Cost(0.0, None, site.currency, None, None, disk)
    wanted = ("price_per_gpu_hour", "gpu_watts", "grid_intensity")
    price = None if site.price_per_gpu_hour is None else hours * site.price_per_gpu_hour
    kwh = None if site.gpu_watts is None else hours * site.gpu_watts / 1e3 * (site.pue or 1.0)
    grams = site.grid_intensity
    co2 = None if kwh is None or grams is None else kwh * grams / 1e3
    missing = tuple(key for key in wanted if getattr(site, key) is None)
    return Cost(hours, price, site.currency, kwh, co2, disk, missing)


def disk_gb(runs: Iterable[RunSpec], at_once: int) -> float:
    """Estimate what a sweep's folder takes while the largest runs go side by side."""
    known: dict[tuple[Any, ...], tuple[int, int]] = {}
    written, sizes = 0.0, []
    for run in runs:
        model, log = run.config["model"], run.config["log"]
        # Runs of one shape share the mapping, so its id will do: ten thousand runs are few shapes.
        adapters = adapters_of(run.config)
        key = (id(model), *adapters.values())
        if key not in known:
            known[key] = count_state(shape_of(model), **adapters)
        learns, stays = known[key]
        size = _CHECKPOINT_BYTES * learns + _WEIGHTS_BYTES * stays
        # A trunk is through before most of its branches have begun.
        sizes.append(size * (_CHECKPOINTS + len(run.plan.get("branches", ()))))
        if log.get("keep_weights"):
            written += _WEIGHTS_BYTES * int(run.plan["params"]["total"])
        lines = int(run.plan["steps"]) / log["every"] + (log.get("evals") or 0)
        written += _RUN_BYTES + _LINE_BYTES * lines
    largest = sum(sorted(sizes, reverse=True)[:at_once])
    return (written + largest) / 1e9
