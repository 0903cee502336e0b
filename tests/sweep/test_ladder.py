"""Ladders: which run is the trunk, what branches share, what that saves, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalekit.errors import InputError
from scalekit.sweep import estimate
from scalekit.sweep.estimate import expected_seconds
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.explain import explain_run
from scalekit.sweep.load import load_sweep
from scalekit.sweep.plan import plan_sweep
from scalekit.sweep.spec import RunSpec, own_share, share_done

MODEL = {"n_layers": 2, "d_model": 32, "head_dim": 16, "context": 64}
TRAIN = {"batch_tokens": 1024, "schedule": "wsd", "warmup_tokens": 2048, "decay_frac": 0.2}
RUNGS = [20 * 1024, 40 * 1024, 80 * 1024]


def sweep(folder: Path, ladder: Any = None, train: Any = None, **rest: Any) -> Expansion:
    given = {k: v for k, v in (TRAIN | (train or {})).items() if v is not None}
    base = {"model": MODEL, "train": given, "data": {"source": "synthetic"}}
    file = folder / "a.yaml"
    whole = {"scalekit": 1, "name": "a", "base": base, "ladder": ladder or {"tokens": RUNGS}}
    file.write_text(yaml.safe_dump(whole | rest, sort_keys=False))
    return expand(load_sweep(file))


def refusal(folder: Path, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(InputError) as caught:
        sweep(folder, *arguments, **rest)
    return str(caught.value).replace(f"{folder}/", "")


def parents(runs: tuple[RunSpec, ...]) -> list[str | None]:
    return [run.plan.get("parent") for run in runs]


def test_the_longest_rung_is_the_trunk_and_the_others_leave_it_where_their_plateau_ends(tmp_path):
    first, second, trunk = sweep(tmp_path).runs
    assert parents((first, second, trunk)) == [trunk.id, trunk.id, None]
    assert [first.plan["branch_step"], second.plan["branch_step"]] == [16, 32]
    assert trunk.plan["branches"] == {first.id: 16, second.id: 32}
    assert own_share(first.plan) == pytest.approx(0.2)
    assert own_share(trunk.plan) == 1.0


def test_the_estimate_lets_branches_wait_for_their_trunk(tmp_path, monkeypatch):
    """Trunk 80 steps; branches of 54 from its sixth step and of 63 from its seventh."""
    monkeypatch.setattr(estimate, "_START_SECONDS", 0.0)
    expansion = sweep(tmp_path, {"steps": [60, 70, 80]}, {"decay_frac": 0.9})
    whole = expected_seconds(expansion.runs[-1])
    assert whole is not None

    def steps(at_once: int, chosen: Expansion = expansion) -> float:
        wall = plan_sweep(chosen, at_once=at_once).estimate.wall_seconds
        assert wall is not None
        return 80 * wall / whole

    assert steps(1) == pytest.approx(80 + 54 + 63)
    # The short one begins first, because its step comes first, and the long one follows it.
    assert steps(2) == pytest.approx(6 + 54 + 63)
    assert steps(3) == pytest.approx(80)
    # A trunk that is trained already keeps nobody waiting.
    assert steps(2, replace(expansion, runs=expansion.runs[:2])) == pytest.approx(63)


def test_each_combination_of_the_other_axes_has_a_trunk_of_its_own(tmp_path):
    runs = sweep(tmp_path, grid={"train.seed": [0, 1]}, zip={"train.lr": [1e-3, 2e-3]}).runs
    assert len(runs) == 12
    by_id = {run.id: run for run in runs}
    for run in runs:
        parent = by_id[run.plan.get("parent", run.id)]
        for key in ("seed", "lr"):
            assert run.config["train"][key] == parent.config["train"][key]
    assert sum("branches" in run.plan for run in runs) == 4


@pytest.mark.parametrize(
    "train", [{}, {"decay_frac": None, "decay_tokens": 5000}, {"decay_shape": "sqrt"}]
)
def test_a_rung_is_the_same_science_as_a_run_by_itself(tmp_path, train):
    rungs = sweep(tmp_path, train=train).runs
    alone = sweep(tmp_path, ladder={"tokens": None}, train=train, grid={"train.tokens": RUNGS})
    assert [run.id for run in alone.runs] == [run.id for run in rungs]
    assert [run.config for run in alone.runs] == [run.config for run in rungs]
    assert parents(alone.runs) == [None] * 3


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_a_part_of_the_schedule_in_tokens_is_the_same_run_as_its_share(tmp_path, schedule):
    (in_tokens,) = sweep(tmp_path, {"steps": [40]}, {"schedule": schedule}).runs
    share = {"schedule": schedule, "warmup_tokens": None, "warmup_frac": 2 / 40}
    (by_share,) = sweep(tmp_path, {"steps": [40]}, share).runs
    assert in_tokens.id == by_share.id


def test_a_dropped_rung_is_no_trunk(tmp_path):
    runs = sweep(tmp_path, where=[{"keep": "D < 80000", "because": "too long"}]).runs
    assert parents(runs) == [runs[1].id, None]


def test_a_single_rung_is_a_plain_run(tmp_path):
    (run,) = sweep(tmp_path, {"tokens": [RUNGS[0]]}).runs
    assert not {"parent", "branch_step", "branches"} & set(run.plan)


def test_branches_get_the_resources_of_their_trunk(tmp_path):
    rules = [{"when": "D > 50000", "gpus": 2}, {"gpus": 1}]
    assert {run.resources["gpus"] for run in sweep(tmp_path, resources=rules).runs} == {2}


@pytest.mark.parametrize(
    ("rungs", "decay", "published"),
    [
        ([2**i for i in range(6)], 0.2, 0.606),
        ([2**i for i in range(6)], 0.1, 0.557),
        (list(range(1, 9)), 0.2, 0.378),
        (list(range(1, 9)), 0.1, 0.300),
    ],
)
def test_a_ladder_costs_the_longest_rung_and_the_cooldowns_of_the_others(
    tmp_path, rungs, decay, published
):
    # Computed from the formula of Haegele et al. 2024, section 4: (D_n + f sum of D_i) / sum D_i.
    expansion = sweep(tmp_path, {"steps": [1000 * n for n in rungs]}, {"decay_frac": decay})
    plan = plan_sweep(expansion)
    assert plan.ladder is not None
    formula = (rungs[-1] + decay * sum(rungs[:-1])) / sum(rungs)
    share = plan.ladder.flops / plan.ladder.separate_flops
    assert share == pytest.approx(formula, rel=1e-12)
    assert share == pytest.approx(published, abs=5e-4)  # three printed digits
    assert plan.flops == pytest.approx(plan.ladder.flops)
    assert (plan.ladder.n_trunks, plan.ladder.n_branches) == (1, len(rungs) - 1)


def test_what_was_resolved_gives_the_same_ladder(tmp_path):
    expansion = sweep(tmp_path, {"tokens": {"logspace": [2e4, 8e4], "num": 3}})
    file = tmp_path / "again.yaml"
    file.write_text(expansion.spec.resolved_yaml())
    assert expand(load_sweep(file)).runs == expansion.runs


def test_a_rung_is_explained_although_it_is_rounded_to_whole_steps(tmp_path):
    expansion = sweep(tmp_path, {"tokens": [20_000, 40_000]})
    origins = {o.key: o.origin for o in explain_run(expansion.spec, expansion.runs[1])}
    assert origins["train.tokens"].startswith("swept, ")


def test_a_setting_that_is_resolved_in_another_is_explained_with_what_was_said_of_it(tmp_path):
    expansion = sweep(tmp_path, {"tokens_per_param": [20, 40]})
    found = {o.key: o for o in explain_run(expansion.spec, expansion.runs[0])}
    assert found["train.warmup_tokens"].value == TRAIN["warmup_tokens"]
    assert found["train.warmup_tokens"].origin.startswith("base, ")
    assert found["train.tokens_per_param"].value == 20
    assert found["train.decay_tokens"].value is None
    # A config holds a list where the default is a tuple.
    assert found["start.targets"].origin == found["eval.tasks"].origin == "default"


def test_a_branch_has_done_nothing_of_its_own_where_it_leaves_its_trunk(tmp_path):
    plan = sweep(tmp_path).runs[0].plan
    assert [share_done(plan, step) for step in (0, 16, 18, 20)] == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("ladder", "train", "said"),
    [
        ({"tokens": [2048, 1024]}, {}, "rung 1.02k does not rise above 2.05k; write the rungs"),
        ({"tokens": [2048, 2048]}, {}, "does not rise"),
        ({"lr": [0.1, 0.2]}, {}, "'train.lr' is not how long to train; choose from tokens"),
        ({"tokens": [4096], "steps": [7]}, {}, "a ladder has rungs of one kind, found"),
        ({"tokens": 4096}, {}, "'train.tokens' needs a list, found '4096'"),
        (None, {"tokens": 4096}, "says twice how long to train"),
        (None, {"schedule": "cosine"}, "branch off a plateau and cool down, found 'cosine'"),
        (None, {"warmup_tokens": None}, "would warm up for 1 to 4 steps; set train.warmup_tokens"),
        (None, {"warmup_frac": 0.1}, "train.warmup_frac says the same again; keep one"),
        (
            None,
            {"decay_tokens": 30000, "decay_frac": None},
            "train.decay_tokens: 30k tokens are as long as a run of 20.5k, or longer; shorten it",
        ),
        (
            None,
            {"warmup_tokens": 19000},
            "train.warmup_tokens: a warm-up of 95% and a cooldown of 20% exceed a run of 20.5k",
        ),
    ],
)
def test_a_ladder_that_has_no_trunk_is_refused_at_its_place(tmp_path, ladder, train, said):
    if ladder is None and "tokens" in train:
        ladder = {"steps": [20, 40]}
    found = refusal(tmp_path, ladder, train)
    assert said in found.replace(" (and in 1 other run)", "").replace(" (and in 2 other runs)", "")
    assert found.startswith("a.yaml:")
    assert not found.startswith("a.yaml:1:")


def test_a_setting_that_follows_from_the_length_is_refused_where_it_is_derived(tmp_path):
    found = refusal(tmp_path, derive={"train.lr": "0.01 * (D / 1e6) ** -0.5"})
    assert "train.lr differs between rungs of one trunk" in found
    assert "0.01 * (D / 1e6)" in found


def test_rungs_that_write_lines_after_other_steps_are_refused(tmp_path):
    """A branch's first line would hold the loss of more or fewer steps than its run's by itself."""
    found = refusal(tmp_path, derive={"log.every": "steps / 20"})
    assert "log.every differs between rungs of one trunk, 1 and 4; derive it from what" in found


def test_a_trunk_that_cools_down_before_a_branch_has_left_it_is_refused(tmp_path):
    """Its state at step 8 was of a falling rate: another loss than the rung has by itself."""
    derive = {"train.decay_frac": "min(0.7, steps * steps / 400)"}
    found = refusal(tmp_path, {"steps": [8, 12, 20]}, {"decay_frac": None}, derive=derive)
    assert "the longest rung cools down from step 6 on, before a shorter one, which" in found
    assert "leaves it at step 8; give all rungs one decay_frac" in found
