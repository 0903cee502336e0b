"""Which runs may train as one batched model, and which do.

Runs of a stack take every step together, on batches of equal shape and with equal numbers of
steps; so they may differ in what enters a step as a number alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalekit.errors import InputError
from scalekit.executors.base import count_processes
from scalekit.sweep.spec import RunSpec

MAY_DIFFER = ("seed", "lr", "weight_decay")
"""Settings of `train` that runs of a stack may differ in; the order of the data is the seed's."""


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
    plan, config = spec.plan, spec.config
    if count_processes(spec.resources) > 1:
        return "it trains in several processes"
    if config["train"]["optimizer"] != "adamw":
        return f"train.optimizer is {config['train']['optimizer']!r}, not 'adamw'"
    if plan.get("parent") or plan.get("branches"):
        return "it is a part of a ladder"
    if config["start"]["run"] is not None and config["start"]["method"] == "lora":
        return "it trains adapters"
    if (spec.resources.get("recompute") or "none") != "none":
        return "it computes activations again (resources.recompute)"
    return ""


def _differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for key, value in one.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _differences(value, other[key], f"{name}.")
        elif other[key] != value and name not in {f"train.{k}" for k in MAY_DIFFER}:
            yield name
