"""How long runs take, what they need and cost, and where the estimate comes from."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scalekit.counting import memory_bytes
from scalekit.executors.base import count_processes
from scalekit.quantities import write_duration
from scalekit.sweep.cost import Cost, cost_runs
from scalekit.sweep.sections import Profile
from scalekit.sweep.spec import RunSpec, adapters_of, own_share, shape_of
from scalekit.sweep.stacks import Stacking

# FLOP/s of one AVX-512 core by non-embedding params, float32 and one thread: the smallest from
# isoFLOP sweeps of 3k to 300k params, the others from a plain GPT's forward and backward pass.
_CORE_FLOPS = ((3e4, 15e9), (2e5, 32e9), (1e6, 48e9), (3e6, 60e9), (3e7, 70e9))

# A process of its own that imports torch: 1.3 s on a free core, 2 to 3 s where all cores work.
# Twenty runs of 0.3 s took 70 s. One that opens a GPU takes longer, which nobody measured yet.
_START_SECONDS = 2.0

ASSUMED_MFU = 0.4
"""The share of a GPU's peak that is assumed where a profile gives the peak alone."""


@dataclass(frozen=True)
class Speed:
    """How fast this sweep's runs start and train.

    Attributes:
        factor: On the speed that is assumed for training.
        start_seconds: What a run takes before it trains.
        n_measured: On how many finished runs both were measured; none, where they are assumed.
    """

    factor: float = 1.0
    start_seconds: float = field(default_factory=lambda: _START_SECONDS)
    n_measured: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a set of runs is expected to take.

    Attributes:
        n_runs: How many they are.
        device_seconds: Summed over runs and over the GPUs of each (its cores where it has none);
            None if unknown.
        wall_seconds: The same with `at_once` runs at a time; None if unknown.
        at_once: Runs, or stacks, at a time.
        source: What the estimate rests on, as a sentence.
        memory_gb: Of the largest run, or the largest stack where it is larger: weights, gradients
            and moments of what learns, and one batch's activations.
        cost: Money, energy and disk.
    """

    n_runs: int
    device_seconds: float | None
    wall_seconds: float | None
    at_once: int
    source: str
    memory_gb: float
    cost: Cost


def expected_seconds(
    run: RunSpec, profile: Profile | None = None, speed: Speed | None = None
) -> float | None:
    """Return the seconds a run takes, its start included; None for a GPU whose peak nobody gave.

    By assumption alone where no speed is given.
    """
    training, speed = _training_seconds(run, profile), speed or Speed()
    return None if training is None else speed.start_seconds + training / speed.factor


def _training_seconds(run: RunSpec, profile: Profile | None) -> float | None:
    flops = float(run.plan["flops"]["exact"]) * own_share(run.plan)
    gpus = _gpus(run)
    if not gpus:
        cores = count_processes(run.resources)
        return flops / (cores * _core_flops(float(run.plan["params"]["non_embedding"])))
    if profile is None or profile.peak_flops is None:
        return None
    return flops / (gpus * profile.peak_flops * (profile.mfu or ASSUMED_MFU))


def _core_flops(params: float) -> float:
    """Interpolate in log-log; outside the measured range the nearest value stands."""
    low = _CORE_FLOPS[0]
    if params <= low[0]:
        return low[1]
    for high in _CORE_FLOPS[1:]:
        if params <= high[0]:
            share = math.log(params / low[0]) / math.log(high[0] / low[0])
            return low[1] * (high[1] / low[1]) ** share
        low = high
    return low[1]


@dataclass(frozen=True)
class Took:
    """The seconds that a finished run held its place: its start's, and those after it."""

    start: float
    training: float


def measured_speed(finished: Sequence[tuple[RunSpec, Took]], profile: Profile | None) -> Speed:
    """Compare the seconds that finished runs took with what was assumed for them.

    Their starts are measured apart: small runs end first, and by what a start takes beside their
    training larger ones would be judged many times too slow.
    """
    pairs = [(_training_seconds(run, profile), took) for run, took in finished]
    known = [(assumed, took) for assumed, took in pairs if assumed and took.training > 0]
    if not known:
        return Speed()
    # Sums, not a mean of ratios: the shortest runs say the least of the speed.
    factor = sum(assumed for assumed, _ in known) / sum(took.training for _, took in known)
    return Speed(factor, sum(took.start for _, took in known) / len(known), len(known))


