"""From a YAML file to a table over a real Slurm: the numbers of this machine, bit for bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from submitting import wait_until

from scalekit.cli import run
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder

TINY = """\
scalekit: 1
name: tiny
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {steps: 30, batch_tokens: 256}
  log: {every: 5, evals: 3}
grid: {train.lr: [1e-3, 3e-3]}
resources: [{pack: 2}]
"""

LONG = (
    TINY.replace("name: tiny", "name: long")
    .replace("steps: 30", "steps: 1500")
    .replace("[1e-3, 3e-3]", "[2e-3]")
)

SPENT = (
    *("source", "wall_s", "device_s", "startup_s", "eval_s", "checkpoint_s"),
    *("energy_j", "mfu", "tokens_per_second", "peak_memory_bytes", "attempts"),
)
OPTIONS = ("--yes", "--allow-unidentified")


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "long.yaml").write_text(LONG)
    return tmp_path


def table(folder: str) -> list[dict[str, str]]:
    """The collected table without what depends on the machine."""
    assert run(["collect", folder, "-o", f"{folder}.csv"]) == 0
    rows = csv.DictReader(Path(f"{folder}.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in SPENT} for row in rows]


def curve(folder: str) -> list[tuple[Any, ...]]:
    """Every loss that the only run of a sweep reports, with its step."""
    place = SweepFolder(Path(folder))
    (line,) = place.plan_lines()
    record = read_record(place.record(line["id"]))
    steps = [("step", s["step"], s["loss"], s["grad_norm"]) for s in record.steps]
    return steps + [("eval", e["step"], e["val_loss"]) for e in record.evals]


@pytest.mark.usefixtures("here")
def test_a_sweep_over_slurm_gives_the_table_of_the_local_executor_bit_for_bit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["doctor", "--write-profile", "dev", "--partition", "low"]) == 0
    slurm = ["-s", "executor.profile=dev", "--wait"]
    assert run(["sweep", "tiny.yaml", *slurm, "--out", "far", *OPTIONS]) == 0
    assert "far: 2 runs: 2 done" in capsys.readouterr().err
    (script,) = Path("far").glob("slurm/*/job.sh")
    assert "#SBATCH --partition=low\n" in script.read_text()
    assert run(["sweep", "tiny.yaml", "-e", "local", "--out", "near", *OPTIONS]) == 0
    assert table("far") == table("near")
    assert {row["status"] for row in table("far")} == {"done"}
    # The job that trained a run stands in its record.
    place = SweepFolder(Path("far"))
    records = [read_record(place.record(line["id"])) for line in place.plan_lines()]
    assert all(record.attempts[0]["job"] for record in records)


def test_a_run_that_is_stopped_half_way_and_requeued_is_bit_identical(
    here: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "long.yaml", "-e", "slurm", "--out", "far", *OPTIONS]) == 0
    place = SweepFolder(here / "far")
    (line,) = place.plan_lines()

    def step() -> int:
        path = place.record(line["id"])
        lines = path.read_text().splitlines() if path.exists() else []
        return max([json.loads(x).get("step", 0) for x in lines if x.endswith("}")], default=0)

    wait_until(lambda: step() >= 50)
    (folder,) = (path for path in (here / "far" / "slurm").iterdir())
    cluster.call("scancel", f"--name={folder.name}", "--signal=USR2", "--batch")
    wait_until(lambda: len(read_record(place.record(line["id"])).attempts) == 2)
    assert run(["wait", "far"]) == 0
    record = read_record(place.record(line["id"]))
    assert 50 <= record.attempts[1]["resumed_from"] < 1500
    assert run(["sweep", "long.yaml", "-e", "local", "--out", "near", *OPTIONS]) == 0
    assert curve("far") == curve("near")
