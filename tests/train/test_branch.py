"""A branch is what an uninterrupted run of the same schedule is, to the bit, whatever is killed."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deaths import Death, different_moments, dying_at
from ladders import RUNGS, own_lines, plan
from test_kills import Starter, signal_somewhere

from scalekit.cli import run as command
from scalekit.errors import InputError, NotFinishedError
from scalekit.results.record import SCHEMA, RecordWriter, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.ladder import branch_step
from scalekit.sweep.spec import RunSpec, TrainSpec
from scalekit.train.checkpoint import Checkpoints
from scalekit.train.run import train_run
from scalekit.train.schedule import lr_factor

pytestmark = pytest.mark.usefixtures("quick_attempts")

CASES: dict[str, dict[str, Any]] = {
    "linear": {},
    "by the root, bytes of the standard library, tied": {
        "train": {"decay_shape": "sqrt"},
        "data": {"source": "stdlib"},
        "model": {"tied": True},
    },
    "a rate that knows no end": {"train": {"schedule": "inverse_sqrt"}},
    "several epochs, mup, muon": {
        "train": {"optimizer": "muon"},
        "data": {"unique_tokens": 640, "max_epochs": 4.0},
        "model": {"parametrization": "mup", "base_width": 8},
    },
}


def train(spec: RunSpec, folder: SweepFolder, said: list[str] | None = None) -> str:
    report = (lambda line: None) if said is None else said.append
    return train_run(spec, folder, device="cpu", report=report)


def own(folder: SweepFolder, spec: RunSpec) -> dict[str, Any]:
    return own_lines(folder.record(spec.id), spec.plan.get("branch_step", 0))


def by_themselves(root: Path, ladder: list[RunSpec], **options: Any) -> list[dict[str, Any]]:
    """Train the rungs as separate runs and return what is a branch's own of each."""
    folder, runs = plan(root / "separate", is_ladder=False, **options)
    assert [run.id for run in runs] == [run.id for run in ladder]
    assert all(train(run, folder) == "done" for run in runs)
    after = [run.plan.get("branch_step", 0) for run in ladder]
    return [own_lines(folder.record(r.id), step) for r, step in zip(runs, after, strict=True)]


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_branch_is_bit_identical_to_an_uninterrupted_run_of_its_schedule(tmp_path, changes):
    folder, runs = plan(tmp_path / "ladder", changes=changes)
    assert [train(run, folder) for run in reversed(runs)] == ["done"] * 3
    assert [own(folder, run) for run in runs] == by_themselves(tmp_path, runs, changes=changes)
    for run in runs:
        record = read_record(folder.record(run.id))
        assert record.attempts[0]["resumed_from"] == run.plan.get("branch_step", 0)
        assert record.header["plan"].get("parent") == run.plan.get("parent")
        assert not folder.checkpoints(run.id).exists()


def test_another_seed_would_not_be_bit_identical(tmp_path):
    folder, runs = plan(tmp_path / "ladder")
    train(runs[-1], folder)
    train(runs[0], folder)
    other = by_themselves(tmp_path, runs)[0]
    other_folder, others = plan(tmp_path / "other", changes={"train": {"seed": 1}})
    for run in reversed(others):
        train(run, other_folder)
    assert own(folder, runs[0]) == other
    assert own(other_folder, others[0]) != other


