"""One trunk, many points: the rungs of a ladder as one run and the branches that cool down from it.

The longest rung is the trunk: it is trained as it stands, and saves its state where each shorter
rung's plateau ends. A shorter rung begins there and trains its cooldown alone. A rung keeps the
configuration of a run by itself, so its id and its numbers are those of an uninterrupted run.

Source: Haegele et al. 2024, arXiv:2405.18392.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from scalekit.config.nodes import Node
from scalekit.config.problems import Problems
from scalekit.quantities import write_count
from scalekit.sweep.axes import read_grid
from scalekit.sweep.keys import HORIZON, SPANS
from scalekit.sweep.point import RunProblemError
from scalekit.sweep.spec import RunSpec, own_share
from scalekit.sweep.sweep_spec import Axis

_LENGTH = frozenset(["train.tokens", "train.steps", *SPANS.values()])
"""What rungs differ in."""

_ENDLESS = ("constant", "inverse_sqrt")
"""Schedules under which a run is the beginning of every longer one."""


@dataclass(frozen=True)
class Saving:
    """What the ladders of a sweep save.

    Attributes:
        flops: Training FLOPs of all runs, what a branch shares with its trunk counted once.
        separate_flops: The same, were every run trained by itself.
    """

    n_trunks: int
    n_branches: int
    flops: float
    separate_flops: float


def read_ladder(node: Node, problems: Problems) -> Axis | None:
    """Read the rungs: one key that says how long to train, with rising values."""
    before = len(problems)
    axes = read_grid(node, problems)
    for axis in axes if len(problems) == before else ():
        (key,) = axis.keys
        places = [option.places[key] for option in axis.options]
        if key not in HORIZON:
            words = ", ".join(name.removeprefix("train.") for name in HORIZON)
            problems.add(places[0], f"{key!r} is not how long to train", f"choose from {words}")
        for place, (low, high) in zip(places[1:], pairwise(axis.column(key)), strict=True):
            if high <= low:
                todo = "write the rungs from the shortest to the longest"
                what = f"rung {write_count(high)} does not rise above {write_count(low)}"
                problems.add(place, what, todo)
    if len(axes) > 1:
        words = " and ".join(axis.keys[0] for axis in axes)
        problems.add(node.place, f"a ladder has rungs of one kind, found {words}", "keep one")
    return axes[0] if axes and len(problems) == before else None


def link_rungs(runs: Sequence[RunSpec]) -> list[RunSpec]:
    """Make of runs that differ in their length one trunk, the longest, and its branches.

    Branches get the trunk's resources: with others their sums might be taken in another order.

    Raises:
        RunProblemError: They have no common beginning.
    """
    *shorter, trunk = sorted(runs, key=lambda run: run.plan["steps"])
    if not shorter:
        return [trunk]
    _check_schedule(trunk)
    _check_equal(runs)
    steps = {run.id: branch_step(run.config["train"]) for run in shorter}
    begun = {run: step for run, step in steps.items() if step}
    _check_plateau(trunk, max(steps.values()))
    linked = [
        replace(
            run,
            plan={**run.plan, "parent": trunk.id, "branch_step": begun[run.id]},
            resources=trunk.resources,
        )
        if run.id in begun
        else run
        for run in shorter
    ]
    return [*linked, replace(trunk, plan={**trunk.plan, "branches": begun}) if begun else trunk]


def branch_step(train: Mapping[str, Any]) -> int:
    """Return the last step that a run shares with longer ones, where its plateau ends.

    Of a run whose rate knows no end that is its last step: only its evaluation is its own.
    """
    steps = train["steps"]
    if train["schedule"] in _ENDLESS:
        return steps
    # As in `train.schedule.lr_factor`.
    return max(_warmup_steps(train), steps - round(train["decay_frac"] * steps))


def _warmup_steps(train: Mapping[str, Any]) -> int:
    return round(train["warmup_frac"] * train["steps"])


def _check_schedule(trunk: RunSpec) -> None:
    train = trunk.config["train"]
    schedule = train["schedule"]
    if schedule in ("wsd", "inverse_sqrt"):
        return
    if schedule == "constant" and train["average_frac"] is not None:
        return
    raise RunProblemError(
        "train.schedule",
        f"the rungs of a ladder branch off a plateau and cool down, found {schedule!r}",
        "take schedule wsd, inverse_sqrt, or constant with train.average_frac",
    )


def _check_equal(runs: Sequence[RunSpec]) -> None:
    """Refuse rungs that differ in more than how long they go on.

    Raises:
        RunProblemError: They do, or their warm-ups are of different length.
    """
    science = [(s, key) for s in ("model", "data", "train", "start") for key in runs[0].config[s]]
    # A branch's first line of steps is a mean that its trunk began.
    for section, key in (*science, ("log", "every")):
        found = list(dict.fromkeys(repr(run.config[section][key]) for run in runs))
        name = f"{section}.{key}"
        if len(found) > 1 and name not in _LENGTH:
            what = f"{name} differs between rungs of one trunk, {found[0]} and {found[-1]}"
            todo = "derive it from what a trunk and its branches share, such as N"
            raise RunProblemError(name, what, todo)
    trains = [run.config["train"] for run in runs]
    warm = sorted({_warmup_steps(train) for train in trains})
    if len(warm) > 1:
        tokens = write_count(warm[0] * trains[0]["batch_tokens"])
        what = f"the rungs of one trunk would warm up for {warm[0]} to {warm[-1]} steps"
        todo = f"set train.warmup_tokens instead, such as {tokens}"
        raise RunProblemError("train.warmup_frac", what, todo)


def _check_plateau(trunk: RunSpec, last: int) -> None:
    """Refuse a trunk that cools down before the last of its branches, after `last`, has left it.

    Raises:
        RunProblemError: It does.
    """
    ends = branch_step(trunk.config["train"])
    if last > ends:
        raise RunProblemError(
            "train.decay_frac",
            f"the longest rung cools down from step {ends} on, before a shorter one, which leaves "
            f"it at step {last}",
            "give all rungs one decay_frac, or set train.decay_tokens",
        )


def saving(runs: Sequence[RunSpec]) -> Saving | None:
    """Say what branching saves; None for a sweep without branches."""
    trunks = sum("branches" in run.plan for run in runs)
    if not trunks:
        return None
    branches = sum("parent" in run.plan for run in runs)
    own, whole = (sum(column) for column in zip(*_costs(runs), strict=True))
    return Saving(trunks, branches, own, whole)


def _costs(runs: Sequence[RunSpec]) -> Iterator[tuple[float, float]]:
    for run in runs:
        flops = float(run.plan["flops"][run.plan["flops_kind"]])
        yield flops * own_share(run.plan), flops
