"""What is said of runs that a cluster ended, with accounting and without: the cause, or that none
can be known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from submitting import Sweep, put_before, wait_until

from scalekit.cli import run

Fake = Callable[[int], Sweep]

EVERYTHING = ("--exclusive", "--nodes=4", "--partition=main", "--output=/dev/null")


def start_one(
    cluster: Cluster,
    sweep: Sweep,
    *,
    is_deaf: bool = False,
    seconds: float = 2.0,
    **settings: Any,
) -> tuple[str, str]:
    """Start a run of a few seconds that its job does not go back to the queue for; job and node."""
    sweep.fake_all(seconds=seconds, deaf=is_deaf)
    sweep.start(**settings)
    sweep.wait_for("running")
    wait_until(lambda: all(sweep.folder.record(r).exists() for r in sweep.ids))
    name = f"--name={sweep.submissions()[-1].path.name}"
    words = ("squeue", "-h", "-r", "-t", "RUNNING", name, "-o", "%F_%K %N")
    job, node = cluster.call(*words).splitlines()[0].split()
    cluster.call("scontrol", "update", f"jobid={job}", "requeue=0")
    return job, node


def finish(sweep: Sweep, code: int) -> None:
    """Require the exit code of a sweep in this state, and that the same command ends it."""
    assert run(["status", str(sweep.folder.root), "--check"]) == code
    sweep.fake_all()
    assert set(sweep.start().started) == set(sweep.ids)
    sweep.wait_for("done")
    assert run(["status", str(sweep.folder.root), "--check"]) == 0
    assert [loss for _, loss in sweep.losses()[0]] == [2.9, 2.8, 2.7, 2.6]


@pytest.mark.slow
def test_preempted_and_not_requeued(either: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    job, _ = start_one(either, sweep, profile={"partition": "low"})
    either.call("sbatch", *EVERYTHING, "--wrap", "sleep 1")
    sweep.wait_for("stopped")
    wait_until(lambda: "did not go back" in sweep.states()[sweep.ids[0]].why)
    why = sweep.states()[sweep.ids[0]].why
    assert why.startswith(f"saved, and job {job} did not go back to the queue; see slurm/demo-")
    assert "cannot be requeued" in (sweep.folder.root / why.partition("see ")[2]).read_text()
    finish(sweep, 5)
    assert sweep.attempts() == [2]


@pytest.mark.slow
def test_preempted_and_killed_for_it_did_not_listen(either: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    job, _ = start_one(either, sweep, is_deaf=True, seconds=30.0, profile={"partition": "low"})
    either.call("sbatch", *EVERYTHING, "--wrap", "sleep 1")
    sweep.wait_for("preempted")
    assert sweep.states()[sweep.ids[0]].why == f"job {job} was preempted and not requeued"
    finish(sweep, 4)


@pytest.mark.slow
def test_lost_with_its_node(either: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    job, node = start_one(either, sweep)
    either.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    sweep.wait_for("node_failed")
    assert sweep.states()[sweep.ids[0]].why == f"job {job} was lost with its node"
    finish(sweep, 4)


def test_cancelled_by_someone(either: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    job, _ = start_one(either, sweep)
    either.call("scancel", job)
    sweep.wait_for("cancelled")
    assert sweep.states()[sweep.ids[0]].why == f"job {job} was cancelled"
    finish(sweep, 5)


@pytest.mark.usefixtures("either")
def test_ended_by_itself_in_every_way(fake_sweep: Fake) -> None:
    sweep = fake_sweep(4)
    sweep.fake(1, end="diverge")
    sweep.fake(2, end="fail")
    sweep.fake(3, crash=True)
    sweep.start()
    sweep.wait_for("done", "diverged", "failed", "stopped")
    assert sweep.states()[sweep.ids[3]].why == "killed by signal 9"
    # What crashed is to be continued; what ended has ended.
    assert run(["status", str(sweep.folder.root), "--check"]) == 5
    sweep.fake(3)
    assert sweep.start().started == (sweep.ids[3],)
    sweep.wait_for("done", "diverged", "failed", "done")
    assert run(["status", str(sweep.folder.root), "--check"]) == 4
    sweep.fake(2)
    assert sweep.start(retry=("failed",)).started == (sweep.ids[2],)
    sweep.wait_for("done", "diverged", "done", "done")


def test_a_waiting_element_that_is_cancelled_takes_no_run_with_it(
    either: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(3)
    sweep.fake_all(seconds=0.3)
    sweep.start(max_parallel=1)
    sweep.wait_for("pending", "pending", "running")
    name = f"--name={sweep.submissions()[-1].path.name}"
    array = either.call("squeue", "-h", name, "-o", "%F").split()[0]
    # Such an element vanishes from the queue and from the accounting; runs belong to none.
    either.call("scancel", f"{array}_2")
    sweep.wait_for("done")
    assert sweep.attempts() == [1, 1, 1]


def test_what_the_queue_has_forgotten_is_explained_or_said_to_be_unknown(
    either: Cluster, fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(1)
    job, _ = start_one(either, sweep)
    either.call("scancel", job)
    sweep.wait_for("cancelled")
    # As after MinJobAge: the queue knows nothing of these jobs any more.
    with monkeypatch.context() as patch:
        put_before(patch, tmp_path, "squeue", before="exit 0")
        if either.accounting:
            sweep.wait_for("cancelled")
        else:
            sweep.wait_for("lost")
            why = sweep.states()[sweep.ids[0]].why
            assert why.startswith("left the queue without an end, and why cannot be known: sacct:")
            assert "accounting storage is disabled" in why
    finish(sweep, 5)


@pytest.mark.usefixtures("either")
def test_a_job_number_that_slurm_uses_again_fools_nobody(
    fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(1)
    sweep.fake(0, crash=True)
    sweep.start()
    sweep.wait_for("stopped")
    job = sweep.board()[0].job.partition("_")[0]
    # Another's job of this very number runs, in the queue and in the accounting.
    other = f'echo "other|{job}|0|RUNNING|None"; exit 0'
    kept = f'echo "other|{job}_0|RUNNING|0:0"; exit 0'
    with monkeypatch.context() as patch:
        put_before(patch, tmp_path, "squeue", before=other)
        put_before(patch, tmp_path, "sacct", before=kept)
        assert sweep.words() == ["stopped"]
        assert sweep.states()[sweep.ids[0]].why == "killed by signal 9"
