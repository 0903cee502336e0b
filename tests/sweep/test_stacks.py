"""Which runs are planned to train as one batched model, and what the plan says of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scalekit.commands._plan_text import plan_lines
from scalekit.errors import InputError
from scalekit.sweep.estimate import Estimate, Speed
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.plan import plan_sweep
from scalekit.sweep.stacks import Stacking, check_alike, expected_speedup, plan_stacks

ROW = {"params": 30e3, "runs": 4, "speedup": 3.1}


@pytest.fixture
def sweep(tmp_path):
    """Twelve runs: two widths, three seeds, two rates."""

    def make(**changes: Any) -> Expansion:
        value: dict[str, Any] = {
            "scalekit": 1,
            "name": "demo",
            "base": {
                "model": {"n_layers": 2, "head_dim": 16, "context": 32},
                "data": {"source": "synthetic"},
                "train": {"steps": 100, "batch_tokens": 512},
            },
            "grid": {"model.d_model": [32, 48], "train.seed": [0, 1, 2], "train.lr": [1e-3, 3e-3]},
            **changes,
        }
        path = tmp_path / "demo.yaml"
        path.write_text(yaml.safe_dump(value, sort_keys=False))
        return expand(load_sweep(path))

    return make


def planned(expansion: Expansion) -> Stacking:
    return plan_stacks(expansion.runs, expansion.spec.profile)


def said(expansion: Expansion) -> list[str]:
    plan = plan_sweep(expansion, stacking=planned(expansion))
    lines = plan_lines(plan, expansion.spec, expansion.runs)
    return [line for line in lines if "stacked: " in line]


def sizes(expansion: Expansion) -> list[int]:
    return [len(group.runs) for group in planned(expansion).groups]


def test_a_number_stacks_runs_that_differ_in_seed_rate_or_decay_alone(sweep) -> None:
    expansion = sweep(resources=[{"stack": 4}])
    groups = planned(expansion).groups
    assert [len(group.runs) for group in groups] == [3, 3, 3, 3]
    by_id = {run.id: run for run in expansion.runs}
    for group in groups:
        check_alike([by_id[run] for run in group.runs])
    assert sorted(run for group in groups for run in group.runs) == sorted(by_id)
    assert said(expansion) == [
        "stacked: 12 runs train as 4 batched models of 3, as asked; nobody measured what that "
        "gains, so time and cost count none"
    ]
    assert sizes(sweep(resources=[{"stack": 5}])) == [3, 3, 3, 3]
    assert sizes(sweep(resources=[{"stack": 6}])) == [6, 6]
    assert sizes(sweep(resources=[{"stack": 1}])) == []


def test_runs_are_the_same_whether_they_are_stacked_or_not(sweep) -> None:
    alone, stacked = sweep().runs, sweep(resources=[{"stack": 4}]).runs
    assert [(run.id, run.config) for run in alone] == [(run.id, run.config) for run in stacked]
    assert "stack" not in alone[0].resources


def test_nothing_is_stacked_on_cores_unless_a_number_asks_for_it(sweep) -> None:
    expansion = sweep(profile={"stacks": [ROW]})
    assert planned(expansion) == Stacking()
    assert said(expansion) == []


def test_a_gpus_runs_are_stacked_where_the_profile_measured_that_it_is_faster(sweep) -> None:
    # 26k and 57k parameters: the smaller is near what was measured, the larger is too.
    rows = [ROW, {**ROW, "runs": 6, "speedup": 2.5}, {"params": 1e6, "runs": 8, "speedup": 9.0}]
    expansion = sweep(resources=[{"gpus": 1}], profile={"stacks": rows})
    assert sizes(expansion) == [3, 3, 3, 3]
    # Two thirds of the way from one run to the four that were measured.
    assert said(expansion) == [
        "stacked: 12 runs train as 4 batched models of 3, 2.4 times as fast as one at a time by "
        "the profile's measurements"
    ]


def test_a_speedup_between_measurements_lies_on_a_straight_line(sweep) -> None:
    rows = [{**ROW, "runs": 7, "speedup": 4.0}, {**ROW, "runs": 3, "speedup": 2.0}]
    expansion = sweep(resources=[{"gpus": 1}], profile={"stacks": rows})
    run, profile = expansion.runs[0], expansion.spec.profile
    found = [expected_speedup(run, n, profile) for n in (1, 2, 3, 5, 7, 20)]
    assert found == pytest.approx([1.0, 1.5, 2.0, 3.0, 4.0, 4.0])
    assert expected_speedup(run, 2, None) is None
    on_cores = sweep(profile={"stacks": rows})
    assert expected_speedup(on_cores.runs[0], 2, on_cores.spec.profile) is None


def test_auto_leaves_runs_alone_that_are_too_few_to_gain(sweep) -> None:
    rows = [{**ROW, "runs": 3, "speedup": 0.9}, {**ROW, "runs": 8, "speedup": 4.0}]
    grid = {"model.d_model": [32], "train.seed": [0, 1, 2]}
    expansion = sweep(resources=[{"gpus": 1}], profile={"stacks": rows}, grid=grid)
    (line,) = said(expansion)
    assert line == "not stacked: 3 runs, the profile measured no stack of their size as faster"


SITE = {"peak_flops": 1e9, "mfu": 0.5, "price_per_gpu_hour": 2.0}


def test_time_and_cost_count_what_stacks_gain(sweep) -> None:
    def estimate(**changes: Any) -> Estimate:
        profile = {**SITE, "stacks": [ROW]}
        expansion = sweep(resources=[{"gpus": 1, **changes}], profile=profile)
        # A stack is started once, which a gain in training does not say.
        speed = Speed(start_seconds=0.0)
        return plan_sweep(expansion, at_once=2, stacking=planned(expansion), speed=speed).estimate

    one, stacked, asked = estimate(stack=1), estimate(), estimate(stack=3)
    gain = 1 + 2.1 * 2 / 3
    assert one.device_seconds
    assert one.cost.price
    assert one.wall_seconds
    for found in (stacked, asked):
        assert found.device_seconds
        assert found.device_seconds == pytest.approx(one.device_seconds / gain)
        assert found.cost.price == pytest.approx(one.cost.price / gain)
        # Two stacks of each width go side by side, one of each after the other.
        assert found.wall_seconds == pytest.approx(found.device_seconds / 2)


def test_without_a_measurement_a_stack_counts_as_its_runs_one_after_the_other(sweep) -> None:
    alone, stacked = sweep(), sweep(resources=[{"stack": 6}])
    plans = [plan_sweep(e, at_once=1, stacking=planned(e)).estimate for e in (alone, stacked)]
    assert plans[1].device_seconds
    assert plans[1].wall_seconds
    # Twelve processes against two, each of which takes two seconds to start.
    assert plans[0].device_seconds == pytest.approx(plans[1].device_seconds + 20)
    assert plans[0].wall_seconds == pytest.approx(plans[1].wall_seconds + 20)
    # One process holds the models of six runs.
    assert plans[1].memory_gb == pytest.approx(6 * plans[0].memory_gb)
    # But they write their checkpoints side by side.
    assert plans[0].cost.disk_gb < plans[1].cost.disk_gb


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (None, "the profile holds no measured stack of about their size (stacks)"),
        ([{**ROW, "params": 1e6}], "the profile holds no measured stack of about their size"),
        ([{**ROW, "speedup": 0.8}], "the profile measured no stack of their size as faster"),
    ],
)
def test_without_a_measurement_that_was_faster_a_gpus_runs_train_alone(sweep, rows, why) -> None:
    expansion = sweep(resources=[{"gpus": 1}], profile={"stacks": rows})
    assert sizes(expansion) == []
    (line,) = said(expansion)
    assert line.startswith(f"not stacked: 12 runs, {why}")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"resources": [{"stack": 4, "processes": 2}]}, "it trains in several processes"),
        ({"resources": [{"stack": 4, "recompute": "blocks"}]}, "it computes activations again"),
        ({"resources": [{"stack": 4, "compile": "blocks"}]}, "it compiles its layers"),
        ({"grid": {"train.seed": [0]}}, "no other differs in seed, lr or weight_decay alone"),
        ({"base.train.optimizer": "muon"}, "train.optimizer is 'muon', not 'adamw'"),
    ],
)
def test_runs_that_cannot_be_stacked_are_told_with_the_reason(sweep, changes, why) -> None:
    base = {
        "model": {"n_layers": 2, "d_model": 32, "head_dim": 16, "context": 32},
        "data": {"source": "synthetic"},
        "train": {"steps": 100, "batch_tokens": 512},
    }
    if "base.train.optimizer" in changes:
        base["train"]["optimizer"] = changes.pop("base.train.optimizer")
    grid = {"train.seed": [0, 1]}
    expansion = sweep(**{"base": base, "grid": grid, "resources": [{"stack": 4}], **changes})
    (line,) = said(expansion)
    n = len(expansion.runs)
    assert line.startswith(f"not stacked: {n} run{'s' * (n > 1)}, {why}")
    assert sizes(expansion) == []


@pytest.mark.parametrize(
    ("stack", "what"),
    [
        (0, "'stack' must be at least 1, found '0'"),
        ("many", "must be auto or a whole number"),
        (2.5, "whole number"),
    ],
)
def test_a_stack_that_is_no_number_of_runs_is_refused_where_it_stands(sweep, stack, what) -> None:
    with pytest.raises(InputError) as refused:
        sweep(resources=[{"stack": stack}])
    assert what in str(refused.value)
    assert "demo.yaml:" in str(refused.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**ROW, "runs": 1}, "'runs' must be above 1"),
        ({**ROW, "speedup": -1}, "'speedup' must be above 0"),
        ({"params": 1e6, "runs": 4}, "'speedup' is missing"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused_where_it_stands(sweep, row, what) -> None:
    with pytest.raises(InputError) as refused:
        sweep(profile={"stacks": [row]})
    assert what in str(refused.value)
