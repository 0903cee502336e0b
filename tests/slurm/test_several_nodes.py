"""One run over two nodes of a real Slurm: the losses of one process, and going on after trouble."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from submitting import wait_until

from scalekit.cli import run
from scalekit.results.record import RunRecord, read_record
from scalekit.results.store import SweepFolder

TINY = """\
scalekit: 1
name: tiny
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {steps: 30, batch_tokens: 256, lr: 3e-3}
  log: {every: 5, evals: 3}
resources: [{nodes: 2, processes: 4, cpus: 4, memory_gb: 2}]
"""

LONG = TINY.replace("steps: 30", "steps: 150")
OPTIONS = ("--yes", "--allow-unidentified")

SAME = 1e-6
"""Sums over four processes are taken in another order than in one; float32 rounds at 1.2e-7."""


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "long.yaml").write_text(LONG)
    return tmp_path


def only_id(folder: str) -> str:
    (line,) = SweepFolder(Path(folder)).plan_lines()
    return line["id"]


def record_of(folder: str) -> RunRecord:
    return read_record(SweepFolder(Path(folder)).record(only_id(folder)))


def losses(record: RunRecord) -> list[float]:
    return [line["loss"] for line in record.steps] + [line["val_loss"] for line in record.evals]


def step_of(folder: str) -> int:
    path = SweepFolder(Path(folder)).record(only_id(folder))
    lines = path.read_text().splitlines() if path.exists() else []
    return max([json.loads(x).get("step", 0) for x in lines if x.endswith("}")], default=0)


@pytest.mark.usefixtures("here")
def test_two_nodes_give_the_losses_of_one_process_and_the_record_says_where() -> None:
    assert run(["sweep", "tiny.yaml", "-e", "slurm", "--wait", "--out", "far", *OPTIONS]) == 0
    Path("near.yaml").write_text(
        TINY.replace("{nodes: 2, processes: 4, cpus: 4, memory_gb: 2}", "{}")
    )
    assert run(["sweep", "near.yaml", "-e", "local", "--out", "near", *OPTIONS]) == 0
    far, near = record_of("far"), record_of("near")
    assert far.header["id"] == near.header["id"]
    assert losses(far) == pytest.approx(losses(near), rel=SAME)
    (attempt,) = far.attempts
    assert (attempt["processes"], attempt["nodes"]) == (4, 2)
    assert len(set(attempt["hosts"])) == 2
    assert attempt["host"] in attempt["hosts"]
    (script,) = Path("far").glob("slurm/*/job.sh")
    asked = script.read_text()
    for option in ("--nodes=2", "--cpus-per-task=2", "--mem=954M"):
        assert f"#SBATCH {option}\n" in asked
    # Nothing went wrong, so the job left no output of its own.
    assert not list(Path("far").glob("slurm/*/*.out"))


@pytest.mark.slow
def test_a_run_on_two_nodes_that_is_told_to_stop_goes_on_where_it_was(
    here: Path, cluster: Cluster
) -> None:
    assert run(["sweep", "long.yaml", "-e", "slurm", "--out", "far", *OPTIONS]) == 0
    wait_until(lambda: step_of("far") >= 20, 240.0)
    (folder,) = (path for path in (here / "far" / "slurm").iterdir())
    cluster.call("scancel", f"--name={folder.name}", "--signal=USR2", "--batch")
    wait_until(lambda: len(record_of("far").attempts) == 2, 240.0)
    assert run(["wait", "far"]) == 0
    first, second = record_of("far").attempts
    assert 20 <= second["resumed_from"] < 150
    assert (first["nodes"], second["nodes"]) == (2, 2)
    assert run(["sweep", "long.yaml", "-e", "slurm", "--wait", "--out", "whole", *OPTIONS]) == 0
    assert losses(record_of("far")) == losses(record_of("whole"))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_process_killed_on_the_other_node_ends_the_run_and_the_same_command_continues(
    cluster: Cluster,
) -> None:
    assert run(["sweep", "long.yaml", "-e", "slurm", "--out", "far", *OPTIONS]) == 0
    wait_until(lambda: step_of("far") >= 20, 240.0)
    members = [pid for pid in members_of(cluster) if place_of(pid)["SLURM_NODEID"] == "1"]
    assert len(members) == 2
    os.kill(members[0], signal.SIGKILL)
    assert run(["wait", "far"]) != 0
    assert record_of("far").end is None
    assert not members_of(cluster)
    assert run(["sweep", "long.yaml", "-e", "slurm", "--wait", "--out", "far", *OPTIONS]) == 0
    end = record_of("far").end
    assert end is not None
    assert end["status"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_run_on_two_nodes_of_which_one_fails_goes_on_to_the_same_losses(cluster: Cluster) -> None:
    assert run(["sweep", "long.yaml", "-e", "slurm", "--out", "far", *OPTIONS]) == 0
    wait_until(lambda: step_of("far") >= 20, 240.0)
    node = cluster.call("squeue", "-h", "-t", "RUNNING", "-o", "%N").strip()
    other = cluster.call("scontrol", "show", "hostnames", node).split()[1]
    cluster.call("scontrol", "update", f"nodename={other}", "state=down", "reason=test")
    try:
        wait_until(lambda: len(record_of("far").attempts) == 2, 240.0)
        assert run(["wait", "far"]) == 0
    finally:
        cluster.mend()
    assert run(["sweep", "long.yaml", "-e", "slurm", "--wait", "--out", "whole", *OPTIONS]) == 0
    assert losses(record_of("far")) == losses(record_of("whole"))


def members_of(cluster: Cluster) -> list[int]:
    """The processes that train, of this cluster."""
    done = subprocess.run(
        ["pgrep", "-f", "scalekit train"], capture_output=True, text=True, check=False
    )
    mark = cluster.environment["SLURM_CONF"]
    found = []
    for pid in map(int, done.stdout.split()):
        place = place_of(pid)
        if place.get("SLURM_CONF") == mark and "SCALEKIT_BY_SRUN" in place:
            found.append(pid)
    return [pid for pid in found if "SLURM_STEP_ID" in place_of(pid) and is_python(pid)]


def is_python(pid: int) -> bool:
    return "srun" not in Path(f"/proc/{pid}/comm").read_text()


def place_of(pid: int) -> dict[str, Any]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in raw.split("\0") if "=" in item)


ONE_BY_ONE = """
import os, sys, time
rank = int(os.environ["SLURM_PROCID"])
time.sleep(rank)
sys.exit(0 if rank else 3)
"""


@pytest.mark.parametrize("code", [3, 143])
def test_the_firsts_exit_code_is_the_runs_also_where_others_end_later(
    cluster: Cluster, tmp_path: Path, code: int
) -> None:
    """srun ended the others at once, and its own code told of their deaths.

    With 143 it saved because somebody asked it, and not its launcher, to stop.
    """
    (tmp_path / "member.py").write_text(ONE_BY_ONE.replace("3", str(code)))
    launch = "import sys; from scalekit.executors._team import run_team; "
    launch += "print(run_team(sys.argv[1:], 2, 2))"
    script, said = tmp_path / "job.sh", tmp_path / "out"
    words = [sys.executable, str(tmp_path / "member.py")]
    script.write_text("#!/bin/sh\nexec " + " ".join([sys.executable, "-c", f"'{launch}'", *words]))
    cluster.call("sbatch", "--wait", "--nodes=2", f"--output={said}", str(script))
    assert said.read_text().splitlines()[-1] == str(code), said.read_text()


SUBMITITS = """
import json, os, sys
from pathlib import Path
from submitit.helpers import TorchDistributedEnvironment
from scalekit.executors._place import find_place
theirs, ours = TorchDistributedEnvironment(), find_place(os.environ)
names = ("rank", "local_rank", "local_world_size", "world_size")
mine = (ours.rank, ours.local_rank, ours.local_size, ours.size)
said = [[getattr(theirs, name) for name in names], list(mine)]
Path(sys.argv[1], str(ours.rank)).write_text(json.dumps(said))
"""


def test_the_places_are_those_of_submitits_environment(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(SUBMITITS)
    (tmp_path / "said").mkdir()
    launch = "import sys; from scalekit.executors._team import run_team; "
    launch += "sys.exit(run_team(sys.argv[1:], 4, 2))"
    words = [sys.executable, str(tmp_path / "say.py"), str(tmp_path / "said")]
    script = tmp_path / "job.sh"
    head = "#!/bin/sh\nexport SUBMITIT_EXECUTOR=slurm\nexec "
    script.write_text(head + " ".join([sys.executable, "-c", f"'{launch}'", *words]))
    output = f"--output={tmp_path}/out"
    cluster.call("sbatch", "--wait", "--nodes=2", "--cpus-per-task=2", output, str(script))
    said = [json.loads(path.read_text()) for path in sorted((tmp_path / "said").iterdir())]
    assert [theirs for theirs, _ in said] == [ours for _, ours in said]
    assert [ours[0] for _, ours in said] == [0, 1, 2, 3]
