"""A job that its node cannot launch is held by Slurm; the sweep command lets it go again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, free_port, require_slurm, worker_number
from submitting import Sweep, wait_until

from scalekit.cli import run
from scalekit.executors.base import JobState
from scalekit.results.live import ask_executors


def standing(sweep: Sweep) -> list[JobState]:
    return list(ask_executors(sweep.folder).jobs.values())


def test_jobs_that_could_not_be_launched_are_let_go_by_the_same_command(
    fake_sweep: Callable[[int], Sweep],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    require_slurm(accounting=False)
    broken, prolog = tmp_path / "broken", tmp_path / "prolog"
    prolog.write_text(f"#!/bin/bash\n[ ! -e {broken} ]\n")
    prolog.chmod(0o755)
    home, port = tmp_path / "cluster", free_port(30 + worker_number())
    cluster = Cluster(home, port, nodes=1, settings={"Prolog": str(prolog)})
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    cluster.start()
    try:
        broken.touch()
        sweep = fake_sweep(3)
        sweep.start()
        wait_until(lambda: any(s.is_held for s in standing(sweep)), shown=sweep.states)
        (state,) = {s.why for s in standing(sweep) if s.is_held}
        assert "the sweep command lets it go" in state
        assert run(["status", str(sweep.folder.root)]) == 0
        assert "lets it go" in capsys.readouterr().out
        broken.unlink()
        cluster.mend()
        assert sweep.start().started == ()
        assert "which Slurm could not launch" in capsys.readouterr().err
        sweep.wait_for("done")
        assert sweep.attempts() == [1, 1, 1]
    finally:
        cluster.stop()
