"""What a cluster, a disk or a person gets wrong: the exit code, whose words, and the same command
that continues once it is mended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from submitting import stand_in_python, wait_until

from scalekit.cli import run
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder

SWEEP = """\
scalekit: 1
name: tiny
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {steps: 30, batch_tokens: 256}
grid: {train.seed: [0, 1, 2]}
executor: {kind: slurm, profile: dev}
"""

COMMAND = ["sweep", "tiny.yaml", "-y", "--allow-unidentified"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep and a profile that is right."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    (tmp_path / "profiles").mkdir()
    stand_in_python(tmp_path / "python")
    profile(tmp_path)
    return tmp_path


def profile(here: Path, *lines: str) -> None:
    text = [f"python: {here / 'python'}", *lines]
    (here / "profiles" / "dev.yaml").write_text("\n".join(text) + "\n")


def words(root: Path = Path("runs/tiny")) -> list[str]:
    folder = SweepFolder(root)
    return [read_state(folder.record(line["id"])).status for line in folder.plan_lines()]


def the_same_command_continues(*more: str, root: Path = Path("runs/tiny")) -> None:
    assert run([*COMMAND, *more]) == 0
    wait_until(lambda: set(words(root)) == {"done"}, shown=lambda: words(root))
    assert len(words(root)) == 3
    assert run([*COMMAND, *more]) == 0
    assert run(["status", str(root), "--check"]) == 0


def refused(capsys: pytest.CaptureFixture[str], code: int, *said: str) -> None:
    """Require that the command is refused with this code, these words, and no traceback."""
    capsys.readouterr()
    assert run(COMMAND) == code
    err = capsys.readouterr().err
    for text in said:
        assert text in err
    assert "Traceback" not in err
    assert "submitted 3 runs" not in err


@pytest.mark.usefixtures("cluster")
def test_no_sbatch(here: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(here))
        refused(capsys, 7, "not found, so this is no login node", "choose another executor with -e")
    assert not Path("runs").exists()
    the_same_command_continues()


@pytest.mark.usefixtures("cluster")
def test_a_partition_that_is_not_there(here: Path, capsys) -> None:
    profile(here, "partition: shrt")
    refused(capsys, 7, "partition 'shrt': not on this cluster; did you mean 'short'?")
    assert not Path("runs").exists()
    profile(here, "partition: short")
    the_same_command_continues()


@pytest.mark.usefixtures("cluster")
def test_a_constraint_that_no_node_has(here: Path, capsys) -> None:
    profile(here, "constraint: a100")
    refused(capsys, 7, "sbatch: ", "Invalid feature specification", "mend that and run the same")
    profile(here)
    the_same_command_continues()


@pytest.mark.usefixtures("accounted")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("account: no-such-lab", "Invalid account or account/partition combination specified"),
        ("qos: no-such-qos", "Invalid qos specification"),
    ],
)
def test_an_account_or_a_quality_of_service_that_is_not_there(
    here: Path, capsys, line: str, said: str
) -> None:
    profile(here, line)
    refused(capsys, 7, "sbatch: ", said, "mend that and run the same command again")
    profile(here, "account: test")
    the_same_command_continues()


@pytest.fixture
def strict_qos(accounted: Cluster) -> Iterator[Cluster]:
    """Have a quality of service with a limit of its own."""
    accounted.call("sacctmgr", "-i", "add", "qos", "strict", check=False)
    me = ("sacctmgr", "-i", "modify", "user", os.environ.get("USER", "root"), "set")
    accounted.call(*me, "qos+=strict")
    yield accounted
    limits = ("GrpSubmitJobs=-1", "MaxSubmitJobsPerUser=-1")
    accounted.call("sacctmgr", "-i", "modify", "qos", "strict", "set", *limits)


def limit(cluster: Cluster, text: str) -> None:
    cluster.call("sacctmgr", "-i", "modify", "qos", "strict", "set", text)
    name = text.partition("=")[0]
    wanted = text.partition("=")[2].replace("-1", "")
    ask = ("sacctmgr", "-n", "-P", "show", "qos", "strict", f"format={name}")
    wait_until(lambda: cluster.call(*ask).strip() == wanted)


def test_a_limit_of_the_whole_group_is_refused_in_sbatchs_words(
    strict_qos: Cluster, here: Path, capsys
) -> None:
    profile(here, "qos: strict")
    # What the others of the group have submitted cannot be known; sbatch refuses.
    limit(strict_qos, "GrpSubmitJobs=2")
    refused(capsys, 7, "sbatch: ", "Job violates accounting/QOS policy", "run the same command")
    limit(strict_qos, "GrpSubmitJobs=-1")
    the_same_command_continues()


def test_a_limit_of_ones_own_means_fewer_jobs_and_when_used_up_a_refusal(
    strict_qos: Cluster, here: Path, capsys
) -> None:
    profile(here, "qos: strict")
    limit(strict_qos, "MaxSubmitJobsPerUser=1")
    held = strict_qos.call("sbatch", "--parsable", "-H", "--qos=strict", "--wrap", "true").strip()
    said = "your limit of 1 submitted jobs is used up, 1 are in the queue; wait for some to end"
    refused(capsys, 7, said)
    strict_qos.call("scancel", held)
    wait_until(lambda: not strict_qos.call("squeue", "-h"))
    # One job takes all three runs.
    the_same_command_continues()
    (board,) = Path("runs/tiny").glob("slurm/*/board")
    assert len({line.split()[5] for line in board.read_text().splitlines()}) == 1


def test_a_folder_that_the_nodes_do_not_see(cluster: Cluster, here: Path, capsys) -> None:
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        assert run(COMMAND) == 0
        Path("runs").rename("elsewhere")
    finally:
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
    wait_until(lambda: not cluster.call("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING"))
    Path("elsewhere").rename("runs")
    capsys.readouterr()
    assert run(["status", "runs/tiny", "--check"]) == 4
    out = capsys.readouterr().out
    assert "3 lost" in out
    assert "failed JobLaunchFailure; is this folder visible on the nodes?" in out
    the_same_command_continues()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kilobytes", [1, 3])
def test_a_quota_that_is_used_up(here: Path, kilobytes: int) -> None:
    assert Path("tiny.yaml").write_text(SWEEP.replace("[0, 1, 2]", "{range: [0, 59], step: 1}"))
    if kilobytes > 1:
        # The plan lies there from an earlier command, so that a later file is the one refused.
        profile(here, "constraint: a100")
        assert run(COMMAND) == 7
        profile(here)
    # Larger than this no file may become, which every file system says in the same way.
    script = f"ulimit -f {kilobytes}; exec {sys.executable} -m scalekit {' '.join(COMMAND)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "cannot be written, File too large; free" in done.stderr
    assert "Traceback" not in done.stderr
    Path("tiny.yaml").write_text(SWEEP)
    shutil.rmtree("runs")
    the_same_command_continues()


@pytest.mark.usefixtures("cluster")
def test_a_name_with_quotes_and_line_breaks(here: Path, capsys) -> None:
    for name in ("a\\nb", "it's", "a b", "../a", "$(touch pwned)"):
        Path("tiny.yaml").write_text(SWEEP.replace("name: tiny", f'name: "{name}"'))
        refused(capsys, 3, "tiny.yaml:2:7", "letters, digits, '_', '.' and '-'")
    Path("tiny.yaml").write_text(SWEEP)
    for folder in ("a\nb", "tab\there"):
        capsys.readouterr()
        assert run([*COMMAND, "--out", folder]) == 3
        assert "line break" in capsys.readouterr().err
        assert not Path(folder).exists()
    odd = Path('it\'s "odd" $(touch pwned) 100%')
    the_same_command_continues("--out", str(odd), root=odd)
    assert not list(here.rglob("pwned"))


@pytest.mark.usefixtures("cluster")
def test_a_profile_with_a_typo(here: Path, capsys) -> None:
    profile(here, "partiton: low")
    refused(capsys, 3, "profiles/dev.yaml:2:1", "partiton", "did you mean 'partition'?")
    (here / "profiles" / "dev.yaml").rename(here / "profiles" / "dve.yaml")
    refused(capsys, 3, "dev", "dve")
    assert not Path("runs").exists()
    profile(here, "partition: low")
    the_same_command_continues()
