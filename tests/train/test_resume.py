"""A run that is killed and started again writes the record it would have written, to the bit.

`deaths.py` says at which moments a run dies here, `curves.py` which fields may differ.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import curve, write_plan
from deaths import Death, different_moments, dying_at

from scalekit import cli
from scalekit.models.gpt import GPT
from scalekit.results.record import RecordWriter, read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.run import train_run

# A step line means over three steps and a checkpoint falls in the middle of them.
LOG = {"every": 3, "evals": 2, "checkpoint_steps": 2}
STEPS = {"steps": 7}

CASES: dict[str, dict[str, Any]] = {
    "swiglu, untied, cosine, a graph walk": {"model": {"mlp": "swiglu"}},
    "tied, wsd, the standard library": {
        "model": {"mlp": "swiglu", "tied": True, "vocab": 256},
        "data": {"source": "stdlib"},
        "train": {"schedule": "wsd", "decay_frac": 0.5},
    },
    "relu2, grouped queries, mup, wsd by the root, a spectrum": {
        "model": {"n_kv_heads": 1, "parametrization": "mup", "base_width": 8},
        "data": {"synthetic": {"kind": "specbigram", "symbols": 64}},
        "train": {"schedule": "wsd", "decay_shape": "sqrt", "decay_frac": 0.5},
    },
    "gelu, tied, no query norm, three epochs": {
        "model": {"mlp": "gelu", "tied": True, "qk_norm": False},
        "data": {"unique_tokens": 320, "max_epochs": 3.0},
        "train": {"schedule": "constant"},
    },
    "bfloat16": {"model": {"mlp": "swiglu"}, "train": {"dtype": "bfloat16"}},
}
# torch's own kernel of RMSNorm takes no float32 gain on bfloat16 heads and says so once.
not_fused = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
of_every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def small(planned: Callable[..., RunSpec], case: Mapping[str, Any], **train: Any) -> RunSpec:
    parts = {**case, "train": {**STEPS, **case.get("train", {}), **train}}
    return planned(**{"log": LOG, **parts})


def uninterrupted(spec: RunSpec, root: Path) -> dict[str, Any]:
    folder = SweepFolder(root / "uninterrupted")
    assert train_run(spec, folder, device="cpu") == "done"
    return curve(folder.record(spec.id))


def operations(spec: RunSpec, root: Path) -> list[str]:
    """List what a run of this spec does to the disk."""
    with dying_at(None) as done:
        train_run(spec, SweepFolder(root / "listed"), device="cpu")
    return done


def dies(spec: RunSpec, folder: SweepFolder, moment: int) -> bool:
    """Train until a moment; say whether the run lived to see it."""
    try:
        with dying_at(moment):
            train_run(spec, folder, device="cpu")
    except Death:
        return True
    return False


@pytest.mark.usefixtures("quick_attempts")
def test_a_run_killed_at_any_disk_operation_gives_the_uninterrupted_record(
    planned, tmp_path: Path
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    done = operations(spec, tmp_path)
    # Lines, three checkpoints of which one is dropped, the end, and the clearing away.
    assert {"write", "fsync", "replace", "unlink", "rmdir"} == set(done)
    for moment in different_moments(done):
        folder = SweepFolder(tmp_path / str(moment))
        assert dies(spec, folder, moment)
        assert train_run(spec, folder, device="cpu") == "done"
        assert curve(folder.record(spec.id)) == expected, f"killed at moment {moment}"
        assert not folder.checkpoints(spec.id).exists(), f"killed at moment {moment}"


@pytest.mark.usefixtures("quick_attempts")
def test_lines_are_on_the_disk_before_a_checkpoint_that_counts_on_them(
    planned, tmp_path: Path
) -> None:
    done = operations(small(planned, {}), tmp_path)
    for place in (i for i, name in enumerate(done) if name == "replace"):
        # The record is synced, then the checkpoint under its temporary name, then it is put in
        # place: a power cut at no point leaves a checkpoint without the lines before it.
        since = done[:place][::-1].index("write")
        assert done[place - since : place] == ["fsync", "fsync"]


@not_fused
@of_every_case
@pytest.mark.usefixtures("quick_attempts")
def test_a_run_killed_again_and_again_gives_the_uninterrupted_record(
    planned, tmp_path: Path, case: dict[str, Any]
) -> None:
    spec = small(planned, case)
    expected = uninterrupted(spec, tmp_path)
    n_moments = 2 * len(operations(spec, tmp_path))
    for seed in range(3):
        draw, folder = random.Random(seed), SweepFolder(tmp_path / str(seed))
        n_deaths = sum(dies(spec, folder, draw.randrange(n_moments)) for _ in range(3))
        assert n_deaths > 0
        assert train_run(spec, folder, device="cpu") == "done"
        assert curve(folder.record(spec.id)) == expected, f"seed {seed}"


@pytest.mark.usefixtures("quick_attempts")
def test_a_model_that_draws_random_numbers_draws_the_same_after_a_kill(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = GPT.loss

    def noisy(self: GPT, *args: Any, **options: Any) -> torch.Tensor:
        loss = plain(self, *args, **options)
        return loss + torch.rand(()) if self.training else loss

    monkeypatch.setattr(GPT, "loss", noisy)
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    done, folder = operations(spec, tmp_path), SweepFolder(tmp_path / "killed")
    assert dies(spec, folder, 2 * done.index("replace") + 1)
    torch.manual_seed(1)  # another process starts from another state
    assert train_run(spec, folder, device="cpu") == "done"
    assert curve(folder.record(spec.id)) == expected


def nudge_a_weight(state: dict[str, Any]) -> None:
    weights = state["model"]["blocks.0.mlp.up"]
    weights.copy_(torch.nextafter(weights, torch.tensor(9.0)))


def forget_a_moment(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][0]["exp_avg"].zero_()


def forget_the_sum(state: dict[str, Any]) -> None:
    state["progress"]["loss_sum"] = 0.0


def repeat_a_step(state: dict[str, Any]) -> None:
    state["progress"]["step"] -= 1


@pytest.mark.usefixtures("quick_attempts")
@pytest.mark.parametrize("damage", [nudge_a_weight, forget_a_moment, forget_the_sum, repeat_a_step])
def test_a_checkpoint_that_lost_anything_is_seen_in_the_curve(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[..., None]
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    folder = SweepFolder(tmp_path / "killed")
    replaces = [i for i, name in enumerate(operations(spec, tmp_path)) if name == "replace"]
    assert dies(spec, folder, 2 * replaces[1] + 1)
    load = Checkpoints.load

    def load_damaged(*args: Any) -> Mapping[str, Any] | None:
        state = load(*args)
        assert state is not None
        damage(state)
        return state

    monkeypatch.setattr(Checkpoints, "load", load_damaged)
    assert train_run(spec, folder, device="cpu") == "done"
    assert curve(folder.record(spec.id)) != expected


@pytest.mark.usefixtures("quick_attempts")
def test_a_damaged_newest_checkpoint_costs_steps_and_changes_nothing(
    planned, tmp_path: Path
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    folder = SweepFolder(tmp_path / "killed")
    replaces = [i for i, name in enumerate(operations(spec, tmp_path)) if name == "replace"]
    assert dies(spec, folder, 2 * replaces[1] + 1)
    newest = Checkpoints(folder.checkpoints(spec.id), spec.id).newest_first()[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    assert train_run(spec, folder, device="cpu", report=said.append) == "done"
    assert said[0].startswith(f"{newest}: damaged")
    assert read_record(folder.record(spec.id)).attempts[-1]["resumed_from"] == 2
    assert curve(folder.record(spec.id)) == expected


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGUSR2, 143), (signal.SIGINT, 130)]


@pytest.mark.usefixtures("quick_attempts")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_saves_and_the_same_command_continues(
    *, planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int, code: int
) -> None:
    # The C library's memory is the whole test process's.
    monkeypatch.setattr("scalekit.train.device.keep_freed_memory", lambda: True)
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    folder = write_plan(tmp_path / "sweep", spec)
    command = ["train", str(folder.root), spec.id[:4], "--device", "cpu"]
    with monkeypatch.context() as patch:
        write = RecordWriter.write

        def write_and_signal(self: RecordWriter, t: str, **fields: Any) -> None:
            write(self, t, **fields)
            if fields.get("step") == 3:
                signal.raise_signal(number)

        patch.setattr(RecordWriter, "write", write_and_signal)
        assert cli.run(command) == code
    assert capsys.readouterr().out == f"{spec.id} stopped\n"
    assert read_state(folder.record(spec.id)).status == "stopped"
    assert cli.run(command) == 0
    assert capsys.readouterr().out == f"{spec.id} done\n"
    # It was saved at the step of the signal: nothing is computed twice.
    assert read_record(folder.record(spec.id)).attempts[-1]["resumed_from"] == 3
    assert curve(folder.record(spec.id)) == expected
    assert not folder.checkpoints(spec.id).exists()
    assert cli.run(command) == 0
    assert curve(folder.record(spec.id)) == expected


# --- The same in processes of their own.


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
