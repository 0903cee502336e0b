"""A run that is killed and started again writes the record it would have written, to the bit.

`deaths.py` says at which moments a run dies here, `curves.py` which fields may differ;
`test_kills.py` does the same to processes.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import all_files, curve, write_plan
from deaths import Death, different_moments, dying_at
from small_runs import CASES, SIGNALS, operations, small, uninterrupted

from scalekit import cli
from scalekit.errors import InputError
from scalekit.models.gpt import GPT
from scalekit.results.record import RecordWriter, read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.run import train_run

# torch's own kernel of RMSNorm takes no float32 gain on bfloat16 heads and says so once.
not_fused = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
of_every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


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
def test_a_record_that_lost_lines_before_its_checkpoint_gets_them_back(
    planned, tmp_path: Path
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    done = operations(spec, tmp_path)
    last_saved = max(i for i, name in enumerate(done) if name == "replace")
    for seed in range(6):
        folder = SweepFolder(tmp_path / str(seed))
        assert dies(spec, folder, 2 * last_saved + 2)
        path = folder.record(spec.id)
        whole = path.read_bytes()
        header = whole.index(b"\n") + 1
        path.write_bytes(whole[: random.Random(seed).randrange(header, len(whole))])
        assert train_run(spec, folder, device="cpu") == "done"
        assert curve(path) == expected, f"seed {seed}"
        resumed = [line["resumed_from"] for line in read_record(path).attempts]
        assert resumed[-1] > 0


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


def of_another_shape(spec: RunSpec, path: Path) -> str:
    torch.save({**torch.load(path), "model": {"weight": torch.ones(2)}}, path)
    return "the checkpoint of step 4 does not fit this run, "


def of_another_optimizer(spec: RunSpec, path: Path) -> str:
    torch.save({**torch.load(path), "optimizer": {"state": {}, "rest": {}}}, path)
    return "the checkpoint of step 4 does not fit this run, "


def of_another_run(spec: RunSpec, path: Path) -> str:
    torch.save({**torch.load(path), "run": "ffffffffff"}, path)
    return "belongs to run 'ffffffffff'"


def cut_short(spec: RunSpec, path: Path) -> str:
    for each in path.parent.iterdir():
        each.write_bytes(each.read_bytes()[:-100])
    return "every checkpoint is damaged or foreign"


@pytest.mark.usefixtures("quick_attempts")
@pytest.mark.parametrize(
    "spoil", [of_another_shape, of_another_optimizer, of_another_run, cut_short]
)
def test_a_checkpoint_that_is_not_this_runs_is_refused_and_left_alone(
    planned, tmp_path: Path, spoil: Callable[[RunSpec, Path], str]
) -> None:
    spec = small(planned, {})
    expected = uninterrupted(spec, tmp_path)
    folder = SweepFolder(tmp_path / "killed")
    replaces = [i for i, name in enumerate(operations(spec, tmp_path)) if name == "replace"]
    assert dies(spec, folder, 2 * replaces[1] + 1)
    said = spoil(spec, Checkpoints(folder.checkpoints(spec.id), spec.id).newest_first()[0])
    before = all_files(folder.checkpoints(spec.id))
    lines = folder.record(spec.id).read_text()
    with pytest.raises(InputError, match=said):
        train_run(spec, folder, device="cpu")
    assert all_files(folder.checkpoints(spec.id)) == before
    # What was measured stands; the end says why it does not go on.
    assert folder.record(spec.id).read_text().startswith(lines.rstrip("\n"))
    assert read_state(folder.record(spec.id)).status == "failed"
    # The remedy that the message names.
    folder.checkpoints(spec.id).rename(tmp_path / "away")
    assert train_run(spec, folder, device="cpu") == "done"
    assert curve(folder.record(spec.id)) == expected


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
            # Once: a person who presses Ctrl-C twice means it.
            if t == "step" and fields["step"] == 3:
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
