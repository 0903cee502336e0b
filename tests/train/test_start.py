"""Runs that start from another run: what they begin with, what is recorded, and kills."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import curve, write_plan
from deaths import Death, dying_at
from small_runs import operations, small, uninterrupted

from scalekit.errors import InputError
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.start import weights_file
from scalekit.train.account import Account
from scalekit.train.checkpoint import Checkpoints, read_tensors
from scalekit.train.run import train_run

PARENT = "feedfacefe"
OTHER_DATA = {"synthetic": {"kind": "graphwalk", "symbols": 64, "degree": 10, "seed": 7}}
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "rank": 2, "alpha": 4.0, "targets": ["q", "v"]},
    "lora on all, swiglu": {"method": "lora", "targets": ["q", "k", "v", "out", "gate", "down"]},
}
of_every_case = pytest.mark.parametrize("name", CASES)


def parent_of(planned: Callable[..., RunSpec], name: str) -> RunSpec:
    case = {"model": {"mlp": "swiglu"} if "swiglu" in name else {}, "run_id": PARENT}
    return small(planned, {**case, "log": {"every": 3, "evals": 2, "keep_weights": True}})


@pytest.fixture(scope="session")
def parents(planned, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train the parent of a case, once."""
    trained: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in trained:
            trained[name] = tmp_path_factory.mktemp("parent")
            assert train_run(parent_of(planned, name), SweepFolder(trained[name])) == "done"
        return trained[name]

    return train


@pytest.fixture
def child(planned, parents) -> Callable[..., RunSpec]:
    def plan(name: str, **parts: Any) -> RunSpec:
        start = {"folder": str(parents(name)), "run": PARENT, "step": 7, **CASES[name]}
        model = {"mlp": "swiglu"} if "swiglu" in name else {}
        return small(planned, {"model": model, "data": OTHER_DATA, "start": start, **parts})

    return plan


def weights(root: Path, run: str) -> dict[str, torch.Tensor]:
    return read_tensors(weights_file(root, run), torch.device("cpu"))["model"]


@of_every_case
def test_the_first_loss_is_the_parents_on_the_new_data(
    parents, child, tmp_path: Path, name: str
) -> None:
    """Checked by a run on the parent's own data, whose loss the parent measured last."""
    spec = child(name, data={})
    folder = SweepFolder(tmp_path)
    assert train_run(spec, folder) == "done"
    start = read_record(folder.record(spec.id)).start
    assert start is not None
    last = read_record(SweepFolder(parents(name)).record(PARENT)).evals[-1]
    assert start["val_loss"] == last["val_loss"]
    assert start["val_sem"] == last["val_sem"]
    assert (start["start_run"], start["start_step"]) == (PARENT, 7)
    assert start["unique_tokens"] == 0, "nothing is seen yet"