def estimate_runs(
    runs: Sequence[RunSpec],
    *,
    at_once: int,
    profile: Profile | None,
    speed: Speed,
    stacking: Stacking,
) -> Estimate:
    """Estimate a set of runs, `at_once` of them, or of their stacks, at a time.

    The longest start first, and branches no sooner than their trunk has come to their step.
    """
    side_by_side = at_once * stacking.largest
    memory = _largest_gb(runs, stacking)
    seconds = [expected_seconds(run, profile, speed) for run in runs]
    known = [s for s in seconds if s is not None]
    if len(known) < len(runs):
        source = "no time: give peak_flops in the profile to estimate the runs on GPUs"
        cost = cost_runs(runs, None, at_once=side_by_side, profile=profile)
        return Estimate(len(runs), None, None, at_once, source, memory, cost)
    jobs, known = _jobs(runs, known, stacking, speed)
    total = sum(s * count_processes(run.resources) for s, run in zip(known, jobs, strict=True))
    on_gpus = sum(s * _gpus(run) for s, run in zip(known, jobs, strict=True))
    cost = cost_runs(runs, on_gpus, at_once=side_by_side, profile=profile)
    wall = _wall(jobs, known, at_once)
    return Estimate(len(runs), total, wall, at_once, _source(runs, speed), memory, cost)


def with_estimates(runs: Iterable[RunSpec], profile: Profile | None) -> tuple[RunSpec, ...]:
    """Write into each run's plan the seconds that are assumed, by which the longest start first.

    What finished runs showed is left out, so that a plan on disk does not change with them.
    """
    return tuple(
        replace(run, plan={**run.plan, "estimate": expected_seconds(run, profile)}) for run in runs
    )


def _gpus(run: RunSpec) -> int:
    return int(run.resources.get("gpus") or 0)


def _jobs(
    runs: Sequence[RunSpec], seconds: Sequence[float], stacking: Stacking, speed: Speed
) -> tuple[list[RunSpec], list[float]]:
    """Let the first run of each stack stand for all, with the seconds that they take together.

    They are one process, which is started once.
    """
    alone = {run.id: s for run, s in zip(runs, seconds, strict=True)}
    start = speed.start_seconds
    for group in stacking.groups:
        first, *beside = group.runs
        together = [alone[first], *map(alone.pop, beside)]
        alone[first] = start + group.seconds([s - start for s in together])
    return [run for run in runs if run.id in alone], list(alone.values())


def _wall(runs: Sequence[RunSpec], seconds: Sequence[float], at_once: int) -> float:
    """Return when the last of the runs ends that wait for a place, and branches for their trunk."""
    branches: dict[str, list[int]] = {}
    planned = {run.id for run in runs}
    ready = []
    for n, run in enumerate(runs):
        parent = run.plan.get("parent")
        if parent in planned:
            branches.setdefault(parent, []).append(n)
        else:  # that of a branch may have been trained before
            heapq.heappush(ready, (-seconds[n], n))
    ends = [0.0] * max(1, min(at_once, len(runs)))
    waiting: list[tuple[float, int]] = []
    while ready or waiting:
        now = ends[0] if ready else max(ends[0], waiting[0][0])
        while waiting and waiting[0][0] <= now:
            n = heapq.heappop(waiting)[1]
            heapq.heappush(ready, (-seconds[n], n))
        n = heapq.heappop(ready)[1]
        heapq.heapreplace(ends, now + seconds[n])
        for branch in branches.get(runs[n].id, ()):
            share = runs[branch].plan["branch_step"] / runs[n].plan["steps"]
            heapq.heappush(waiting, (now + seconds[n] * share, branch))
    return max(ends)


def _source(runs: Sequence[RunSpec], speed: Speed) -> str:
    if speed.n_measured:
        n = speed.n_measured
        said = f"measured on {n} finished run{'s' * (n > 1)} of this sweep"
        start = write_duration(speed.start_seconds)
        return f"{said}, {speed.factor:.2g} times the speed assumed before, {start} to start a run"
    start = f"{_START_SECONDS:g}s to start a run"
    if any(_gpus(run) for run in runs):
        known = "assumed from the profile's peak FLOP/s and utilisation"
        return f"{known}, {start}, nothing measured yet"
    slow, fast = _CORE_FLOPS[0][1] / 1e9, _CORE_FLOPS[-1][1] / 1e9
    assumed = f"{slow:.0f} to {fast:.0f} GFLOP/s a core by size, {start}"
    return f"assumed {assumed}, nothing measured here yet"


def _largest_gb(runs: Sequence[RunSpec], stacking: Stacking) -> float:
    needs = {run.id: need for run, need in zip(runs, memory_gb(runs), strict=True)}
    stacks = (sum(needs[run] for run in group.runs) for group in stacking.groups)
    return max([*needs.values(), *stacks], default=0.0)


def memory_gb(runs: Iterable[RunSpec]) -> list[float]:
    """Estimate the memory of each run, holding a whole batch at once."""
    known: dict[tuple[Any, ...], float] = {}
    needs = []
    for run in runs:
        model, batch = run.config["model"], run.config["train"]["batch_tokens"]
        # Runs of one shape share the mapping, so its id will do: ten thousand runs are few shapes.
        adapters = adapters_of(run.config)
        key = (id(model), batch, *adapters.values())
        if key not in known:
            needed = memory_bytes(shape_of(model), batch_tokens=batch, **adapters)
            known[key] = sum(needed) / 1e9
        needs.append(known[key])
    return needs
