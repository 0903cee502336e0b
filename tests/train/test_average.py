"""Averaged weights: what the mean is of, that it leaves the weights alone, rungs that share it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deaths import Death, different_moments, dying_at
from ladders import own_lines, plan

from scalekit import registry
from scalekit.models.base import build_seeded
from scalekit.results.record import read_record
from scalekit.results.rows import sweep_rows
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.average import Average, build_average
from scalekit.train.lora import Lora
from scalekit.train.run import train_run

pytestmark = pytest.mark.usefixtures("quick_attempts")

CONSTANT = {"train": {"schedule": "constant", "average_frac": 0.2}}


def weights(steps: int, share: float) -> torch.Tensor:
    """Return what each step counts for in the mean: weight s of a run of unit vectors."""
    param = torch.zeros(steps, dtype=torch.float64)
    average = Average([param], share)
    for step in range(1, steps + 1):
        param.zero_()
        param[step - 1] = 1.0
        average.update(step)
    with average.applied():
        return param.clone()


def test_with_an_age_of_a_half_all_steps_count_alike() -> None:
    assert weights(50, 0.5).tolist() == pytest.approx([1 / 50] * 50, rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("steps", [400, 1600])
def test_the_age_of_the_mean_is_its_share_of_any_length(share: float, steps: int) -> None:
    found = weights(steps, share)
    age = float((found * (steps - torch.arange(1, steps + 1))).sum())
    assert float(found.sum()) == pytest.approx(1.0, rel=1e-12)
    # The profile is s^g but for terms of relative size (g + 1) / steps.
    assert age / steps == pytest.approx(share, rel=3 / (share * steps))


def test_of_a_model_with_adapters_the_mean_holds_them_alone(planned) -> None:
    spec = planned(**CONSTANT)
    base = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    lora = Lora(base, ("q", "v"), rank=2, alpha=2.0, seed=0)
    average = build_average(lora, RunConfig.model_validate(spec.config).train)
    assert average is not None
    assert list(map(id, average.params)) == list(map(id, lora.adapters))


def test_weights_come_back_to_the_bit_even_when_the_evaluation_fails() -> None:
    param = torch.randn(100, generator=torch.Generator().manual_seed(0))
    before = param.clone()
    average = Average([param], 0.1)
    param.add_(1.0)
    average.update(2)
    param.copy_(before)

    def evaluate() -> None:
        with average.applied():
            assert not torch.equal(param, before)
            raise RuntimeError("evaluation")

    with pytest.raises(RuntimeError, match="evaluation"):
        evaluate()
    assert torch.equal(param, before)


def train(spec: RunSpec, folder: SweepFolder) -> str:
    return train_run(spec, folder, device="cpu")


def test_rungs_at_a_constant_rate_are_evaluations_of_one_run(tmp_path: Path) -> None:
    folder, runs = plan(tmp_path / "ladder", changes=CONSTANT)
    assert [run.plan.get("branch_step") for run in runs] == [8, 12, None]
    assert [train(run, folder) for run in reversed(runs)] == ["done"] * 3
    separate, alone = plan(tmp_path / "separate", is_ladder=False, changes=CONSTANT)
    for run, one in zip(runs, alone, strict=True):
        assert run.id == one.id
        assert train(one, separate) == "done"
        last = read_record(folder.record(run.id)).evals[-1]
        assert last == read_record(separate.record(run.id)).evals[-1]
    for run in runs[:-1]:
        record = read_record(folder.record(run.id))
        assert (len(record.steps), len(record.evals)) == (0, 1)
        assert not folder.checkpoints(run.id).exists()
    rows, _ = sweep_rows(folder, {"params": None, "flops": None})
    assert ["averaged" in row["flags"] for row in rows] == [True] * 3


def test_what_is_evaluated_is_the_mean_and_what_learns_is_not(tmp_path: Path) -> None:
    folder, runs = plan(tmp_path / "averaged", changes=CONSTANT)
    changes = {"train": {"schedule": "constant"}}
    plain, others = plan(tmp_path / "plain", is_ladder=False, changes=changes)
    train(runs[-1], folder)
    train(others[-1], plain)
    assert runs[-1].id != others[-1].id
    mine, other = (
        own_lines(where.record(run.id), 0)
        for where, run in ((folder, runs[-1]), (plain, others[-1]))
    )
    assert mine["step"] == other["step"]
    assert mine["eval"] != other["eval"]


def test_a_run_killed_at_any_disk_operation_keeps_its_mean(tmp_path: Path) -> None:
    listed, runs = plan(tmp_path / "listed", changes=CONSTANT)
    with dying_at(None) as done:
        train(runs[-1], listed)
    expected = own_lines(listed.record(runs[-1].id), 0)
    for moment in different_moments(done)[::7]:
        folder, _ = plan(tmp_path / str(moment), changes=CONSTANT)
        with pytest.raises(Death), dying_at(moment):
            train(runs[-1], folder)
        assert train(runs[-1], folder) == "done"
        assert own_lines(folder.record(runs[-1].id), 0) == expected, f"killed at moment {moment}"
