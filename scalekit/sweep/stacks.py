"""Which runs may train as one batched model, and which do.

Runs of a stack take every step together, on batches of equal shape and with equal numbers of
steps; so they may differ in what enters a step as a number alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.errors import InputError
from scalekit.executors.base import count_processes
from scalekit.sweep.sections import Profile, StackSpeed
from scalekit.sweep.spec import RunSpec

MAY_DIFFER = ("seed", "lr", "weight_decay")
"""Settings of `train` that runs of a stack may differ in; the order of the data is the seed's."""

NEAR = 2.0
"""A measurement counts for models up to so many times larger or smaller."""


@dataclass(frozen=True)
class Group:
    """Runs that train as one batched model.

    Attributes:
        runs: Two of them at least.
        speedup: How many times as fast as one at a time they are by the profile's measurements;
            None where the sweep asks for it and nobody measured.
    """

    runs: tuple[str, ...]
    speedup: float | None = None

    def seconds(self, alone: Iterable[float]) -> float:
        """Return what all take together, from what each takes alone.

        Where nobody measured it, as long as one after the other.
        """
        return sum(alone) / (self.speedup or 1.0)


@dataclass(frozen=True)
class Stacking:
    """Which runs train as one batched model.

    Attributes:
        groups: The stacks.
        alone: Sentences about runs that might have been stacked and are not.
    """

    groups: tuple[Group, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """The most runs that one process trains."""
        return max((len(group.runs) for group in self.groups), default=1)

    @property
    def n_beside(self) -> int:
        """How many processes fewer there are than runs."""
        return sum(len(group.runs) - 1 for group in self.groups)


def plan_stacks(runs: Sequence[RunSpec], profile: Profile | None) -> Stacking:
    """Choose which runs train as one batched model.

    As many together as `resources.stack` says. Its `auto` stacks runs on GPUs alone, and those only
    where the profile holds a measurement of about their size that was faster; on cores a process
    for each run is what pays.
    """
    alone: Counter[str] = Counter()
    groups: list[Group] = []
    for bucket in _alike(runs, alone):
        first, n_alike = bucket[0], len(bucket)
        n_stacks = math.ceil(n_alike / _size(first, profile))
        least = expected_speedup(first, n_alike // n_stacks, profile)
        is_slower = _asked(first) == "auto" and (least or 0.0) <= 1
        if n_alike == 1 or is_slower:
            alone[_why_not(first, n_alike, profile)] += n_alike
            continue
        for i in range(n_stacks):
            part = bucket[i * n_alike // n_stacks : (i + 1) * n_alike // n_stacks]
            speedup = expected_speedup(first, len(part), profile)
            groups.append(Group(tuple(run.id for run in part), speedup))
    said = (f"{n:,} run{'s' * (n != 1)}, {why}" for why, n in alone.items())
    return Stacking(tuple(groups), tuple(said))


def _asked(run: RunSpec) -> Any:
    return run.resources.get("stack", "auto")


def _alike(runs: Sequence[RunSpec], alone: Counter[str]) -> list[list[RunSpec]]:
    """Group the runs that may be stacked; count the others that asked for it by what is wrong."""
    buckets: dict[str, list[RunSpec]] = {}
    for run in runs:
        asked = _asked(run)
        if asked == 1 or (asked == "auto" and not run.resources.get("gpus")):
            continue
        reason = why_alone(run)
        if not reason:
            buckets.setdefault(_key(run), []).append(run)
        elif asked != "auto":
            alone[reason] += 1
    return list(buckets.values())


def _key(run: RunSpec) -> str:
    train = {k: v for k, v in run.config["train"].items() if k not in MAY_DIFFER}
    return json.dumps([{**run.config, "train": train}, run.resources], sort_keys=True)


def expected_speedup(run: RunSpec, n_runs: int, profile: Profile | None) -> float | None:
    """Return how many times as fast so many runs like this one are stacked as one at a time.

    By the profile's measurements of about their size: on straight lines between the numbers of runs
    that were measured, from one on, and as the largest beyond it. None where nobody measured.
    """
    n_below, below = 1, 1.0
    near = sorted(_near(run, profile), key=lambda row: row.runs)
    for row in near:
        if n_runs <= row.runs:
            share = (n_runs - n_below) / (row.runs - n_below)
            return below + (row.speedup - below) * share
        n_below, below = row.runs, row.speedup
    return below if near else None


def _size(run: RunSpec, profile: Profile | None) -> int:
    """Return how many runs like this one to stack at most."""
    asked = _asked(run)
    if asked != "auto":
        return int(asked)
    best = max(_near(run, profile), key=lambda row: row.speedup, default=None)
    return best.runs if best else 1


def _near(run: RunSpec, profile: Profile | None) -> list[StackSpeed]:
    """Return the measurements at the size next to a run's, if that is near enough."""
    rows = (profile.stacks if profile and run.resources.get("gpus") else None) or []
    params = float(run.plan["params"]["non_embedding"])
    distance = {row.params: abs(math.log(row.params / params)) for row in rows}
    nearest = min(distance.values(), default=math.inf)
    return [row for row in rows if distance[row.params] == nearest <= math.log(NEAR)]


def _why_not(run: RunSpec, n_alike: int, profile: Profile | None) -> str:
    if n_alike == 1:
        return "no other differs in seed, lr or weight_decay alone"
    if _near(run, profile):
        return "the profile measured no stack of their size as faster"
    return "the profile holds no measured stack of about their size (stacks)"


def check_alike(specs: Sequence[RunSpec]) -> None:
    """Refuse runs that cannot train as one batched model.

    Raises:
        InputError: One of them differs from the first in something else, or cannot be stacked.
    """
    first = specs[0]
    for spec in specs:
        reason = why_alone(spec)
        if reason:
            raise InputError(f"run {spec.id}: {reason}, so it cannot be stacked; train it alone")
        found = next(_differences(first.config, spec.config), None)
        if found is None and spec.resources != first.resources:
            found = "resources"
        if found:
            keys = ", ".join(f"train.{key}" for key in MAY_DIFFER)
            raise InputError(
                f"run {spec.id}: differs from run {first.id} in {found}, and runs of a stack may "
                f"differ in {keys}; train it alone"
            )


def why_alone(spec: RunSpec) -> str:
    """Say what keeps a run from being stacked with any other; nothing where nothing does."""
    plan, config, resources = spec.plan, spec.config, spec.resources
    optimizer, start = config["train"]["optimizer"], config["start"]
    reasons = {
        "it trains in several processes": count_processes(resources) > 1,
        f"train.optimizer is {optimizer!r}, not 'adamw'": optimizer != "adamw",
        "it is a part of a ladder": plan.get("parent") or plan.get("branches"),
        "it trains adapters": start["run"] is not None and start["method"] == "lora",
        "it computes activations again (resources.recompute)": _asks(resources, "recompute"),
        "it compiles its layers (resources.compile)": _asks(resources, "compile"),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _asks(resources: Mapping[str, Any], key: str) -> bool:
    return (resources.get(key) or "none") != "none"


def _differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for key, value in one.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _differences(value, other[key], f"{name}.")
        elif other[key] != value and name not in {f"train.{k}" for k in MAY_DIFFER}:
            yield name
