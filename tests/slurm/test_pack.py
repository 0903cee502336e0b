"""Several runs in one job on one GPU: side by side, and none pays for what happens to another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cluster import Cluster
from submitting import Sweep, intervals, most_at_once, wait_until

from scalekit.cli import run

Fake = Callable[[int], Sweep]


@pytest.mark.usefixtures("cluster")
def test_packed_runs_share_one_gpu_at_the_same_time(fake_sweep: Fake) -> None:
    sweep = fake_sweep(6)
    sweep.need(gpus=1, pack=3)
    sweep.fake_all(seconds=0.4)
    sweep.start()
    sweep.wait_for("done")
    by_job: dict[str, list[int]] = {}
    for number, line in enumerate(sorted(sweep.board(), key=lambda line: line.run)):
        by_job.setdefault(line.job, []).append(number)
    spans = intervals(sweep)
    assert sorted(map(len, by_job.values())) == [3, 3]
    for numbers in by_job.values():
        assert most_at_once([spans[i] for i in numbers]) == 3
        devices = {sweep.record(i).attempts[0]["CUDA_VISIBLE_DEVICES"] for i in numbers}
        assert len(devices) == 1
        (device,) = devices
        assert device in ("0", "1", "2", "3")


def test_out_of_memory_ends_the_run_that_eats_and_nobody_else(
    confined: Cluster, fake_sweep: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = fake_sweep(4)
    # The job has 240 MB for its runs, which take some 30 MB each; one takes all that is left.
    sweep.need(pack=3, memory_gb=0.08)
    sweep.fake_all(seconds=0.4)
    sweep.fake(2, eat=1000, seconds=0.2)
    sweep.start(max_parallel=1)
    sweep.wait_for("done", "done", "out_of_memory", "done")
    state = sweep.states()[sweep.ids[2]]
    assert "ran out of memory" in state.why
    # Its neighbours went on in the same job, and the run that had not begun began after it.
    assert sweep.attempts() == [1, 1, 1, 1]
    assert len({line.job for line in sweep.board()}) == 1
    name = sweep.submissions()[-1].path.name
    said = confined.call("squeue", "-h", "-r", "-t", "all", f"--name={name}", "-o", "%T").split()
    assert "OUT_OF_MEMORY" in said
    assert run(["status", str(sweep.folder.root), "--check"]) == 4
    assert run(["logs", str(sweep.folder.root), "--failed"]) == 0
    assert f"==> {sweep.ids[2]} out_of_memory" in capsys.readouterr().out
    # It is not begun again by itself; the same command with more memory ends it.
    sweep.fake(2, eat=1000)
    sweep.need(pack=1, memory_gb=1.5)
    assert sweep.start().started == (sweep.ids[2],)
    sweep.wait_for("done")
    wait_until(lambda: not confined.call("squeue", "-h", "-t", "PENDING,RUNNING"))
