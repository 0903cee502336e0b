"""A ladder from its file to the table, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalekit.cli import run
from scalekit.results.collect import collect
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.results.table import RunTable
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep

FILE = Path(__file__).parents[1] / "sweeps" / "ladder.yaml"
RUNGS = "[16384, 24576, 32768]"
SMALL = (
    *("-s", "model.context=32", "-s", "data.val_tokens=4096", "-s", "warmup_tokens=4096"),
    *("-s", "grid.model.d_model=[8, 12]", "-s", "log.checkpoint_steps=5"),
)


def train(out: Path, kind: str, *changes: str) -> RunTable:
    words = [str(FILE), "-e", kind, "-y", "--out", str(out), *SMALL, *changes]
    assert run(["sweep", *words]) == 0
    return collect([out])


def separate(out: Path) -> RunTable:
    changes = ("-s", "ladder.tokens=null", "-s", f"grid.train.tokens={RUNGS}")
    return train(out, "inline", *changes)


@pytest.mark.parametrize("kind", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_ladder_gives_the_losses_of_separate_runs_for_less(tmp_path, capsys, kind) -> None:
    ladder = train(tmp_path / "ladder", kind, "-s", f"ladder.tokens={RUNGS}")
    said = capsys.readouterr().out
    # (32 + 0.2 (16 + 24)) / (16 + 24 + 32) of their cost.
    assert "ladder: 2 trunks, 4 branches; 44% less than the" in said
    alone = separate(tmp_path / "separate")
    assert sorted(ladder["run"]) == sorted(alone["run"])
    by_run = dict(zip(alone["run"], alone["loss"], strict=True))
    assert ladder["loss"].tolist() == [by_run[name] for name in ladder["run"]]
    assert "trunk" not in alone
    folder = SweepFolder(tmp_path / "ladder")
    resumed = [read_record(folder.record(r)).attempts[0]["resumed_from"] for r in ladder["run"]]
    # Of 16, 24 and 32 steps a fifth is the cooldown: the trunks begin at zero.
    assert resumed == [13, 19, 0] * 2
    trunks = [ladder["run"][2]] * 3 + [ladder["run"][5]] * 3
    assert ladder["trunk"].tolist() == trunks
    assert not any(folder.checkpoints(name).exists() for name in ladder["run"])
    capsys.readouterr()
    assert run(["status", str(folder.root), "--format", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    # What a branch shares with its trunk was spent once.
    assert status["flops_done"] == status["flops_planned"] < 0.57 * ladder["flops"].sum()


def test_a_rung_that_is_added_later_is_trained_whole_and_the_others_are_left(tmp_path) -> None:
    before = train(tmp_path / "ladder", "inline", "-s", "ladder.tokens=[16384, 32768]")
    table = train(tmp_path / "ladder", "inline", "-s", f"ladder.tokens={RUNGS}")
    assert set(before["run"]) < set(table["run"])
    folder = SweepFolder(tmp_path / "ladder")
    records = [read_record(folder.record(name)) for name in table["run"]]
    assert [record.attempts[0]["resumed_from"] for record in records] == [13, 0, 0] * 2
    assert [len(record.attempts) for record in records] == [1] * 6
    by_run = dict(zip(table["run"], table["loss"], strict=True))
    alone = separate(tmp_path / "separate")
    assert [by_run[name] for name in alone["run"]] == alone["loss"].tolist()


def test_the_shipped_ladder_is_a_trunk_and_three_branches_a_size() -> None:
    runs = expand(load_sweep(FILE)).runs
    assert [("branches" in r.plan, "parent" in r.plan) for r in runs] == (
        [(False, True)] * 3 + [(True, False)]
    ) * 5
