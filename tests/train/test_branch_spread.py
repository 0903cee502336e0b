"""Trunks and branches that several processes train: what one saves, the others begin from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ladders import own_lines, plan
from test_team import SAME, Starter

from scalekit.results.record import read_record

AVERAGED = {"train": {"schedule": "constant", "average_frac": 0.2}}


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    for process in starter.started:
        process.kill()
        process.communicate()


def numbers(lines: dict[str, Any]) -> list[float]:
    found = [line[key] for line in lines["step"] for key in ("loss", "grad_norm")]
    return found + [line["val_loss"] for line in lines["eval"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needs", "changes"),
    [({}, {}), ({"shard": True}, AVERAGED)],
    ids=["replicas, cooldown", "shards, averaged"],
)
def test_a_branch_of_a_trunk_in_two_processes_is_a_run_in_two_processes(
    tmp_path, start: Starter, needs: dict[str, Any], changes: dict[str, Any]
) -> None:
    needs = {"processes": 2, **needs}
    folder, (first, _, trunk) = plan(tmp_path / "ladder", changes=changes, needs=needs)
    separate, (alone, *_) = plan(
        tmp_path / "separate", is_ladder=False, changes=changes, needs=needs
    )
    one, (_, _, by_one) = plan(tmp_path / "one", changes=changes)
    for where, run in ((folder, trunk), (folder, first), (separate, alone), (one, by_one)):
        code, _, errors = start.finish(where, run.id)
        assert code == 0, errors
    assert alone.id == first.id
    last = first.plan["branch_step"]
    assert read_record(folder.record(first.id)).attempts[0]["resumed_from"] == last
    found = numbers(own_lines(folder.record(first.id), last))
    assert found == numbers(own_lines(separate.record(alone.id), last))
    assert not folder.checkpoints(first.id).exists()
    # As in one process, but for the order of sums.
    assert numbers(own_lines(folder.record(trunk.id), 0)) == pytest.approx(
        numbers(own_lines(one.record(by_one.id), 0)), rel=SAME
    )
