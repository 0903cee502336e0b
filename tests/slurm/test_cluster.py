"""The test cluster itself: a real Slurm that survives what tests do to it and leaves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cluster import Cluster, free_port, require_slurm, stop_started
from submitting import wait_until


def submit(cluster: Cluster, script: Path, *options: str) -> str:
    return cluster.call("sbatch", "--parsable", *options, str(script)).strip()


def states(cluster: Cluster, job: str) -> list[str]:
    return cluster.call("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    path.write_text(
        "#!/bin/bash\n"
        f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES > {tmp_path}/$SLURM_ARRAY_TASK_ID.txt\n"
        f"until [ $(ls {tmp_path}/*.txt | wc -l) -ge ${{TOGETHER:-0}} ]; do sleep 0.1; done\n"
        "sleep ${SLEEP:-0.5}\n"
    )
    return path


def test_an_array_gets_a_gpu_an_element_and_each_gpu_once(
    cluster: Cluster, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER", "6")  # one that ends early leaves its GPU to another
    job = submit(cluster, script, "--array=0-5", "--gpus-per-node=1", "--output=/dev/null")
    wait_until(lambda: states(cluster, job) == ["COMPLETED"] * 6)
    places = [(tmp_path / f"{i}.txt").read_text() for i in range(6)]
    assert len(set(places)) == 6
    assert all(0 <= int(place.split()[1]) < 4 for place in places)


def test_a_job_survives_a_restart_of_the_controller(
    cluster: Cluster, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP", "2")
    job = submit(cluster, script, "--array=0", "--output=/dev/null")
    wait_until(lambda: states(cluster, job) == ["RUNNING"])
    # Killed with SIGKILL a controller forgets what it was told in its last seconds.
    cluster.kill("slurmctld", signal.SIGTERM)
    cluster.start_controller()
    wait_until(lambda: states(cluster, job) == ["COMPLETED"])


def test_accounting_remembers_how_a_job_ended(accounted: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "fails.sh"
    path.write_text("#!/bin/bash\nexit 3\n")
    job = submit(accounted, path, "--output=/dev/null")
    ask = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode")
    wait_until(lambda: accounted.call(*ask).strip() == "FAILED|3:0")


def test_a_cluster_that_was_stopped_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    require_slurm(accounting=False)
    cluster = Cluster(tmp_path, free_port(30), nodes=1, gpus=0, survives=True)
    cluster.start()
    assert cluster.call("sinfo", "-h", "-o", "%D %T").split()[:2] == ["1", "idle"]
    cluster.stop()
    assert stop_started(tmp_path) == []
    cluster.start()
    assert sorted(stop_started(tmp_path)) == ["slurmctld", "slurmd.n1"]
    assert stop_started(tmp_path) == []
    cluster.stop()


def test_without_slurm_the_tests_are_skipped_and_where_it_is_required_they_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.missing_programs", lambda *, accounting: ["slurmd"])
    monkeypatch.setenv("SCALEKIT_REQUIRE_SLURM", "")
    with pytest.raises(pytest.skip.Exception, match=r"install: apt-get install .* slurmctld"):
        require_slurm(accounting=False)
    monkeypatch.setenv("SCALEKIT_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="slurmdbd mariadb-server"):
        require_slurm(accounting=True)
