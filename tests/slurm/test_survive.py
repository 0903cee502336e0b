"""What a cluster does to jobs: preempts, kills, cancels, loses nodes. No run is lost by it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster import Cluster, pids_of
from submitting import Sweep, wait_until

from scalekit.cli import run
from scalekit.errors import SystemTroubleError

Fake = Callable[[int], Sweep]

UNDISTURBED = [(step, 3.0 - step / 10) for step in (1, 2, 3, 4)]
"""What a stand-in reports, however often it was interrupted."""


def name_of(sweep: Sweep) -> str:
    return sweep.submissions()[-1].path.name


def jobs(cluster: Cluster, sweep: Sweep, state: str = "RUNNING") -> list[str]:
    """The newest submission's jobs in a state, as scontrol names them."""
    said = cluster.call(
        *("squeue", "-h", "-r", "-t", state, f"--name={name_of(sweep)}", "-o", "%F_%K")
    )
    return said.split()


def start_slow(sweep: Sweep, *, seconds: float = 1.0, **settings: Any) -> None:
    """Start runs of a few seconds and wait until they all run."""
    sweep.fake_all(seconds=seconds)
    sweep.start(**settings)
    sweep.wait_for("running")
    wait_until(lambda: all(sweep.folder.record(r).exists() for r in sweep.ids))


def finish(sweep: Sweep) -> None:
    """Let what is left end quickly, and require what the undisturbed sweep reports."""
    sweep.wait_for("done")
    assert sweep.losses() == [UNDISTURBED] * len(sweep.lines)


