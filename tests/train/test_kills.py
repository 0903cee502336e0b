"""A process killed at a moment or at random, or asked to stop, goes on as if nothing had been.

The quick and exhaustive form is `test_resume.py`; here the kills are real.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from curves import curve, write_plan
from small_runs import CASES, SIGNALS, operations, small, uninterrupted

from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.checkpoint import Checkpoints

DEATHS = Path(__file__).with_name("deaths.py")
PATIENCE = 600.0
"""Seconds after which a process that should have ended is a failure, however busy the machine."""


class Starter:
    """Starts `scalekit train` in processes of their own; none of them outlives the test."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._started: list[subprocess.Popen[str]] = []

    def __call__(
        self, folder: SweepFolder, spec: RunSpec, moment: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a run; with a moment it kills itself there."""
        script = ["-m", "scalekit"] if moment is None else [str(DEATHS), str(moment)]
        where = ["--device", "cpu", "--threads", str(self.threads)]
        process = subprocess.Popen(
            [sys.executable, *script, "train", str(folder.root), spec.id, *where],
            env={**os.environ, "PYTHONPATH": str(DEATHS.parents[2])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def finish(self, folder: SweepFolder, spec: RunSpec) -> dict[str, Any]:
        """Run to the end and return the curve."""
        process = self(folder, spec)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert not folder.checkpoints(spec.id).exists()
        return curve(folder.record(spec.id))

    def kill_all(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.kill_all()


def moments(done: list[str]) -> dict[str, int]:
    """Name the moments that people ask about."""
    fsyncs = [i for i, name in enumerate(done) if name == "fsync"]
    unlinks = [i for i, name in enumerate(done) if name == "unlink"]
    last_fsync = fsyncs[-1]
    return {
        "half a checkpoint": 2 * fsyncs[1] + 1,
        "half a header": 1,
        "before the first checkpoint": 2 * fsyncs[0],
        "after the last step, before the end line": 2 * (last_fsync - 1),
        "half the end line": 2 * (last_fsync - 1) + 1,
        "the checkpoints of a finished run half removed": 2 * unlinks[-1] + 1,
    }


MOMENTS = [
    "half a checkpoint",
    *(
        pytest.param(name, marks=pytest.mark.slow)  # each is two processes that import torch
        for name in (
            "half a header",
            "before the first checkpoint",
            "after the last step, before the end line",
            "half the end line",
            "the checkpoints of a finished run half removed",
        )
    ),
]


@pytest.mark.parametrize("name", MOMENTS)
def test_a_process_killed_at_a_moment_gives_the_uninterrupted_record(
    planned, tmp_path: Path, start: Starter, name: str
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    folder = write_plan(tmp_path / "killed", spec)
    process = start(folder, spec, moments(operations(spec, tmp_path))[name])
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert start.finish(folder, spec) == expected


def lines_of(folder: SweepFolder, spec: RunSpec) -> int:
    path = folder.record(spec.id)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def signal_somewhere(
    process: subprocess.Popen[str],
    number: int,
    folder: SweepFolder,
    spec: RunSpec,
    draw: random.Random,
) -> int:
    """Send a signal when the record has a drawn number of new lines, and a little later."""
    goal = lines_of(folder, spec) + draw.randint(1, 9)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and lines_of(folder, spec) < goal:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(draw.uniform(0.0, 0.02))
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    return process.returncode


N_KILLS = 6
CAMPAIGN: dict[str, tuple[dict[str, Any], int | None, int]] = {
    # Case, steps between checkpoints, threads. With one step between them a run spends its time
    # writing checkpoints, so that is what most kills interrupt; with None there is never one.
    **{name: (case, 1 + i % 3, 1) for i, (name, case) in enumerate(CASES.items())},
    "before any checkpoint": ({"model": {"tied": True}}, None, 1),
    "two threads": (
        {"model": {"d_model": 64, "d_ff": 256, "context": 64}, "train": {"batch_tokens": 1024}},
        4,
        2,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CAMPAIGN)
def test_a_process_killed_at_random_gives_the_uninterrupted_record(
    planned, tmp_path: Path, start: Starter, name: str
) -> None:
    case, every, start.threads = CAMPAIGN[name]
    if "unique_tokens" in case.get("data", {}):
        case = {**case, "data": {"unique_tokens": 2048, "max_epochs": 4.0}}
    log = {"every": 1, "evals": 8, "checkpoint_steps": every}
    spec = small(planned, {**case, "log": log}, steps=60)
    expected = start.finish(write_plan(tmp_path / "uninterrupted", spec), spec)
    folder = write_plan(tmp_path / "killed", spec)
    draw = random.Random(name)
    codes = [
        signal_somewhere(start(folder, spec), signal.SIGKILL, folder, spec, draw)
        for _ in range(N_KILLS)
    ]
    # A machine that is very busy may let a run end before the signal is sent.
    assert codes.count(-signal.SIGKILL) >= N_KILLS // 2
    assert start.finish(folder, spec) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_process_that_is_asked_to_stop_saves_and_continues(
    planned, tmp_path: Path, start: Starter, number: int, code: int
) -> None:
    log = {"every": 1, "evals": 8, "checkpoint_steps": None}
    spec = small(planned, {"log": log}, steps=200)
    expected = uninterrupted(spec, tmp_path)
    folder = write_plan(tmp_path / "stopped", spec)
    draw = random.Random(number)
    for _ in range(2):
        assert signal_somewhere(start(folder, spec), number, folder, spec, draw) == code
        step = read_record(folder.record(spec.id)).steps[-1]["step"]
        saved = Checkpoints(folder.checkpoints(spec.id), spec.id).newest_first()[0]
        assert saved.name == f"step-{step:09d}.pt"
    assert start.finish(folder, spec) == expected