@pytest.mark.parametrize("warmup", [0.0, 2 / 100, 0.1])
@pytest.mark.parametrize("decay", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_a_run_shares_its_rates_with_longer_ones_up_to_its_branch_step_and_no_further(
    warmup, decay, shape
):
    def spec(steps: int) -> TrainSpec:
        share = round(warmup * 100) / steps
        names = {"schedule": "wsd", "decay_shape": shape, "decay_frac": decay}
        return TrainSpec.model_validate({**names, "steps": steps, "warmup_frac": share})

    trunk = spec(1000)
    for steps in (100, 101, 150, 333, 999):
        train = spec(steps)
        last = branch_step(train.model_dump())
        mine = [lr_factor(step, steps, train) for step in range(1, steps + 1)]
        shared = [lr_factor(step, 1000, trunk) for step in range(1, steps + 1)]
        assert mine[:last] == shared[:last]
        assert last == steps or mine[last] < shared[last]


def dies(spec: RunSpec, folder: SweepFolder, moment: int) -> bool:
    try:
        with dying_at(moment):
            train(spec, folder)
    except Death:
        return True
    return False


EVERY = pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
"""All moments take half a minute; every seventh falls on operations of each kind."""


@EVERY
def test_a_trunk_killed_at_any_disk_operation_gives_the_same_branches(tmp_path, stride):
    listed, runs = plan(tmp_path / "listed")
    expected = by_themselves(tmp_path, runs)
    with dying_at(None) as done:
        train(runs[-1], listed)
    for moment in different_moments(done)[::stride]:
        folder, _ = plan(tmp_path / str(moment))
        assert dies(runs[-1], folder, moment)
        assert [train(run, folder) for run in reversed(runs)] == ["done"] * 3
        assert [own(folder, run) for run in runs] == expected, f"killed at moment {moment}"
        left = [run.id for run in runs if folder.checkpoints(run.id).exists()]
        assert not left, f"killed at moment {moment}"


@EVERY
def test_a_branch_killed_at_any_disk_operation_continues_as_it_would_have(tmp_path, stride):
    folder, runs = plan(tmp_path / "ladder")
    train(runs[-1], folder)
    expected = by_themselves(tmp_path, runs)[0]
    with dying_at(None) as done:
        train(runs[0], SweepFolder(shutil.copytree(folder.root, tmp_path / "listed")))
    for moment in different_moments(done)[::stride]:
        again = SweepFolder(shutil.copytree(folder.root, tmp_path / str(moment)))
        assert dies(runs[0], again, moment)
        assert train(runs[0], again) == "done"
        assert own(again, runs[0]) == expected, f"killed at moment {moment}"
        assert not again.checkpoints(runs[0].id).exists(), f"killed at moment {moment}"


def test_a_trunk_keeps_its_branches_state_until_they_have_ended(tmp_path):
    folder, (first, second, trunk) = plan(tmp_path / "ladder")
    train(trunk, folder)
    assert not folder.checkpoints(trunk.id).exists()
    for run, step in ((first, 6), (second, 9)):
        (found,) = folder.checkpoints(run.id).iterdir()
        assert found.name == f"step-{step:09d}.pt"
    train(first, folder)
    assert not folder.checkpoints(first.id).exists()
    assert folder.checkpoints(second.id).exists()


def test_a_resumed_trunk_leaves_branches_alone_that_have_begun_or_ended(tmp_path):
    folder, (first, second, trunk) = plan(tmp_path / "ladder")
    with dying_at(None) as done:
        train(trunk, plan(tmp_path / "listed")[0])
    # Late enough that both branches have their state, early enough that it is computed again.
    places = [i for i, name in enumerate(done) if name == "replace"]
    assert dies(trunk, folder, 2 * places[3] + 1)
    shutil.rmtree(folder.checkpoints(trunk.id))
    train(first, folder)
    (state,) = folder.checkpoints(second.id).iterdir()
    mark = state.stat().st_mtime_ns
    assert train(trunk, folder) == "done"
    assert not folder.checkpoints(first.id).exists()
    assert state.stat().st_mtime_ns == mark


def test_a_branch_whose_trunk_kept_nothing_is_trained_whole_and_says_so(tmp_path):
    folder, runs = plan(tmp_path / "ladder")
    first, _, trunk = runs
    train(trunk, folder)
    shutil.rmtree(folder.checkpoints(first.id))
    said: list[str] = []
    assert train(first, folder, said) == "done"
    assert own(folder, first) == by_themselves(tmp_path, runs)[0]
    assert any(f"its trunk {trunk.id} kept no state of step 6" in line for line in said)
    assert read_record(folder.record(first.id)).attempts[0]["resumed_from"] == 0


def test_a_damaged_state_is_refused_and_without_it_the_branch_is_trained_whole(tmp_path):
    folder, runs = plan(tmp_path / "ladder")
    train(runs[-1], folder)
    (state,) = folder.checkpoints(runs[0].id).iterdir()
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"damaged or foreign, .*; move the folder away"):
        train(runs[0], folder)
    state.parent.rename(tmp_path / "away")
    assert train(runs[0], folder) == "done"
    assert own(folder, runs[0]) == by_themselves(tmp_path, runs)[0]