def test_a_preempted_job_saves_goes_back_to_the_queue_and_continues(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(2)
    sweep.need(pack=2)
    start_slow(sweep, seconds=1.5, profile={"partition": "low"})
    everything = ("--exclusive", "--nodes=4", "--partition=main", "--output=/dev/null")
    other = cluster.call("sbatch", "--parsable", *everything, "--wrap", "sleep 2").strip()
    # A requeued job has to wait a little before it may start again.
    wait_until(lambda: all("waits: BeginTime" in s.why for s in sweep.states().values()))
    assert set(sweep.words()) == {"requeued"}
    assert [line.state for line in sweep.board()] == ["s", "s"]
    assert sweep.start().started == ()
    finish(sweep)
    assert sweep.attempts() == [2, 2]
    assert cluster.call("squeue", "-h", "-t", "all", "-j", other, "-o", "%T").strip() == "COMPLETED"


def test_a_run_of_a_preempted_job_is_continued_by_a_neighbour(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(3)
    start_slow(sweep, seconds=1.0)
    first = jobs(cluster, sweep)[0]
    # What preemption and the time limit send to the job's script.
    cluster.call("scancel", "--signal=USR2", "--batch", first)
    finish(sweep)
    assert sorted(sweep.attempts()) == [1, 1, 2]
    wait_until(lambda: not jobs(cluster, sweep, "PENDING,RUNNING,COMPLETING"), seconds=30.0)


def test_a_job_that_someone_cancels_is_not_revived_and_the_same_command_continues(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(3)
    start_slow(sweep)
    cluster.call("scancel", f"--name={name_of(sweep)}")
    sweep.wait_for("cancelled")
    assert {line.state for line in sweep.board()} == {"k"}
    assert all("was cancelled" in state.why for state in sweep.states().values())
    assert run(["status", str(sweep.folder.root), "--check"]) == 5
    sweep.fake_all()
    assert len(sweep.start().started) == 3
    finish(sweep)
    assert sweep.attempts() == [2, 2, 2]


def test_cancelling_a_sweep_lets_its_runs_save_and_empties_the_queue(
    cluster: Cluster, fake_sweep: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = fake_sweep(4)
    sweep.fake_all(seconds=1.0)
    sweep.start(max_parallel=2)
    wait_until(lambda: sweep.words().count("running") == 2)
    wait_until(lambda: len(list((sweep.folder.root / "runs").glob("*"))) == 2)
    assert run(["cancel", str(sweep.folder.root)]) == 0
    assert "asked 4 runs to save and stop" in capsys.readouterr().out
    sweep.wait_for("cancelled")
    # Saved and ended by themselves, not killed; so they never went back to the queue either.
    assert sorted(line.state for line in sweep.board()) == [".", ".", "c", "c"]
    wait_until(lambda: jobs(cluster, sweep, "PENDING,RUNNING") == [], seconds=10.0)
    assert run(["wait", str(sweep.folder.root)]) == 5
    sweep.fake_all()
    assert len(sweep.start().started) == 4
    finish(sweep)


@pytest.mark.usefixtures("cluster")
def test_cancelling_one_run_leaves_its_neighbours_alone(fake_sweep: Fake) -> None:
    sweep = fake_sweep(4)
    sweep.need(pack=2)
    sweep.fake_all(seconds=1.0)
    sweep.start(max_parallel=1)
    sweep.wait_for("pending", "pending", "running", "running")
    wait_until(sweep.folder.record(sweep.ids[3]).exists)
    # One that runs, and one that no worker has begun.
    assert run(["cancel", str(sweep.folder.root), sweep.ids[3], sweep.ids[0]]) == 0
    sweep.wait_for("cancelled", "done", "done", "cancelled")
    assert not sweep.folder.record(sweep.ids[0]).exists()
    assert sweep.start().started == (sweep.ids[0], sweep.ids[3])
    finish(sweep)


def test_a_node_that_fails_gives_its_runs_back(cluster: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    start_slow(sweep, seconds=1.5)
    (job,) = jobs(cluster, sweep)
    node = cluster.call("squeue", "-h", "-j", job, "-o", "%N").strip()
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    sweep.wait_for("requeued")
    finish(sweep)
    assert sweep.attempts() == [2]


def test_a_worker_that_is_killed_leaves_a_lost_run_and_unbegun_ones_to_others(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(3)
    sweep.fake_all(seconds=0.5)
    sweep.fake(2, seconds=30.0)
    sweep.start(max_parallel=1)
    sweep.wait_for("pending", "pending", "running")
    for pattern in (f"_slurm_worker .*{name_of(sweep)}", f"fake_train.py .*{sweep.ids[2]}"):
        for pid in pids_of(cluster, pattern):
            os.kill(pid, signal.SIGKILL)
    sweep.wait_for("done", "done", "lost")
    assert "failed" in sweep.states()[sweep.ids[2]].why
    assert run(["status", str(sweep.folder.root), "--check"]) == 4
    sweep.fake(2)
    assert sweep.start().started == (sweep.ids[2],)
    finish(sweep)


def test_while_the_controller_is_down_nothing_is_submitted_and_nothing_is_lost(
    cluster: Cluster, fake_sweep: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = fake_sweep(2)
    start_slow(sweep, seconds=5.0)
    cluster.kill("slurmctld", signal.SIGTERM)
    try:
        with pytest.raises(SystemTroubleError, match="nobody knows which of them still wait"):
            sweep.start()
        assert run(["status", str(sweep.folder.root)]) == 0
        assert "Unable to contact slurm controller" in capsys.readouterr().err
    finally:
        cluster.start_controller()
    assert sweep.start().started == ()
    finish(sweep)
    assert sweep.attempts() == [1, 1]


@pytest.mark.slow
def test_a_job_asks_again_to_go_back_where_the_controller_is_away_as_it_saves(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(1)
    start_slow(sweep, seconds=4.0)
    cluster.call("scancel", "--signal=USR2", "--batch", *jobs(cluster, sweep))
    cluster.kill("slurmctld", signal.SIGTERM)
    try:
        wait_until(lambda: [line.state for line in sweep.board()] == ["k"])
        # Time for a first question that nobody answers.
        time.sleep(10.0)
    finally:
        cluster.start_controller()
    finish(sweep)
    assert sweep.attempts() == [2]


def test_a_second_life_of_a_job_waits_for_the_first_that_still_works(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(1)
    start_slow(sweep, seconds=4.0)
    (job,) = jobs(cluster, sweep)
    node = cluster.call("squeue", "-h", "-j", job, "-o", "%N").strip()
    # The node is cut off: its daemon and the steps' watcher die, the job's processes live on.
    cluster.kill(f"slurmd.{node}")
    raw = cluster.call("squeue", "-h", "-j", job, "-o", "%A").strip()
    for pid in pids_of(cluster, rf"^slurmstepd: \[{raw}\.batch\]"):
        os.kill(pid, signal.SIGKILL)
    try:
        cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        finish(sweep)
    finally:
        cluster.start_node(node)
    # The requeued copy found the run locked, and let the first end it.
    assert sweep.attempts() == [1]
    wait_until(lambda: not jobs(cluster, sweep, "PENDING,RUNNING,COMPLETING"), seconds=40.0)


@pytest.mark.slow
def test_at_the_time_limit_a_run_that_saves_goes_on_and_a_deaf_one_is_timed_out(
    cluster: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(8)
    sweep.fake_all(seconds=20.0)
    for deaf in (6, 7):
        sweep.fake(deaf, seconds=200.0, deaf=True)
    for line in sweep.lines:
        line["plan"]["estimate"] = 3600.0
    sweep.start(profile={"partition": "short"})
    # Slurm looks at limits twice a minute, so that the signal may come half a minute early.
    sweep.wait_for(*["done"] * 6, *["timed_out"] * 2, seconds=300.0)
    assert all(n >= 2 for n in sweep.attempts()[:6])
    assert "ran into its time limit" in sweep.states()[sweep.ids[7]].why
    assert run(["wait", str(sweep.folder.root)]) == 4
    for deaf in (6, 7):
        sweep.fake(deaf)
    # A deaf process ignored Slurm's SIGTERM; what it left is a run to be continued.
    wait_until(lambda: not jobs(cluster, sweep, "RUNNING,COMPLETING"), seconds=60.0)
    assert sweep.start().started == (sweep.ids[6], sweep.ids[7])
    finish(sweep)
