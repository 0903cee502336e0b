"""What is said of runs on a cluster with accounting, and the limits that accounting enforces."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from submitting import Sweep, put_before, wait_until

from scalekit.cli import run
from scalekit.errors import SystemTroubleError

Fake = Callable[[int], Sweep]


def test_accounting_explains_what_the_queue_has_forgotten(
    accounted: Cluster, fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(4)
    sweep.fake_all(seconds=1.0)
    sweep.fake(3, crash=True)
    sweep.start(max_parallel=2)
    wait_until(lambda: sweep.words()[3] == "stopped")
    wait_until(lambda: sweep.words().count("running") == 2)
    accounted.call("scancel", f"--name={sweep.submissions()[-1].path.name}")
    # As after MinJobAge: the queue knows nothing of these jobs any more.
    put_before(monkeypatch, tmp_path, "squeue", before="exit 0")
    wait_until(lambda: sweep.words()[:3] == ["cancelled"] * 3)
    states = sweep.states()
    assert states[sweep.ids[3]].why == "killed by signal 9"
    assert "was cancelled" in states[sweep.ids[2]].why


def test_status_of_a_finished_sweep_needs_no_scheduler_and_of_a_waiting_one_two_calls(
    accounted: Cluster,
    fake_sweep: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = fake_sweep(3)
    sweep.fake_all(seconds=0.2)
    accounted.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        sweep.start(max_parallel=1)
        for program in ("squeue", "sacct", "scontrol"):
            put_before(monkeypatch, tmp_path, program, before=f"echo {program} >> {tmp_path}/calls")
        capsys.readouterr()
        assert run(["status", str(sweep.folder.root), "--format", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["status"] for row in rows] == ["pending"] * 3
        assert all("PartitionDown" in row["why"] for row in rows)
        assert (tmp_path / "calls").read_text().split() == ["squeue"]
    finally:
        accounted.call("scontrol", "update", "partitionname=main", "state=up")
    wait_until(lambda: {line.state for line in sweep.board()} == {"d"})
    (tmp_path / "calls").unlink()
    assert run(["status", str(sweep.folder.root), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 3}
    assert not (tmp_path / "calls").exists()


@pytest.fixture
def few_jobs(accounted: Cluster) -> Iterator[Cluster]:
    """Allow this person three jobs at a time."""
    me = ("sacctmgr", "-i", "modify", "user", os.environ.get("USER", "root"), "set")
    accounted.call(*me, "MaxSubmitJobs=3")
    yield accounted
    accounted.call(*me, "MaxSubmitJobs=-1")


def test_a_limit_on_submitted_jobs_means_fewer_workers_and_no_fewer_runs(
    few_jobs: Cluster, fake_sweep: Fake
) -> None:
    sweep = fake_sweep(8)
    sweep.lines[0]["resources"] = {"cpus": 2}
    sweep.start()
    sweep.wait_for("done")
    assert sweep.attempts() == [1] * 8
    assert len({line.job for folder in sweep.submissions() for line in folder.lines()}) <= 3
    wait_until(lambda: not few_jobs.call("squeue", "-h"))
    full = few_jobs.call("sbatch", "--parsable", "-H", "--array=0-2", "--wrap", "true").strip()
    again = fake_sweep(9)
    with pytest.raises(SystemTroubleError, match="limit of 3 submitted jobs is used up, 3 are in"):
        again.start()
    few_jobs.call("scancel", full)
    wait_until(lambda: not few_jobs.call("squeue", "-h"))
    assert again.start().started == (again.ids[8],)
    again.wait_for("done")


@pytest.mark.usefixtures("accounted")
def test_an_account_that_does_not_exist_is_refused_in_slurms_words(fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    with pytest.raises(SystemTroubleError, match="Invalid account"):
        sweep.start(profile={"account": "no-such-lab"})
    sweep.start(profile={"account": "test"})
    sweep.wait_for("done")
