"""For how many runs an executor has room, as the plan counts them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from scalekit.commands._places import count_places
from scalekit.executors.base import Settings
from scalekit.executors.inline import Inline
from scalekit.executors.local import Local
from scalekit.executors.slurm import Slurm
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Stacking


@pytest.mark.parametrize(
    ("make", "gpus", "asked", "needs", "places"),
    [
        (Inline, 0, 8, {}, 1),
        (Local, 0, 3, {}, 3),
        (Local, 8, None, {"gpus": 2}, 4),
        (Local, 8, 8, {"gpus": 4}, 2),
        # Sixteen runs on four GPUs; four of them on one.
        (Local, 4, None, {"gpus": 1, "pack": 4}, 4),
        (Local, 4, 4, {"gpus": 1, "pack": 4}, 1),
        (Local, 4, 5, {"gpus": 1, "pack": 4}, 2),
        (Slurm, 0, None, {"gpus": 1}, 1),
        (Slurm, 0, 5, {"gpus": 1, "pack": 4}, 5),
        (Slurm, 0, 5, {"pack": 4}, 20),
    ],
)
def test_there_is_room_for_as_many_runs_as_go_side_by_side(  # noqa: PLR0917
    make: Any, gpus: int, asked: int | None, needs: Any, places: int, monkeypatch: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    runs: Any = [SimpleNamespace(resources=needs)] * 30
    assert count_places(make(Settings(max_parallel=asked)), asked, runs, Stacking()) == places


def test_there_is_room_for_no_more_than_there_are_to_start() -> None:
    runs = [RunSpec(f"r{i}", {}, {}, {}) for i in range(5)]
    found = count_places(Local(Settings(max_parallel=9)), 9, runs, Stacking())
    assert found == 5
