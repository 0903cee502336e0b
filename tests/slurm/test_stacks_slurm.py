"""Stacks over a real Slurm: interrupted and cancelled as one, with the numbers of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from submitting import wait_until
from test_end_to_end import OPTIONS, table

from scalekit.cli import run
from scalekit.executors._slurm_board import Folder
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder

STACKED = """\
scalekit: 1
name: stacked
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {steps: 500, batch_tokens: 256}
  log: {every: 5, evals: 3}
grid: {train.lr: [1e-3, 3e-3], train.seed: [0, 1, 2]}
resources: [{stack: 3}]
"""


def steps(place: SweepFolder, ids: list[str]) -> list[int]:
    """The last step that each run's record speaks of."""
    found = []
    for name in ids:
        path = place.record(name)
        lines = path.read_text().splitlines() if path.exists() else []
        found.append(max((json.loads(x).get("step", 0) for x in lines if x[-1:] == "}"), default=0))
    return found


def curves(place: SweepFolder, ids: list[str]) -> list[list[tuple[Any, ...]]]:
    """Every number that runs report of their training, with its step."""
    records = [read_record(place.record(name)) for name in ids]
    return [
        [(s["step"], s["loss"], s["grad_norm"]) for s in record.steps]
        + [(e["step"], e["val_loss"]) for e in record.evals]
        for record in records
    ]


def words(folder: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert run(["status", folder, "--format", "json"]) == 0
    return {row["run"]: row["status"] for row in json.loads(capsys.readouterr().out)["runs"]}


@pytest.mark.slow
def test_stacks_over_slurm_give_the_records_of_the_local_executor_bit_for_bit(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stacked.yaml").write_text(STACKED)
    submitted = ["sweep", "stacked.yaml", "-e", "slurm", "--out", "far", *OPTIONS]
    # One job at a time: the second stack waits until the first is done.
    assert run([*submitted, "--max-parallel", "1"]) == 0
    assert "submitted 6 runs as job" in capsys.readouterr().err
    place = SweepFolder(tmp_path / "far")
    ids = [line["id"] for line in place.plan_lines()]
    one, other = ids[:3], ids[3:]
    (submission,) = (tmp_path / "far" / "slurm").iterdir()
    board = Folder(submission)
    wait_until(lambda: min(steps(place, one)) >= 20)
    assert words("far", capsys) == dict.fromkeys(one, "running") | dict.fromkeys(other, "pending")
    # The job is told that its time is over, and the next takes its stack up.
    cluster.call("scancel", "--signal=USR2", "--batch", board.lines()[0].job)
    wait_until(lambda: min(steps(place, other)) >= 20)
    # One run is cancelled, and its company with it.
    assert run(["cancel", "far", other[1]]) == 0
    assert "asked 3 runs to save and stop" in capsys.readouterr().out
    stopped = dict.fromkeys(one, "done") | dict.fromkeys(other, "cancelled")
    wait_until(lambda: words("far", capsys) == stopped)
    # The same command has the cancelled stack alone to start.
    assert run(submitted) == 0
    assert "submitted 3 runs as job" in capsys.readouterr().err
    assert run(["wait", "far"]) == 0
    assert set(words("far", capsys).values()) == {"done"}
    assert run(["logs", "far", one[2]]) == 0
    assert f"{one[2]} done" in capsys.readouterr().out
    assert not place.log(one[2]).exists()
    for name in ids:
        first, second = read_record(place.record(name)).attempts
        assert first["stack"] == second["stack"] == (one if name in one else other)
        assert 20 <= second["resumed_from"] < 500
    assert {line.run: line.starts for line in board.lines()} == {
        **dict.fromkeys(one, 2),
        **dict.fromkeys(other, 1),
    }
    assert run(["sweep", "stacked.yaml", "-e", "local", "--out", "near", *OPTIONS]) == 0
    assert curves(place, ids) == curves(SweepFolder(tmp_path / "near"), ids)
    far = table("far")
    assert {row["flags"] for row in far} == {"resumed"}
    assert [{**row, "flags": ""} for row in far] == table("near")