def test_measuring_the_start_is_no_training(
    child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = child("full")  # its parent measures as well, so it is trained before any is counted
    lost: list[str] = []
    monkeypatch.setattr(Account, "lose", lambda account, loss, seconds: lost.append(loss))
    assert train_run(spec, SweepFolder(tmp_path)) == "done"
    assert lost.count("eval_s") == 1 + spec.config["log"]["evals"]


def test_a_branch_knows_what_its_trunk_started_from(child, tmp_path: Path) -> None:
    flat = {"schedule": "constant", "warmup_frac": 0.0}
    trunk, rung = (child("lora", run_id=f"run{n}", train={**flat, "steps": n}) for n in (7, 5))
    trunk = replace(trunk, plan={**trunk.plan, "branches": {rung.id: 4}})
    rung = replace(rung, plan={**rung.plan, "parent": trunk.id, "branch_step": 4})
    folder = SweepFolder(tmp_path)
    assert [train_run(spec, folder, device="cpu") for spec in (trunk, rung)] == ["done", "done"]
    told = read_record(folder.record(trunk.id)).start
    assert told is not None
    assert read_record(folder.record(rung.id)).start == told


def test_training_on_other_data_learns_it(child, tmp_path: Path) -> None:
    for name in ("full", "lora on all, swiglu"):
        spec = child(name, train={"steps": 40, "schedule": "constant"})
        folder = SweepFolder(tmp_path / name)
        assert train_run(spec, folder) == "done"
        record = read_record(folder.record(spec.id))
        assert record.start is not None
        assert record.evals[-1]["val_loss"] < record.start["val_loss"] - 0.02


def test_full_fine_tuning_learns_every_weight_and_lora_what_it_names(
    parents, child, tmp_path: Path
) -> None:
    log = {"every": 3, "evals": 2, "keep_weights": True}
    changed = {}
    for name in ("full", "lora"):
        spec = child(name, log=log)
        folder = SweepFolder(tmp_path / name)
        assert train_run(spec, folder) == "done"
        before, after = weights(parents(name), PARENT), weights(tmp_path / name, spec.id)
        changed[name] = {key for key in before if not torch.equal(before[key], after[key])}
        start = read_record(folder.record(spec.id)).start
        assert start is not None
        if name == "full":
            assert changed[name] == set(before)
            assert start["trainable_params"] == spec.plan["params"]["total"]
        else:
            assert changed[name] == {f"blocks.{i}.attention.qkv" for i in (0, 1)}
            # Rank 2 on queries and values of 16 to 16 in two layers.
            assert start["trainable_params"] == 2 * 2 * 2 * (16 + 16)


def test_a_run_starts_from_one_that_started_from_another(planned, child, tmp_path: Path) -> None:
    spec = child("lora", log={"every": 3, "evals": 2, "keep_weights": True})
    assert train_run(spec, SweepFolder(tmp_path)) == "done"
    start = {"folder": str(tmp_path), "run": spec.id, "step": 7}
    grandchild = small(planned, {"data": OTHER_DATA, "start": start, "run_id": "0000000002"})
    assert train_run(grandchild, SweepFolder(tmp_path)) == "done"
    mother, self = (read_record(SweepFolder(tmp_path).record(s.id)) for s in (spec, grandchild))
    assert self.start is not None
    assert self.start["val_loss"] == mother.evals[-1]["val_loss"]


def full_curve(folder: SweepFolder, spec: RunSpec) -> dict[str, Any]:
    return {**curve(folder.record(spec.id)), "start": read_record(folder.record(spec.id)).start}


@of_every_case
@pytest.mark.usefixtures("quick_attempts")
def test_a_run_killed_again_and_again_gives_the_uninterrupted_record(
    child, tmp_path: Path, name: str
) -> None:
    log = {"every": 3, "evals": 2, "checkpoint_steps": 2, "keep_weights": True}
    spec = child(name, log=log)
    uninterrupted(spec, tmp_path)
    expected = full_curve(SweepFolder(tmp_path / "uninterrupted"), spec)
    kept = weights(tmp_path / "uninterrupted", spec.id)
    n_moments = 2 * len(operations(spec, tmp_path))
    for seed in range(4):
        draw, folder = random.Random(seed), SweepFolder(tmp_path / str(seed))
        n_deaths = 0
        for _ in range(3):
            try:
                with dying_at(draw.randrange(n_moments)):
                    train_run(spec, folder, device="cpu")
            except Death:
                n_deaths += 1
        assert n_deaths > 0
        assert train_run(spec, folder, device="cpu") == "done"
        assert full_curve(folder, spec) == expected, f"seed {seed}"
        again = weights(folder.root, spec.id)
        assert all(torch.equal(again[key], kept[key]) for key in kept)


@of_every_case
@pytest.mark.usefixtures("quick_attempts")
def test_a_run_goes_on_from_its_own_checkpoint_when_its_parents_weights_are_gone(
    parents, child, tmp_path: Path, name: str
) -> None:
    gone = tmp_path / "parent"
    shutil.copytree(parents(name), gone)
    start = {"folder": str(gone), "run": PARENT, "step": 7, **CASES[name]}
    spec = child(name, log={"every": 3, "evals": 2, "checkpoint_steps": 2})
    spec = replace(spec, config={**spec.config, "start": {**spec.config["start"], **start}})
    expected = uninterrupted(spec, tmp_path)
    folder = SweepFolder(tmp_path / "killed")
    replaces = [i for i, name in enumerate(operations(spec, tmp_path)) if name == "replace"]
    with pytest.raises(Death), dying_at(2 * replaces[1] + 1):
        train_run(spec, folder, device="cpu")
    weights_file(gone, PARENT).unlink()
    assert train_run(spec, folder, device="cpu") == "done"
    assert curve(folder.record(spec.id)) == expected
    with pytest.raises(InputError, match="missing, so nothing to start from"):
        train_run(spec, SweepFolder(tmp_path / "anew"), device="cpu")


@pytest.mark.usefixtures("quick_attempts")
def test_an_adapter_that_a_checkpoint_lost_is_seen_in_the_curve(
    child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = child("lora")
    expected = uninterrupted(spec, tmp_path)
    folder = SweepFolder(tmp_path / "killed")
    replaces = [i for i, name in enumerate(operations(spec, tmp_path)) if name == "replace"]
    with pytest.raises(Death), dying_at(2 * replaces[1] + 1):
        train_run(spec, folder, device="cpu")
    load = Checkpoints.load

    def load_damaged(*args: Any) -> Any:
        state = load(*args)
        assert state is not None
        state["model"]["adapters.1"].zero_()
        return state

    monkeypatch.setattr(Checkpoints, "load", load_damaged)
    assert train_run(spec, folder, device="cpu") == "done"
    assert curve(folder.record(spec.id)) != expected


@pytest.mark.slow
@of_every_case
def test_a_process_killed_at_random_gives_the_uninterrupted_record(
    child, tmp_path: Path, name: str
) -> None:
    from test_kills import PATIENCE, Starter, signal_somewhere

    log = {"every": 1, "evals": 8, "checkpoint_steps": 2}
    spec = child(name, log=log, train={"steps": 60})
    uninterrupted(spec, tmp_path)
    expected = full_curve(SweepFolder(tmp_path / "uninterrupted"), spec)
    folder, start = write_plan(tmp_path / "killed", spec), Starter()
    draw = random.Random(name)
    try:
        codes = [
            signal_somewhere(start(folder, spec), signal.SIGKILL, folder, spec, draw)
            for _ in range(4)
        ]
        assert codes.count(-signal.SIGKILL) >= 2
        process = start(folder, spec)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        start.kill_all()
    assert full_curve(folder, spec) == expected


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    weight = read_tensors(path, torch.device("cpu"))["model"]["embedding"]
    data[data.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(bytes(data))


def of_another_step(path: Path) -> None:
    state = read_tensors(path, torch.device("cpu"))
    torch.save({**state, "step": 3}, path)


def of_another(path: Path) -> None:
    state = read_tensors(path, torch.device("cpu"))
    torch.save({**state, "run": "0000000000"}, path)


def of_other_shape(path: Path) -> None:
    state = read_tensors(path, torch.device("cpu"))
    state["model"].pop("gain")
    torch.save(state, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove, "missing, so nothing to start from"),
        (flip, "damaged"),
        (of_another_step, "'feedfacefe', 3]; plan this sweep again"),
        (of_another, "not the weights of run 'feedfacefe' at step 7"),
        (of_another, "'0000000000', 7]; train run 'feedfacefe' there again"),
        (of_other_shape, "do not fit this run's model"),
    ],
)
def test_weights_that_are_not_the_parents_are_refused(
    parents, child, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    place = tmp_path / "parent"
    shutil.copytree(parents("full"), place)
    damage(weights_file(place, PARENT))
    start = {"folder": str(place), "run": PARENT, "step": 7}
    spec, folder = child("full", start=start), SweepFolder(tmp_path / "child")
    with pytest.raises(InputError) as refused:
        train_run(spec, folder)
    assert said in str(refused.value)
    assert str(weights_file(place, PARENT)) in str(refused.value)
    assert read_record(folder.record(spec.id)).steps == ()


def test_weights_are_kept_only_where_asked(planned, tmp_path: Path) -> None:
    spec = small(planned, {})
    assert train_run(spec, SweepFolder(tmp_path)) == "done"
    assert not weights_file(tmp_path, spec.id).exists()
