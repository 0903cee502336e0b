"""Ten thousand runs: how often the scheduler is called, how many files are left, how much memory.

How long it takes is measured by benchmarks/launch.py, on a machine that has nothing else to do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from submitting import put_before

GRID = """\
scalekit: 1
name: big
base:
  model: {n_layers: 2, head_dim: 16, context: 128}
  data: {source: synthetic}
  train: {batch_tokens: 1024, schedule: wsd}
isoflop:
  budgets: [2e11, 4e11, 8e11, 1.6e12]
  sizes: {d_model: [16, 32, 48, 64, 96]}
  tolerance: 5%
grid: {train.seed: {range: [0, 499], step: 1}}
"""
N_RUNS = 10_000
MOST_MEGABYTES = 200
MOST_FILES = 10


MEASURE = """
import os, sys
out = [(os.POSIX_SPAWN_OPEN, 1, "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=out)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(words: list[str]) -> float:
    """Run a command of ours and return its peak memory in MB.

    Started by a process that is small itself: Linux counts what the starter had as the started's.
    """
    argv = [sys.executable, "-c", MEASURE, sys.executable, "-m", "scalekit", *words]
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout) / 1024


@pytest.mark.slow
def test_ten_thousand_runs_are_one_sbatch_three_files_and_little_memory(
    accounted: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("big.yaml").write_text(GRID)
    calls = tmp_path / "calls"
    accounted.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        with monkeypatch.context() as patch:
            for program in ("sbatch", "squeue", "sacct", "scontrol", "sacctmgr"):
                put_before(patch, tmp_path, program, before=f"echo {program} >> {calls}")
            assert measured(["sweep", "big.yaml", "-e", "slurm", "-y"]) < MOST_MEGABYTES
            # An array holds what MaxArraySize says, which is one more than there are runs.
            assert calls.read_text().split().count("sbatch") == 1
            calls.unlink()
            assert measured(["status", "runs/big"]) < MOST_MEGABYTES
            asked = calls.read_text().split()
        assert set(asked) <= {"squeue", "sacct"}
        assert len(asked) <= 2
        assert f"{N_RUNS} runs: {N_RUNS} pending" in Path("said").read_text()
        left = [path for path in Path("runs/big").rglob("*") if path.is_file()]
        plan = {"plan.jsonl", "sweep.yaml"}
        assert len([path for path in left if path.name not in plan]) <= MOST_FILES
        queued = accounted.call("squeue", "-h", "-r", "-o", "%i").splitlines()
        assert len(queued) == N_RUNS
    finally:
        accounted.clear()
        accounted.call("scontrol", "update", "partitionname=main", "state=up", check=False)
