"""Runs that train as one batched model write the records that they would write alone.

Equal within 1e-4 in the loss, not to the bit: a batched product in float32 and the kernels that
train a run alone take their sums in another order, 1e-7 of a number, and some steps of AdamW, which
divides by small moments, make more of that.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from curves import curve
from deaths import Death, dying_at

from scalekit.errors import InputError
from scalekit.results.record import read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.device import Device
from scalekit.train.run import train_run
from scalekit.train.stacked_run import train_stack
from scalekit.train.stop import StopRequest

TOLERANCE = 1e-4
LOG = {"every": 3, "evals": 2, "checkpoint_steps": 2}
SETTINGS = ({"seed": 0}, {"seed": 1}, {"seed": 1, "lr": 3e-3}, {"seed": 2, "weight_decay": 0.0})


@pytest.fixture(autouse=True)
def quick(quick_attempts: None) -> None:
    """Ask neither git nor the disk."""


@pytest.fixture
def runs(planned: Callable[..., RunSpec]) -> Callable[..., list[RunSpec]]:
    """Make four runs of one shape, from changes to a small one."""

    def make(settings: Sequence[dict[str, Any]] = SETTINGS, **parts: Any) -> list[RunSpec]:
        train = {"steps": 7, **parts.pop("train", {})}
        return [
            planned(f"run{i:07d}", train={**train, **one}, **{"log": LOG, **parts})
            for i, one in enumerate(settings)
        ]

    return make


def alone(specs: Sequence[RunSpec], root: Path) -> dict[str, dict[str, Any]]:
    folder = SweepFolder(root / "alone")
    for spec in specs:
        assert train_run(spec, folder, device="cpu") in ("done", "diverged")
    return curves(folder, specs)


def curves(folder: SweepFolder, specs: Sequence[RunSpec]) -> dict[str, dict[str, Any]]:
    return {spec.id: without_company(folder, spec.id) for spec in specs}


def without_company(folder: SweepFolder, run: str) -> dict[str, Any]:
    """Return what a record says, but for how many runs the run was trained with."""
    found = curve(folder.record(run))
    found["end"].pop("stack", None)
    return found


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["run"] == expected["run"]
    assert found["end"] == expected["end"]
    for kind in ("step", "eval"):
        assert [line["step"] for line in found[kind]] == [line["step"] for line in expected[kind]]
        for line, other in zip(found[kind], expected[kind], strict=True):
            assert line.keys() == other.keys()
            for key, value in other.items():
                assert line[key] == (
                    pytest.approx(value, rel=TOLERANCE) if isinstance(value, float) else value
                ), key


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "swiglu, tied, mup, averaged weights": {
        "model": {"mlp": "swiglu", "tied": True, "parametrization": "mup", "base_width": 8},
        "train": {"schedule": "wsd", "average_frac": 0.2},
    },
    "several epochs": {"data": {"unique_tokens": 320, "max_epochs": 3.0}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_runs_of_a_stack_write_what_they_write_alone(
    runs, tmp_path: Path, case: dict[str, Any]
) -> None:
    specs = runs(**case)
    folder = SweepFolder(tmp_path / "stacked")
    statuses = train_stack(specs, folder, device="cpu")
    assert statuses == {spec.id: "done" for spec in specs}
    expected, found = alone(specs, tmp_path), curves(folder, specs)
    for spec in specs:
        assert_close(found[spec.id], expected[spec.id])
        assert not folder.checkpoints(spec.id).exists()
        (attempt,) = read_record(folder.record(spec.id)).attempts
        assert attempt["stack"] == [s.id for s in specs]
        assert attempt["computed_by"] == "torch, stacked"
    # They are different runs: a stack that mixed them up would have equal losses.
    losses = {found[spec.id]["eval"][-1]["val_loss"] for spec in specs}
    assert len(losses) == len(specs)


# torch's own kernel of RMSNorm takes no float32 gain on bfloat16 heads and says so once.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_in_bfloat16_a_stack_differs_by_no_more_than_its_rounding(runs, tmp_path: Path) -> None:
    specs = runs(train={"dtype": "bfloat16"}, log={**LOG, "keep_weights": True})
    folder = SweepFolder(tmp_path / "stacked")
    assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
    expected, found = alone(specs, tmp_path), curves(folder, specs)
    for spec in specs:
        ours, theirs = (c[spec.id]["eval"][-1]["val_loss"] for c in (found, expected))
        # bfloat16 keeps 8 bits, 4e-3 of a number; a mean over 512 tokens moves less.
        assert ours == pytest.approx(theirs, rel=4e-3)
        # What is kept are the run's own weights and not the whole stack's.
        places = (folder, SweepFolder(tmp_path / "alone"))
        sizes = [place.weights(spec.id).stat().st_size for place in places]
        assert sizes[0] == sizes[1]


def test_parts_of_a_batch_add_up_to_the_whole(runs, tmp_path: Path) -> None:
    specs = [
        RunSpec(spec.id, spec.config, spec.plan, {"micro_batch_tokens": 48}) for spec in runs()
    ]
    folder = SweepFolder(tmp_path / "stacked")
    train_stack(specs, folder, device="cpu")
    expected, found = alone(specs, tmp_path), curves(folder, specs)
    for spec in specs:
        assert_close(found[spec.id], expected[spec.id])


def test_a_stack_killed_anywhere_gives_the_uninterrupted_records(runs, tmp_path: Path) -> None:
    specs = runs(SETTINGS[:3])
    whole = SweepFolder(tmp_path / "whole")
    with dying_at(None) as done:
        train_stack(specs, whole, device="cpu")
    expected = curves(whole, specs)
    draw = random.Random(0)
    for i in range(8):
        folder = SweepFolder(tmp_path / str(i))
        moment = draw.randrange(2 * len(done))
        with pytest.raises(Death), dying_at(moment):
            train_stack(specs, folder, device="cpu")
        assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
        for spec in specs:
            found = without_company(folder, spec.id)
            assert_close(found, expected[spec.id])


def stop_at(step: int) -> tuple[StopRequest, Callable[[str], None]]:
    stop = StopRequest()

    def report(line: str) -> None:
        if f" step {step}/" in f" {line}":
            stop.signal = signal.SIGTERM

    return stop, report


def test_a_stack_that_is_stopped_goes_on_to_the_bit(runs, tmp_path: Path) -> None:
    specs = runs()
    whole, folder = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "stopped")
    train_stack(specs, whole, device="cpu")
    stop, report = stop_at(3)
    statuses = train_stack(specs, folder, device="cpu", stop=stop, report=report)
    assert set(statuses.values()) == {"stopped"}
    newest = {folder.checkpoints(spec.id).glob("*.pt").__next__().name for spec in specs}
    assert len(newest) == 1, "they stop at one step"
    assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
    assert curves(folder, specs) == curves(whole, specs)


@pytest.mark.parametrize("first", ["stacked", "alone"])
def test_a_run_may_begin_in_a_stack_and_go_on_alone_and_the_other_way(
    runs, tmp_path: Path, first: str
) -> None:
    specs = runs(SETTINGS[:2])
    expected = alone(specs, tmp_path)
    folder = SweepFolder(tmp_path / "mixed")
    if first == "stacked":
        stop, report = stop_at(3)
        train_stack(specs, folder, device="cpu", stop=stop, report=report)
        for spec in specs:
            assert train_run(spec, folder, device="cpu") == "done"
    else:
        # They stop at different steps, and each goes on from its own.
        for spec, step in zip(specs, (3, 6), strict=True):
            stop, report = stop_at(step)
            assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
        assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
    for spec in specs:
        assert_close(without_company(folder, spec.id), expected[spec.id])
        attempts = read_record(folder.record(spec.id)).attempts
        assert attempts[1]["resumed_from"] > 0


def test_a_run_that_diverges_leaves_the_others_to_go_on(runs, tmp_path: Path) -> None:
    specs = runs(({"seed": 0}, {"seed": 1, "lr": 1e30}, {"seed": 2}))
    folder = SweepFolder(tmp_path / "stacked")
    statuses = train_stack(specs, folder, device="cpu")
    assert list(statuses.values()) == ["done", "diverged", "done"]
    expected = alone(specs, tmp_path)
    for spec in (specs[0], specs[2]):
        assert_close(without_company(folder, spec.id), expected[spec.id])
    end = read_record(folder.record(specs[1].id)).end
    assert end is not None
    assert end["status"] == "diverged"


def test_a_run_that_fails_leaves_the_others_to_go_on(
    runs, tmp_path: Path, monkeypatch, capsys
) -> None:
    from scalekit.train import loop

    specs = runs(SETTINGS[:3])
    plain = loop._write_eval

    def fail(job: Any, progress: Any) -> Any:
        if job.config.train.lr == 3e-3:
            raise ValueError("planned")
        return plain(job, progress)

    monkeypatch.setattr(loop, "_write_eval", fail)
    folder = SweepFolder(tmp_path / "stacked")
    statuses = train_stack(specs, folder, device="cpu")
    assert list(statuses.values()) == ["done", "done", "failed"]
    assert "ValueError: planned" in capsys.readouterr().err
    end = read_record(folder.record(specs[2].id)).end
    assert end is not None
    assert "planned" in end["traceback"]
    monkeypatch.setattr(loop, "_write_eval", plain)
    # As a job does that went back to the queue: what failed by itself is not tried again.
    again = train_stack(specs, folder, device="cpu", retries=False)
    assert list(again.values()) == ["done", "done", "failed"]
    assert len(read_record(folder.record(specs[2].id)).attempts) == 1
    # Tried again, a single run that is left trains as it would alone.
    assert list(train_stack(specs, folder, device="cpu").values()) == ["done"] * 3


def test_what_befalls_the_whole_stack_stands_in_every_record(
    runs, tmp_path: Path, monkeypatch
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("planned for all")

    monkeypatch.setattr("scalekit.train.stack.Stack.learn", fail)
    specs = runs(SETTINGS[:2])
    folder = SweepFolder(tmp_path / "stacked")
    assert set(train_stack(specs, folder, device="cpu").values()) == {"failed"}
    for spec in specs:
        end = read_record(folder.record(spec.id)).end
        assert end is not None
        assert end["error"] == "RuntimeError: planned for all"


def test_memory_that_runs_out_halves_the_rows_once_and_is_written_down(
    runs, tmp_path: Path, monkeypatch
) -> None:
    import torch

    from scalekit.models.gpt import GPT

    plain = GPT.stacked_losses

    def fail(model: GPT, params: Any, tokens: torch.Tensor, targets: torch.Tensor) -> Any:
        if tokens.shape[1] > 4:
            raise torch.OutOfMemoryError("planned")
        return plain(model, params, tokens, targets)

    monkeypatch.setattr(GPT, "stacked_losses", fail)
    specs = runs(SETTINGS[:2])
    folder = SweepFolder(tmp_path / "stacked")
    assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
    for spec in specs:
        lines = [json.loads(line) for line in folder.record(spec.id).read_text().splitlines()]
        (note,) = (line for line in lines if line["t"] == "note")
        assert note["micro_batch_tokens"] == 4 * 16


def test_replicas_share_the_time_and_the_peak_of_their_device(
    runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "peak_flops", property(lambda self: 1e9))
    specs = runs()
    folder = SweepFolder(tmp_path / "stacked")
    train_stack(specs, folder, device="cpu", startup_s=4.0)
    for spec in specs:
        end = read_record(folder.record(spec.id)).end
        assert end is not None
        assert end["startup_s"] > 4.0 / len(specs)
        own = end["wall_s"] / len(specs) + end["startup_s"]
        assert end["device_s"] == pytest.approx(own, abs=1e-9)
        flops = end["tokens_per_second"] * spec.plan["flops_per_token"]["exact"]
        assert end["mfu"] == pytest.approx(flops * len(specs) / 1e9, rel=1e-12)


def test_memory_that_runs_out_is_no_news_of_a_run_that_has_ended(
    runs, tmp_path: Path, monkeypatch
) -> None:
    """A line behind an end took the end away: the run counted as stopped for ever."""
    import torch

    from scalekit.models.gpt import GPT

    plain = GPT.stacked_losses

    def fail(model: GPT, params: Any, tokens: torch.Tensor, targets: torch.Tensor) -> Any:
        if len(tokens) == 2 and tokens.shape[1] > 4:  # one of three is over
            raise torch.OutOfMemoryError("planned")
        return plain(model, params, tokens, targets)

    monkeypatch.setattr(GPT, "stacked_losses", fail)
    specs = runs(({"seed": 0}, {"seed": 1, "lr": 1e30}, {"seed": 2}))
    folder = SweepFolder(tmp_path / "stacked")
    assert list(train_stack(specs, folder, device="cpu").values()) == ["done", "diverged", "done"]
    states = [read_state(folder.record(spec.id)).status for spec in specs]
    assert states == ["done", "diverged", "done"]
    notes = [folder.record(spec.id).read_text().count('"note"') for spec in specs]
    assert notes == [1, 0, 1]


def test_a_replica_is_as_fast_while_others_are_measured(
    runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalekit.train import job

    plain = job.evaluate_corpus

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return plain(*args)

    monkeypatch.setattr(job, "evaluate_corpus", slow)
    specs = runs(SETTINGS[:3], train={"steps": 12}, log={"every": 3, "evals": 4})
    folder = SweepFolder(tmp_path / "stacked")
    train_stack(specs, folder, device="cpu")
    for spec in specs:
        speeds = [line["tokens_per_second"] for line in read_record(folder.record(spec.id)).steps]
        # So many are the most for three steps with another's evaluation in between.
        assert min(filter(None, speeds)) > 3 * 128 / 0.2


@pytest.mark.parametrize("every", [3, 100], ids=["after a step line", "before any"])
def test_a_stack_that_goes_on_holds_no_more_of_its_device(runs, tmp_path: Path, every: int) -> None:
    """What was spent by a checkpoint is known by the clock, of which a replica has a part."""
    specs = runs(log={**LOG, "every": every})
    folder = SweepFolder(tmp_path / "stacked")
    stop, report = stop_at(4)  # an evaluation
    train_stack(specs, folder, device="cpu", stop=stop, report=report)
    assert set(train_stack(specs, folder, device="cpu").values()) == {"done"}
    for spec in specs:
        end = read_record(folder.record(spec.id)).end
        assert end is not None
        own = end["wall_s"] / len(specs) + end["startup_s"]
        assert end["device_s"] == pytest.approx(own, rel=1e-9)


def test_runs_of_a_stack_share_the_memory_that_was_asked_for(
    runs, tmp_path: Path, monkeypatch
) -> None:
    from scalekit.counting import memory_bytes
    from scalekit.models.gpt import GPT
    from scalekit.sweep.spec import shape_of

    plain, rows = GPT.stacked_losses, set()

    def note(model: GPT, params: Any, tokens: Any, targets: Any) -> Any:
        rows.add(tokens.shape[1])
        return plain(model, params, tokens, targets)

    monkeypatch.setattr(GPT, "stacked_losses", note)
    specs = runs(SETTINGS[:2], train={"steps": 2})
    config = specs[0].config
    shape, batch = shape_of(config["model"]), config["train"]["batch_tokens"]
    one = sum(memory_bytes(shape, batch_tokens=batch)) / 1e9
    all_rows = batch // config["model"]["context"]
    for times, expected in ((2.01, all_rows), (1.99, all_rows // 2)):
        rows.clear()
        needs = {"memory_gb": times * one}
        asked = [RunSpec(spec.id, spec.config, spec.plan, needs) for spec in specs]
        train_stack(asked, SweepFolder(tmp_path / str(times)), device="cpu")
        assert rows == {expected}


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"model": {"d_ff": 48}}, "differs from run run0000000 in model.d_ff"),
        ({"train": {"steps": 9}}, "differs from run run0000000 in train.tokens"),
        ({"train": {"optimizer": "muon"}}, "train.optimizer is 'muon', not 'adamw'"),
    ],
)
def test_runs_that_cannot_be_stacked_are_refused_before_anything_is_written(
    runs, planned, tmp_path: Path, parts: dict[str, Any], found: str
) -> None:
    train = {"steps": 7, **parts.get("train", {})}
    other = planned("other00000", **{"log": LOG, **parts, "train": train})
    folder = SweepFolder(tmp_path / "stacked")
    with pytest.raises(InputError, match=found):
        train_stack([runs()[0], other], folder, device="cpu")
    assert not folder.record("run0000000").exists()
