"""A ladder over a real Slurm: a worker a trunk, which takes the branches of what it trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster
from submitting import wait_until
from test_end_to_end import OPTIONS, table

from scalekit.cli import run
from scalekit.executors._slurm_board import DONE, Folder

LADDER = """\
scalekit: 1
name: ladder
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {batch_tokens: 256, schedule: wsd, warmup_tokens: 512, decay_frac: 0.3}
  log: {every: 5, evals: 3}
grid: {train.lr: [1e-3, 3e-3]}
ladder: {steps: [12, 20, 40]}
"""


def test_a_ladder_over_slurm_gives_the_table_of_the_local_executor_bit_for_bit(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ladder.yaml").write_text(LADDER)
    assert run(["sweep", "ladder.yaml", "-e", "slurm", "--wait", "--out", "far", *OPTIONS]) == 0
    (submission,) = (tmp_path / "far" / "slurm").iterdir()
    # Records end before a worker has noted it.
    wait_until(lambda: {line.state for line in Folder(submission).lines()} == {DONE})
    lines = Folder(submission).lines()
    assert [line.starts for line in lines] == [1] * 6
    # Two trunks, so two workers; no job waits beside a trunk that another trains.
    assert len({line.job for line in lines}) <= 2
    assert run(["sweep", "ladder.yaml", "-e", "local", "--out", "near", *OPTIONS]) == 0
    far = table("far")
    assert far == table("near")
    assert [row["branch_step"] for row in far] == ["8", "14", ""] * 2
    assert [row["trunk"] for row in far] == [far[2]["run"]] * 3 + [far[5]["run"]] * 3
