"""Submitting to a real Slurm: each missing run once, few files, its own words when it refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from submitting import (
    Sweep,
    intervals,
    most_at_once,
    put_before,
    start_in_a_process,
    wait_until,
)

from scalekit.cli import run
from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._slurm_queue import outside_a_job
from scalekit.results.jobs import read_submissions

Fake = Callable[[int], Sweep]


def files(sweep: Sweep) -> set[str]:
    root = sweep.folder.root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def names(cluster: Cluster, states: str = "all") -> list[str]:
    """The names of the arrays that the queue knows."""
    said = cluster.call("squeue", "-h", "-t", states, "-o", "%j %F").splitlines()
    return sorted({line.split()[0] for line in said if line.startswith("demo-")})


def job_of(cluster: Cluster, sweep: Sweep) -> dict[str, str]:
    """What the controller knows of a sweep's newest array."""
    name = sweep.submissions()[-1].path.name
    number = cluster.call("squeue", "-h", "-t", "all", f"--name={name}", "-o", "%F").split()[0]
    said = cluster.call("scontrol", "show", "job", number, "--oneliner").splitlines()[0]
    return dict(re.findall(r"([\w/:]+)=(\S*)", said))


@pytest.mark.usefixtures("cluster")
def test_all_runs_are_trained_and_a_second_time_nothing_is_submitted(
    fake_sweep: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = fake_sweep(3)
    outcome = sweep.start()
    assert len(outcome.started) == 3
    assert "submitted 3 runs as job" in capsys.readouterr().err
    sweep.wait_for("done")
    assert sweep.attempts() == [1, 1, 1]
    # A record ends before its worker has told the board and tidied up.
    wait_until(lambda: [line.state for line in sweep.board()] == ["d"] * 3)
    wait_until(lambda: not list(sweep.submissions()[-1].path.glob("*.out")))
    before = files(sweep)
    again = sweep.start()
    assert (again.started, again.exit_code) == ((), 0)
    assert files(sweep) == before


@pytest.mark.usefixtures("cluster")
def test_nothing_is_submitted_twice_while_it_waits_or_runs(fake_sweep: Fake) -> None:
    sweep = fake_sweep(3)
    sweep.fake_all(seconds=1.0)
    sweep.start(max_parallel=1)
    assert sweep.start().started == ()
    sweep.wait_for("pending", "pending", "running")
    assert sweep.start().started == ()
    assert len(read_submissions(sweep.folder)) == 1
    assert run(["cancel", str(sweep.folder.root)]) == 0


@pytest.mark.usefixtures("cluster")
def test_a_submission_leaves_few_files_and_a_finished_job_none(fake_sweep: Fake) -> None:
    sweep = fake_sweep(16)
    sweep.need(pack=8)
    sweep.start()
    plan = {"sweep.yaml", "plan.jsonl", ".lock"}
    made = {name for name in files(sweep) - plan if not name.startswith(("runs/", "logs/"))}
    assert sorted(Path(name).name for name in made if not name.startswith("jobs/")) == [
        *("board", "job.sh", "manifest.jsonl"),
    ]
    assert sum(name.startswith("jobs/") for name in made) == 1
    sweep.wait_for("done")
    wait_until(lambda: not list(sweep.folder.root.rglob("*.out")))


@pytest.mark.usefixtures("cluster")
def test_a_folder_with_spaces_quotes_and_percent_signs_works(
    fake_sweep: Fake, tmp_path: Path
) -> None:
    sweep = fake_sweep(1)
    odd = Sweep(type(sweep.folder)(tmp_path / 'o\'b "q" 100%j $HOME' / "sw ee;p"), sweep.lines)
    odd.start()
    odd.wait_for("done")


@pytest.mark.usefixtures("cluster")
def test_a_folder_with_a_line_break_is_refused_before_anything_is_written(
    fake_sweep: Fake, tmp_path: Path
) -> None:
    sweep = fake_sweep(1)
    odd = Sweep(type(sweep.folder)(tmp_path / "a\nb"), sweep.lines)
    with pytest.raises(InputError, match="line break"):
        odd.start()
    assert not (tmp_path / "a\nb" / "plan.jsonl").exists()


def test_needs_become_options_and_equal_needs_one_array(cluster: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(4)
    sweep.fake_all(seconds=0.5)
    sweep.need(gpus=1, cpus=2, memory_gb=1.5, pack=2, time_s=5400.0)
    for line in sweep.lines[2:]:
        line["resources"] = {"gpus": 2, "cpus": 3, "pack": 2}
    profile = {"setup": ["export FROM_SETUP='a b'"], "partition": "low", "python": sys.executable}
    sweep.start(profile=profile)
    assert len(sweep.submissions()) == 2
    small, large = sweep.submissions()
    packed = re.findall(r"#SBATCH --(\S+)", small.script.read_text())
    # Two runs share the GPU and have cores and memory of their own.
    assert {"cpus-per-task=4", "gpus-per-node=1", "mem=2862M", "time=90", "nodes=1"} <= set(packed)
    assert {"partition=low", "requeue", "signal=B:USR2@120"} <= set(packed)
    alone = re.findall(r"#SBATCH --(\S+)", large.script.read_text())
    # As many cores for each of the two processes, one a GPU.
    assert {"cpus-per-task=4", "gpus-per-node=2"} <= set(alone)
    assert not any(word.startswith(("mem", "account")) for word in alone)
    assert "export FROM_SETUP='a b'" in small.script.read_text().splitlines()
    sweep.wait_for("done")
    devices = [sweep.record(i).attempts[0]["CUDA_VISIBLE_DEVICES"] for i in range(4)]
    assert [len(word.split(",")) for word in devices] == [1, 1, 2, 2]
    assert job_of(cluster, sweep)["Partition"] == "low"


def test_more_elements_than_an_array_holds_become_several_arrays(
    cluster: Cluster, fake_sweep: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = fake_sweep(7)
    sweep.start(profile={"max_array_size": 4})
    said = re.search(r"submitted 7 runs as job (\d+), (\d+), (\d+) ", capsys.readouterr().err)
    assert said is not None
    sweep.wait_for("done")
    assert sweep.attempts() == [1] * 7
    assert len(sweep.submissions()) == 1
    assert len(names(cluster)) >= 1


def test_the_limits_are_those_that_the_cluster_tells(cluster: Cluster, fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    sweep.need(time_s=120.0)
    with pytest.raises(InputError, match=r"time.limit 2 minutes, partition 'short' allows 1;"):
        sweep.start(profile={"partition": "short"})
    with pytest.raises(SystemTroubleError, match=r"partition 'shrt'.*did you mean 'short'"):
        sweep.start(profile={"partition": "shrt"})
    assert not sweep.folder.plan_file.exists()
    sweep.need(time_s=None)
    sweep.lines[0]["plan"]["estimate"] = 3600.0
    # `auto` asks for no more than the partition gives: the run saves at the limit and goes on.
    sweep.start(profile={"partition": "short"})
    assert job_of(cluster, sweep)["TimeLimit"] == "00:01:00"
    sweep.wait_for("done")


@pytest.mark.usefixtures("cluster")
def test_what_sbatch_refuses_is_said_in_its_words_and_the_same_command_continues(
    fake_sweep: Fake,
) -> None:
    sweep = fake_sweep(2)
    with pytest.raises(SystemTroubleError, match=r"sbatch: .*Invalid feature specification.*mend"):
        sweep.start(profile={"constraint": "no-such-feature"})
    assert sweep.words() == ["pending", "pending"]
    assert sweep.submissions() == []
    sweep.need(cpus=20)
    with pytest.raises(SystemTroubleError, match=r"sbatch: CPU count per node can not be satisf"):
        sweep.start()
    assert sweep.submissions() == []
    sweep.need(cpus=1)
    sweep.start()
    sweep.wait_for("done")
    assert sweep.attempts() == [1, 1]


def test_without_slurm_the_command_says_so_and_writes_nothing(
    fake_sweep: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sweep = fake_sweep(1)
    with pytest.raises(SystemTroubleError, match="not found, so this is no login node") as caught:
        sweep.start()
    assert caught.value.exit_code == 7
    assert not sweep.folder.plan_file.exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_killed_around_sbatch_loses_nothing_and_submits_nothing_twice(
    cluster: Cluster,
    fake_sweep: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    sweep = fake_sweep(2)
    sweep.fake_all(seconds=0.5)
    with monkeypatch.context() as patch:
        # The wrapper kills the command that called it: then nobody reads sbatch's answer.
        put_before(patch, tmp_path, "sbatch", **{moment: "kill -9 $PPID; sleep 0.2"})
        assert start_in_a_process(sweep, tmp_path).wait() == -9
        # Killed before, the wrapper still submits, later than the command died.
        name = sweep.submissions()[-1].path.name
        wait_until(lambda: name in names(cluster))
    outcome = sweep.start()
    assert outcome.started == ()
    sweep.wait_for("done")
    assert sweep.attempts() == [1, 1]
    assert len(sweep.submissions()) == 1


def test_a_submission_that_lands_late_trains_no_run_twice_at_once(
    cluster: Cluster, fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(3)
    sweep.fake_all(seconds=0.5)
    with monkeypatch.context() as patch:
        put_before(patch, tmp_path, "sbatch", before="kill -9 $PPID; sleep 1.5")
        assert start_in_a_process(sweep, tmp_path).wait() == -9
    # The next command finds nothing in the queue and submits; then the first one arrives.
    assert len(sweep.start().started) == 3
    first, second = (folder.path.name for folder in sweep.submissions())
    wait_until(lambda: {first, second} <= set(names(cluster)))
    sweep.wait_for("done")
    wait_until(lambda: not {first, second} & set(names(cluster, "PENDING,RUNNING")))
    assert sweep.attempts() == [1, 1, 1]
    assert [loss for run in sweep.losses() for _, loss in run] == [2.9, 2.8, 2.7, 2.6] * 3


def test_a_command_killed_before_it_called_sbatch_is_made_good_by_the_next(
    cluster: Cluster, fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(2)
    with monkeypatch.context() as patch:
        put_before(patch, tmp_path, "sbatch", before="kill -9 $PPID; exit 1")
        assert start_in_a_process(sweep, tmp_path).wait() == -9
    assert set(sweep.words()) == {"lost"}
    assert len(sweep.start().started) == 2
    sweep.wait_for("done")
    assert sweep.attempts() == [1, 1]


@pytest.mark.usefixtures("cluster")
def test_an_answer_that_gets_lost_is_no_refusal(
    fake_sweep: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = fake_sweep(1)
    lost = 'echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
    put_before(monkeypatch, tmp_path, "sbatch", after=lost)
    assert len(sweep.start().started) == 1
    sweep.wait_for("done")


@pytest.mark.usefixtures("cluster")
def test_a_pack_shares_a_job_and_no_more_run_at_once(fake_sweep: Fake) -> None:
    sweep = fake_sweep(6)
    sweep.fake_all(seconds=0.3)
    sweep.need(pack=3)
    sweep.start(max_parallel=1)
    sweep.wait_for("done")
    assert len({line.job for line in sweep.board()}) == 1
    assert most_at_once(intervals(sweep)) == 3


@pytest.mark.usefixtures("cluster")
def test_no_run_waits_behind_a_slow_one_and_the_longest_begins_first(fake_sweep: Fake) -> None:
    sweep = fake_sweep(8)
    sweep.fake(7, seconds=2.0)  # the plan's longest
    sweep.need(pack=2)
    sweep.start(max_parallel=1)
    sweep.wait_for("done")
    spans = intervals(sweep)
    assert min(spans)[0] == pytest.approx(spans[7][0], abs=0.5)
    assert max(end for _, end in spans[:7]) < spans[7][1]


@pytest.mark.usefixtures("cluster")
def test_a_crash_takes_no_neighbour_and_is_not_started_again_unasked(fake_sweep: Fake) -> None:
    sweep = fake_sweep(5)
    sweep.fake(2, crash=True)
    sweep.fake(3, end="diverge")
    sweep.need(pack=5)
    sweep.start()
    sweep.wait_for("done", "done", "stopped", "diverged", "done")
    state = sweep.states()[sweep.ids[2]]
    assert (state.why, sweep.attempts()) == ("killed by signal 9", [1] * 5)
    (output,) = sweep.folder.root.rglob("*.out")
    assert f"{sweep.ids[2]}: killed by signal 9" in output.read_text()
    sweep.fake(2)
    assert sweep.start().started == (sweep.ids[2],)
    sweep.wait_for("done", "done", "done", "diverged", "done")
    assert sweep.attempts() == [1, 1, 2, 1, 1]


def test_a_job_submitted_from_within_a_job_takes_nothing_of_it() -> None:
    inside = {"SLURM_CPU_BIND": "x", "SLURM_JOB_ID": "7", "RANK": "0", "PMIX_RANK": "0"}
    outside = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "lab", "HOME": "/h"}
    assert outside_a_job({**inside, **outside}) == outside
