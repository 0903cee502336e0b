"""The loop: it learns, its seed decides, its lines say what they claim, and it knows divergence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curves import curve
from deaths import Death, dying_at
from scripted import script
from torch.utils._python_dispatch import TorchDispatchMode

from scalekit.errors import InputError
from scalekit.results.record import RunRecord, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec, TrainSpec
from scalekit.train.loop import EXPLOSION_LINES, EXPLOSION_NATS, eval_steps, mean_losses
from scalekit.train.run import train_run
from scalekit.train.schedule import lr_factor
from scalekit.train.spread import Spread
from scalekit.train.team import SOLO

pytestmark = pytest.mark.usefixtures("quick_attempts")


def train(spec: RunSpec, root: Path, status: str = "done") -> RunRecord:
    folder = SweepFolder(root)
    assert train_run(spec, folder, device="cpu") == status
    return read_record(folder.record(spec.id))


def numbers(record: RunRecord) -> list[float]:
    return [line["loss"] for line in record.steps] + [line["val_loss"] for line in record.evals]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_loss_falls_well_below_a_uniform_guess(planned, tmp_path: Path, schedule: str) -> None:
    spec = planned(train={"steps": 60, "batch_tokens": 512, "lr": 0.02, "schedule": schedule})
    record = train(spec, tmp_path)
    uniform, entropy = math.log(64), record.header["facts"]["entropy"]
    first, last = record.steps[0]["loss"], record.steps[-1]["loss"]
    assert first > uniform - 0.1
    # More than a third of all that can be learnt, of both what it saw and what it did not.
    assert last < uniform - (uniform - entropy) / 3
    assert record.evals[-1]["val_loss"] < uniform - (uniform - entropy) / 3
    oracle = record.header["facts"]["oracle_val_loss"]
    assert record.evals[-1]["val_loss"] > oracle


def test_losses_of_many_steps_are_fetched_from_the_device_at_once() -> None:
    """Each time it is asked for a number a GPU is waited for."""

    class Reads(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    spread = Spread(SOLO, False, "none", 1, 8, 16)
    losses = list(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    with Reads() as reads:
        found = mean_losses(losses, spread)
    assert reads.n == 0
    assert found == [float(loss) for loss in losses]
    assert mean_losses([], spread) == []


def test_without_a_learning_rate_nothing_is_learnt(planned, tmp_path: Path) -> None:
    record = train(planned(train={"lr": 1e-12}), tmp_path)
    held = [line["val_loss"] for line in record.evals]
    assert held == pytest.approx([held[0]] * 3, abs=1e-5)


def test_the_seed_decides_every_number(planned, tmp_path: Path) -> None:
    one = curve_of(planned(train={"seed": 1}), tmp_path / "a")
    again = curve_of(planned(train={"seed": 1}), tmp_path / "b")
    other = curve_of(planned(train={"seed": 2}), tmp_path / "c")
    assert one == again
    assert not {line["loss"] for line in one["step"]} & {line["loss"] for line in other["step"]}


def curve_of(spec: RunSpec, root: Path) -> dict[str, Any]:
    train(spec, root)
    return curve(SweepFolder(root).record(spec.id))


def test_what_is_logged_evaluated_and_saved_changes_no_number(planned, tmp_path: Path) -> None:
    plain = train(planned(log={"every": 1, "evals": 1}), tmp_path / "a")
    busy = train(planned(log={"every": 1, "evals": 12, "checkpoint_steps": 1}), tmp_path / "b")
    coarse = train(planned(log={"every": 5, "evals": 1}), tmp_path / "c")
    assert len(busy.evals) == 12
    losses = [line["loss"] for line in plain.steps]
    assert [line["loss"] for line in busy.steps] == losses
    assert plain.evals[-1] == busy.evals[-1] == coarse.evals[-1]
    # A line holds the mean since the line before; the last step always has one.
    assert [line["step"] for line in coarse.steps] == [5, 10, 12]
    means = [np.mean(losses[a:b]) for a, b in ((0, 5), (5, 10), (10, 12))]
    assert [line["loss"] for line in coarse.steps] == pytest.approx(means, rel=1e-15)


def test_every_line_counts_its_tokens_flops_and_learning_rate(planned, tmp_path: Path) -> None:
    spec = planned(train={"warmup_frac": 0.25})
    record = train(spec, tmp_path)
    options = TrainSpec.model_validate(spec.config["train"])
    for line in record.steps:
        assert line["tokens"] == line["step"] * 128
        assert line["lr"] == options.lr * lr_factor(line["step"], 12, options)
        assert 0 < line["grad_norm"] < math.inf
    assert [line["step"] for line in record.evals] == [4, 8, 12]
    for line in record.evals:
        assert line["tokens"] == line["step"] * 128
        assert line["flops"] == line["tokens"] * spec.plan["flops_per_token"]["exact"]
        assert line["val_tokens"] == 512
        assert line["val_sem"] > 0


def test_the_gradient_norm_is_that_before_clipping(planned, tmp_path: Path) -> None:
    loose = train(planned(train={"clip": 1e9}), tmp_path / "a").steps
    tight = train(planned(train={"clip": 1e-3}), tmp_path / "b").steps
    assert tight[0]["grad_norm"] == loose[0]["grad_norm"] > 1e-3
    assert tight[-1]["loss"] != loose[-1]["loss"]


@pytest.mark.parametrize(
    ("steps", "evals", "expected"),
    [(1, 8, [1]), (3, 8, [1, 2, 3]), (100, 1, [100]), (100, 4, [25, 50, 75, 100])],
)
def test_evaluations_are_even_and_the_last_step_always_has_one(
    steps: int, evals: int, expected: list[int]
) -> None:
    assert sorted(eval_steps(steps, evals)) == expected


def test_a_learning_rate_that_breaks_the_run_ends_it_as_diverged(planned, tmp_path: Path) -> None:
    spec = planned(train={"lr": 1e30})
    folder = SweepFolder(tmp_path)
    record = train(spec, tmp_path, "diverged")
    assert record.end is not None
    assert record.end["status"] == "diverged"
    assert record.end["attempts"] == 1
    # JSON has no word for NaN: the loss that was not finite is null.
    assert record.steps[-1]["loss"] is None
    assert record.steps[-1]["step"] < 12
    path = folder.record(spec.id)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    # A result, not a failure: a second start leaves it alone.
    before = path.read_bytes()
    assert train_run(spec, folder, device="cpu") == "diverged"
    assert path.read_bytes() == before
    assert not folder.checkpoints(spec.id).exists()


def test_a_loss_that_is_not_finite_ends_the_run_at_its_line(planned, tmp_path, monkeypatch) -> None:
    script(monkeypatch, [3.0, 3.0, 3.0, math.inf, 3.0, 3.0])
    spec = planned(train={"steps": 12}, log={"every": 2, "evals": 6})
    record = train(spec, tmp_path, "diverged")
    assert [line["step"] for line in record.steps] == [2, 4]
    # What such a model holds out is not asked any more.
    assert [line["step"] for line in record.evals] == [2]


def test_a_held_out_loss_that_is_not_finite_ends_the_run(planned, tmp_path, monkeypatch) -> None:
    script(monkeypatch, [3.0] * 12, held_out=math.nan)
    record = train(planned(), tmp_path, "diverged")
    assert [line["step"] for line in record.evals] == [4]
    assert record.evals[0]["val_loss"] is None


BAD, GOOD = 3.0 + 1.5 * EXPLOSION_NATS, 3.0


@pytest.mark.parametrize(
    ("losses", "stops_at"),
    [
        ([3.0, *[BAD] * 9], 1 + EXPLOSION_LINES),
        ([3.0, GOOD, GOOD, *[BAD] * 7], 3 + EXPLOSION_LINES),
        ([3.0, *([BAD] * (EXPLOSION_LINES - 1) + [GOOD]) * 3], None),
        ([3.0, *[3.0 + EXPLOSION_NATS] * 9], None),
        ([BAD, *[BAD] * 9], None),
        ([3.0, *[1.0] * 5, *[BAD] * 4], 6 + EXPLOSION_LINES),
    ],
    ids=["at once", "later", "spikes", "not above the limit", "from the start", "after learning"],
)
def test_a_run_has_exploded_when_some_lines_in_a_row_are_worse_than_untrained(
    planned, tmp_path, monkeypatch, losses: list[float], stops_at: int | None
) -> None:
    script(monkeypatch, losses)
    spec = planned(train={"steps": 10, "warmup_frac": 0.0}, log={"every": 1, "evals": 1})
    record = train(spec, tmp_path, "done" if stops_at is None else "diverged")
    assert record.steps[-1]["step"] == (10 if stops_at is None else stops_at)


def test_losses_during_warm_up_are_not_an_explosion(planned, tmp_path, monkeypatch) -> None:
    script(monkeypatch, [3.0, *[BAD] * 4, *[GOOD] * 5])
    spec = planned(train={"steps": 10, "warmup_frac": 0.5}, log={"every": 1, "evals": 1})
    train(spec, tmp_path, "done")


def test_an_explosion_is_seen_through_a_kill(planned, tmp_path, monkeypatch) -> None:
    script(monkeypatch, [3.0, 3.0, *[BAD] * 8])
    log = {"every": 1, "evals": 1, "checkpoint_steps": 1}
    spec = planned(train={"steps": 10, "warmup_frac": 0.0}, log=log)
    with dying_at(None) as done:
        expected = train(spec, tmp_path / "a", "diverged")
    # Killed right after the checkpoint of the first bad line but one.
    third = [i for i, name in enumerate(done) if name == "replace"][3]
    with pytest.raises(Death), dying_at(2 * third + 1):
        train(spec, tmp_path / "b")
    record = train(spec, tmp_path / "b", "diverged")
    assert record.attempts[-1]["resumed_from"] == 4
    assert [line["step"] for line in record.steps] == [line["step"] for line in expected.steps]


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_token_outside_the_vocabulary_is_refused_when_it_is_met(
    planned, tmp_path: Path, where: str
) -> None:
    for split in ("train", "val"):
        tokens = np.zeros(4096, dtype=np.uint16)
        tokens[3000 if where == "train" else 0 :] = 64 * (split == where)
        tokens.tofile(tmp_path / f"{split}.bin")
    data = {"source": "shards", "path": str(tmp_path), "val_tokens": 64}
    folder = SweepFolder(tmp_path / "sweep")
    spec = planned(data=data)
    with pytest.raises(InputError, match=r"model\.vocab: 64, but 'shards' holds token 64; raise"):
        train_run(spec, folder, device="cpu")
    end = read_record(folder.record(spec.id)).end
    assert end is not None
    assert end["status"] == "failed"
    assert "holds token 64" in end["error"]
