"""A stacked sweep from its file to the table, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalekit.cli import run
from scalekit.results.collect import collect
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder

START = 2.0  # seconds that the plan assumes a process takes to start

FILE = """\
scalekit: 1
name: stacked
base:
  model: {n_layers: 1, d_model: 16, head_dim: 16, context: 32, vocab: 64}
  data: {source: synthetic, val_tokens: 1024, synthetic: {symbols: 64}}
  train: {steps: 20, batch_tokens: 256}
grid: {train.seed: [0, 1], train.lr: [1e-3, 3e-3]}
resources: [{stack: 4}]
"""


@pytest.mark.parametrize("kind", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_stacked_sweep_gives_the_losses_of_separate_runs(tmp_path, capsys, kind) -> None:
    (tmp_path / "a.yaml").write_text(FILE)
    words = ["sweep", str(tmp_path / "a.yaml"), "-e", kind, "-y"]
    stacked = tmp_path / "stacked"
    assert run([*words, "--out", str(stacked)]) == 0
    out = capsys.readouterr().out
    assert "stacked: 4 runs train as one batched model, as asked; nobody measured what" in out
    assert run([*words, "--out", str(tmp_path / "alone"), "-s", "resources=null"]) == 0
    one, other = collect([stacked]), collect([tmp_path / "alone"])
    assert list(one["run"]) == list(other["run"])
    # As in tests/train/test_stacked_run.py: sums in another order.
    assert one["loss"].tolist() == pytest.approx(other["loss"].tolist(), rel=1e-4)
    ids = list(one["run"])
    attempts = [read_record(SweepFolder(stacked).record(name)).attempts for name in ids]
    assert [(len(a), a[0]["stack"]) for a in attempts] == [(1, ids)] * 4
    capsys.readouterr()
    if kind == "local":
        assert run(["logs", str(stacked), ids[3]]) == 0
        assert f"{ids[3]} done" in capsys.readouterr().out


def test_what_finished_stacks_took_is_counted_once(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.yaml").write_text(FILE)
    folder = SweepFolder(tmp_path / "out")
    words = ["sweep", str(tmp_path / "a.yaml"), "-e", "inline", "-y", "--out", str(folder.root)]
    assert run([*words, "--format", "json"]) == 0
    plans = {line["id"]: line["plan"] for line in folder.plan_lines()}
    ends = [read_record(folder.record(name)).end or {} for name in plans]
    assert [end["stack"] for end in ends] == [4] * 4
    # The wall's time is everyone's; of the device's and of the one start each has its share.
    start = sum(end["startup_s"] for end in ends)
    assumed = sum(p["estimate"] for p in plans.values()) - 4 * START
    factor = assumed / (sum(end["device_s"] for end in ends) - start)
    capsys.readouterr()
    assert run([*words, "-n", "-s", "grid.train.seed=[0, 1, 2]", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    said = f"measured on 4 finished runs of this sweep, {factor:.2g} times the speed"
    assert plan["estimate"]["source"].startswith(said)
    assert [len(group["runs"]) for group in plan["stacking"]["groups"]] == [2]
    left = 2 * (plans[next(iter(plans))]["estimate"] - START) / factor + start
    assert plan["estimate"]["device_seconds"] == pytest.approx(left)


def test_several_runs_are_named_on_the_command_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.yaml").write_text(FILE.replace("stack: 4", "stack: 1"))
    out = tmp_path / "out"
    words = ["sweep", str(tmp_path / "a.yaml"), "-e", "inline", "-y", "--out", str(out)]
    assert run([*words, "-s", "grid.train.lr=[1e-3]"]) == 0
    ids = [line["id"] for line in SweepFolder(out).plan_lines()]
    capsys.readouterr()
    assert run(["train", str(out), *ids, ids[0][:9]]) == 0
    assert capsys.readouterr().out.split() == [ids[0], "done", ids[1], "done"]
    assert run(["train", str(out), *ids, "--processes", "2"]) == 2
    assert "2 runs as one batched model train in one process" in capsys.readouterr().err