def end_trunk(folder: SweepFolder, spec: RunSpec, status: str | None, step: int) -> None:
    with RecordWriter(folder.record(spec.id)) as record:
        record.write("run", schema=SCHEMA, id=spec.id, config=spec.config, plan=spec.plan)
        record.write("attempt", n=1, resumed_from=0)
        record.write("step", step=step, tokens=step * 128, loss=9.0, lr=1e-2)
        if status:
            record.write("end", status=status, wall_s=1.0, attempts=1)


def test_a_branch_ends_with_a_trunk_that_diverged_before_it(tmp_path):
    folder, (first, _, trunk) = plan(tmp_path / "ladder")
    end_trunk(folder, trunk, "diverged", 5)
    assert train(first, folder) == "diverged"
    end = read_record(folder.record(first.id)).end
    assert end is not None
    assert end["error"] == f"diverged at step 5 with its trunk {trunk.id}"
    assert train(first, folder) == "diverged"


def test_a_branch_outlives_a_trunk_that_diverged_after_it(tmp_path):
    folder, (first, _, trunk) = plan(tmp_path / "ladder")
    end_trunk(folder, trunk, "diverged", 18)
    assert train(first, folder) == "done"


@pytest.mark.parametrize(
    ("status", "said"), [("failed", "failed before step 6"), (None, "has not come to step 6")]
)
def test_a_branch_waits_for_its_trunk(tmp_path, capsys, status, said):
    folder, (first, _, trunk) = plan(tmp_path / "ladder")
    end_trunk(folder, trunk, status, 3)
    with pytest.raises(NotFinishedError, match=f"branches off run {trunk.id}, which {said}"):
        train(first, folder)
    assert command(["train", str(folder.root), first.id, "--device", "cpu"]) == 5
    assert said in capsys.readouterr().err
    assert folder.record(first.id).read_bytes() == b""


def test_checkpoints_of_a_branch_without_its_record_are_dropped(tmp_path):
    folder, runs = plan(tmp_path / "ladder")
    train(runs[-1], folder)
    place = Checkpoints(folder.checkpoints(runs[0].id), runs[0].id)
    (state,) = place.newest_first()
    state.rename(place.path(7))
    said: list[str] = []
    assert train(runs[0], folder, said) == "done"
    assert any("without the record" in line for line in said)
    assert own(folder, runs[0]) == by_themselves(tmp_path, runs)[0]


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.kill_all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_processes_of_trunk_and_branches_killed_at_random_give_the_same_numbers(
    tmp_path, start: Starter, seed: int
) -> None:
    changes = {"log": {"every": 1, "evals": 4, "checkpoint_steps": 2}}
    folder, runs = plan(tmp_path / "ladder", changes=changes)
    expected = by_themselves(tmp_path, runs, changes=changes)
    draw = random.Random(seed)
    codes = []
    for run in reversed(runs):
        for _ in range(2):
            codes.append(signal_somewhere(start(folder, run), signal.SIGKILL, folder, run, draw))
        start.finish(folder, run)
    # A machine that is very busy may let a run end before the signal is sent.
    assert codes.count(-signal.SIGKILL) >= len(RUNGS)
    assert [own(folder, run) for run in runs] == expected
