"""The plan: totals, findings about the design, proposals that can be followed, estimates."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalekit.commands._plan_text import plan_lines
from scalekit.sweep.design import BESIROGLU
from scalekit.sweep.estimate import (
    Speed,
    Took,
    expected_seconds,
    measured_speed,
    with_estimates,
)
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.plan import Plan, plan_sweep
from scalekit.sweep.review import Level

RATE = "3e-3 * (N / 1e6) ** -0.25"


def sweep(folder: Path, **changes: Any) -> Expansion:
    """A sweep of small models; sections in `changes` replace, keys of `base` are added."""
    # A source that never ends, so that no test is about its supply.
    base: dict[str, Any] = {"data.source": "synthetic"}
    base |= {"model.head_dim": 16, "model.context": 128, "train.batch_tokens": 1024}
    base["data.source"] = "synthetic"  # it never runs out of tokens
    value: dict[str, Any] = {"scalekit": 1, "name": "demo", "derive": {}}
    value |= {k: v for k, v in changes.items() if k != "base"}
    value["base"] = base | changes.get("base", {})
    if "train.lr" not in value["base"] and "train.lr" not in changes.get("grid", {}):
        value["derive"] = {"train.lr": RATE, **value["derive"]}
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return expand(load_sweep(path))


def isoflop(budgets: list[float], **sizes: list[int]) -> dict[str, Any]:
    return {"budgets": budgets, "sizes": sizes, "tolerance": 0.05}


WIDE = {"d_model": [16, 32, 48, 64, 96]}
FOUR = [2e11, 4e11, 8e11, 1.6e12]


def topics(plan: Plan, *levels: Level) -> list[str]:
    return [c.topic for c in plan.checks if c.level in (levels or tuple(Level))]


def said(plan: Plan, topic: str) -> str:
    found = [str(c) for c in plan.checks if c.topic == topic]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def good(tmp_path: Path) -> Expansion:
    return sweep(
        tmp_path,
        base={"model.n_layers": 2},
        isoflop=isoflop(FOUR, **WIDE),
        grid={"train.seed": [0, 1]},
    )


def test_a_good_design_has_notes_only(good: Expansion) -> None:
    plan = plan_sweep(good)
    assert topics(plan, Level.REFUSAL, Level.WARNING) == []
    assert "precision" in topics(plan, Level.NOTE)


def test_totals_are_the_sums_over_the_runs(good: Expansion) -> None:
    plan = plan_sweep(good)
    assert plan.n_runs == len(good.runs) == 40
    assert plan.flops == sum(run.plan["flops"]["exact"] for run in good.runs)
    assert plan.tokens == sum(run.plan["tokens"] for run in good.runs)
    sizes = sorted({run.plan["params"]["non_embedding_head"] for run in good.runs})
    assert plan.params == (sizes[0], sizes[-1])
    assert [b.flops for b in plan.budgets] == FOUR
    assert all(b.sizes == tuple(sizes) and b.n_runs == 10 for b in plan.budgets)
    for budget in plan.budgets:
        # Whole steps miss a budget by up to the tolerance asked for above.
        low, high = budget.tokens_per_param
        cost = budget.flops / (6 * sizes[-1] ** 2)
        assert low < cost < high


def proposed(text: str, *keys: str) -> list[tuple[list[int], float]]:
    """The settings of each proposed size, and the params printed beside them."""
    pattern = " with ".join(rf"{key} (\d+)" for key in keys) + r" \(([\d.]+)k\)"
    found = re.findall(pattern, text)
    assert found, text
    return [([int(v) for v in values], float(params) * 1e3) for *values, params in found]


@pytest.mark.parametrize("have", [[64], [48, 64], [64, 80, 96], [16, 32, 48, 64]])
def test_fewer_than_five_sizes_are_said_with_sizes_that_mend_it(
    tmp_path: Path, have: list[int]
) -> None:
    at = {"base": {"model.n_layers": 2, "model.head_dim": 8}}
    plan = plan_sweep(sweep(tmp_path, isoflop=isoflop([8e11], d_model=have), **at))
    text = said(plan, "sizes")
    assert f"{len(have)} size" in text
    assert "a valley needs 5" in text
    added = [width for (width,), _ in proposed(text, "d_model")]
    assert not set(added) & set(have)
    both = sorted(have + added)
    mended = plan_sweep(sweep(tmp_path, isoflop=isoflop([8e11], d_model=both), **at))
    assert "sizes" not in topics(mended)
    sizes = mended.budgets[0].sizes
    assert sizes[1] < plan.budgets[0].centre < sizes[-2]


def test_proposed_sizes_follow_what_derive_makes_of_them(tmp_path: Path) -> None:
    at = {"derive": {"model.d_model": "16 * n_layers"}}
    plan = plan_sweep(sweep(tmp_path, isoflop=isoflop([8e11], n_layers=[3, 5]), **at))
    for (n_layers,), params in proposed(said(plan, "sizes"), "n_layers"):
        once = sweep(tmp_path, isoflop=isoflop([8e11], n_layers=[n_layers]), **at)
        # Two digits are printed.
        counted = once.runs[0].plan["params"]["non_embedding_head"]
        assert counted == pytest.approx(params, rel=0.05)


def test_sizes_walked_together_are_proposed_along_their_line(tmp_path: Path) -> None:
    sizes = {"n_layers": [2, 6], "d_model": [32, 96]}
    text = said(plan_sweep(sweep(tmp_path, isoflop=isoflop([8e11], **sizes))), "sizes")
    for (n_layers, width), _ in proposed(text, "n_layers", "d_model"):
        assert width == 16 * n_layers


def test_a_size_that_heads_do_not_divide_is_not_proposed(tmp_path: Path) -> None:
    at = {"base": {"model.n_layers": 2, "model.head_dim": 24}}
    text = said(
        plan_sweep(sweep(tmp_path, isoflop=isoflop([8e11], d_model=[24, 96]), **at)), "sizes"
    )
    assert all(width % 24 == 0 for (width,), _ in proposed(text, "d_model"))


def test_sizes_that_differ_in_more_than_whole_numbers_are_named_by_params(tmp_path: Path) -> None:
    sizes = {"d_model": [16, 32], "n_layers": [2, 2], "tied": [False, True]}
    text = said(plan_sweep(sweep(tmp_path, isoflop=isoflop(FOUR, **sizes))), "sizes")
    assert re.search(r"; add sizes near [\d.]+k, .* params$", text), text


def test_where_no_setting_gives_a_size_its_params_are_named(tmp_path: Path) -> None:
    grid = {"model.d_model": [32, 64], "train.flops": FOUR}
    plan = plan_sweep(sweep(tmp_path, base={"model.n_layers": 2}, grid=grid))
    assert len(plan.budgets) == 4
    assert re.search(r"add sizes near [\d.]+k(, [\d.]+k)* params$", said(plan, "sizes"))


def test_flops_that_whole_steps_miss_are_told_outside_an_isoflop_design_too(tmp_path: Path) -> None:
    base = {"model.n_layers": 2, "model.d_model": 32}
    few = plan_sweep(sweep(tmp_path, base=base, grid={"train.flops": [1e9, 3e9, 1e12]}))
    text = said(few, "rounding")
    found = re.match(
        r"whole steps miss the FLOPs of (\d) runs? by more than 1%, most where (\d+) steps? are "
        r"[\d.e]+, ([+-][\d.]+)% off ([\de]+); take smaller batches or more FLOPs",
        text,
    )
    assert found, text
    assert int(found[1]) <= 2
    assert abs(float(found[3])) <= 100 / (2 * int(found[2]))
    assert found[4] in ("1e9", "3e9")
    many = plan_sweep(sweep(tmp_path, base=base, grid={"train.flops": FOUR}))
    assert "rounding" not in topics(many)
    dropped = plan_sweep(sweep(tmp_path, base={"model.n_layers": 2}, isoflop=isoflop(FOUR, **WIDE)))
    assert "rounding" not in topics(dropped)


@pytest.mark.parametrize("n_budgets", [1, 2, 3])
def test_fewer_than_four_budgets_are_said(tmp_path: Path, n_budgets: int) -> None:
    plan = plan_sweep(
        sweep(tmp_path, base={"model.n_layers": 2}, isoflop=isoflop(FOUR[:n_budgets], **WIDE))
    )
    assert f"{n_budgets} budget" in said(plan, "budgets")
    assert "held-out end needs 4" in said(plan, "budgets")


def ray(tmp_path: Path, **changes: Any) -> Plan:
    return plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 2, "train.tokens_per_param": 20},
            grid={"model.d_model": [32, 48, 64, 96, 128], **changes},
        )
    )


def test_a_single_ray_is_refused_with_what_would_leave_it(tmp_path: Path) -> None:
    plan = ray(tmp_path)
    (refusal,) = plan.refusals
    assert refusal.topic == "unidentified"
    assert "D = 20 N, one ray" in refusal.text
    assert "cannot be told apart" in refusal.text
    assert "5 or 80 tokens a parameter" in refusal.todo
    assert plan.exponent_sd > 1


def test_more_seeds_on_a_ray_do_not_lift_the_refusal(tmp_path: Path) -> None:
    assert ray(tmp_path, **{"train.seed": [0, 1, 2, 3]}).refusals


def test_a_search_for_settings_may_sit_on_a_ray_and_is_told(tmp_path: Path) -> None:
    plan = ray(tmp_path, **{"train.lr": [1e-3, 2e-3, 4e-3]})
    assert not plan.refusals
    assert "unidentified" in topics(plan, Level.WARNING)


def test_a_second_ray_is_identified(tmp_path: Path) -> None:
    expansion = sweep(
        tmp_path,
        base={"model.n_layers": 2},
        grid={"model.d_model": [32, 48, 64, 96, 128], "train.tokens_per_param": [5, 100]},
    )
    assert plan_sweep(expansion).refusals == ()


def test_one_size_is_a_note_and_not_a_refusal(tmp_path: Path) -> None:
    plan = plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 2, "model.d_model": 64, "train.tokens": 2e6},
            grid={"train.lr": [1e-3, 2e-3]},
        )
    )
    assert "one size" in said(plan, "law")
    assert not plan.refusals


def test_equal_tokens_everywhere_leave_the_exponent_undetermined(tmp_path: Path) -> None:
    plan = plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 2, "train.tokens": 2e6},
            grid={"model.d_model": [16, 32, 48, 64, 96, 128]},
        )
    )
    assert "not at all" in said(plan, "precision")
    assert "precision" in topics(plan, Level.WARNING)


def test_a_narrow_spread_of_tokens_per_param_is_said(tmp_path: Path) -> None:
    plan = plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 2},
            grid={"model.d_model": [32, 64, 128], "train.tokens_per_param": [15, 30]},
        )
    )
    assert "vary by 2x only" in said(plan, "spread")


LARGE = {"model.head_dim": 64, "model.context": 1024, "train.batch_tokens": 65536}


def large(tmp_path: Path, widths: list[int]) -> Plan:
    base = {**LARGE, "model.n_layers": 12}
    sizes = {"budgets": [1e19, 2e19, 4e19, 8e19], "sizes": {"d_model": widths}, "tolerance": 0.05}
    return plan_sweep(sweep(tmp_path, base=base, isoflop=sizes))


def test_a_valley_beside_the_prior_optimum_is_a_warning_at_the_priors_scale(tmp_path: Path) -> None:
    plan = large(tmp_path, [256, 320, 384, 448, 512])
    assert "edge" in topics(plan, Level.WARNING)
    assert "above all sizes" in said(plan, "edge")
    assert BESIROGLU.name in said(plan, "edge")
    centred = large(tmp_path, [512, 768, 1024, 1536, 2560])
    assert "edge" not in topics(centred)


def test_far_below_the_priors_models_the_edge_is_a_note_only(tmp_path: Path) -> None:
    plan = plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 4},
            isoflop=isoflop([8e11], d_model=[128, 144, 160, 176, 192]),
        )
    )
    assert "edge" in topics(plan, Level.NOTE)
    assert "trust your own first valley" in said(plan, "edge")


def test_a_batch_that_jumps_by_two_between_neighbours_is_said(tmp_path: Path) -> None:
    rule = {"train.batch_tokens": "128 * pow2(N / 7000)"}
    finer = {"train.batch_tokens": "128 * max(1, round(8 * sqrt(N / 30000)))"}

    def planned(derive: dict[str, str]) -> Plan:
        base = {"model.n_layers": 2}
        return plan_sweep(sweep(tmp_path, base=base, isoflop=isoflop(FOUR, **WIDE), derive=derive))

    assert "jumps 2x between neighbours" in said(planned(rule), "batch")
    assert "batch" not in topics(planned(finer))


def test_swept_batches_are_not_a_jump(tmp_path: Path) -> None:
    plan = plan_sweep(
        sweep(
            tmp_path,
            base={"model.n_layers": 2},
            isoflop=isoflop(FOUR, **WIDE),
            grid={"train.batch_tokens": [512, 1024]},
        )
    )
    assert "batch" not in topics(plan)


@pytest.mark.parametrize(
    ("settings", "topic", "words"),
    [
        ({"train.warmup_frac": 0.5}, "warmup", "up to 50% of training"),
        ({"train.warmup_frac": 0.0}, "warmup", "warm up for less than one step: 20 of 20"),
        ({"train.lr": 3e-3}, "lr", "one learning rate (0.003)"),
        ({"train.schedule": "constant"}, "schedule", "never falls"),
        ({"train.batch_tokens": 65536}, "steps", "fewer than 100 steps"),
        ({"train.seed": 7}, "seeds", "every run has seed 7"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_recipe_that_bends_the_law_is_named(
    tmp_path: Path, settings: dict[str, Any], topic: str, words: str
) -> None:
    changes = {"base": {"model.n_layers": 2}, "isoflop": isoflop(FOUR, **WIDE)}
    plan = plan_sweep(sweep(tmp_path, **changes))
    assert topic == "seeds" or topic not in topics(plan)
    changes["base"] = {"model.n_layers": 2, **settings}
    changes["isoflop"]["tolerance"] = 0.5  # large batches miss a budget
    assert words in said(plan_sweep(sweep(tmp_path, **changes)), topic)


def test_mup_may_have_one_learning_rate(tmp_path: Path) -> None:
    base = {"model.n_layers": 2, "train.lr": 3e-3}
    base |= {"model.parametrization": "mup", "model.base_width": 32}
    plan = plan_sweep(sweep(tmp_path, base=base, isoflop=isoflop(FOUR, **WIDE)))
    assert not {"lr", "transfer"} & set(topics(plan))


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"base": {"model.d_ff": 128}}, "d_ff is 1.33 to 8 times d_model"),
        ({"derive": {"model.head_dim": "d_model"}}, "head_dim is 16 to 96: attention keeps"),
    ],
    ids=["d_ff", "heads"],
)
@pytest.mark.parametrize("parametrization", ["mup", "completep", "standard"])
def test_a_width_that_stays_behind_is_named_where_rates_are_to_transfer(
    tmp_path: Path, parametrization: str, fixed: dict[str, Any], words: str
) -> None:
    base = {"model.n_layers": 2, "model.parametrization": parametrization}
    base |= fixed.get("base", {})
    if parametrization != "standard":
        base |= {"model.base_width": 32, "model.base_depth": 2}
    changes = {"base": base, "derive": fixed.get("derive", {}), "isoflop": isoflop(FOUR, **WIDE)}
    plan = plan_sweep(sweep(tmp_path, **changes))
    if parametrization == "standard":
        assert "transfer" not in topics(plan)
    else:
        assert words in said(plan, "transfer")


def test_dropped_rows_are_counted_by_reason_with_an_example(tmp_path: Path) -> None:
    expansion = sweep(
        tmp_path,
        base={"model.n_layers": 2},
        isoflop=isoflop(FOUR, **WIDE),
        grid={"train.seed": [0, 0, 1]},
        where=[{"keep": "D / N <= 500", "because": "trained too long"}, {"keep": "N > 2e4"}],
    )
    plan = plan_sweep(expansion)
    counts = {row.reason: row.count for row in plan.dropped}
    assert set(counts) == {"trained too long", "not N > 2e4", "the same as another run"}
    assert sum(counts.values()) == len(expansion.dropped)
    assert plan.n_runs + sum(counts.values()) == 60
    assert all(row.first in expansion.dropped for row in plan.dropped)


def test_the_estimate_shrinks_with_runs_at_once_but_not_below_the_longest(good: Expansion) -> None:
    one, two, many = (plan_sweep(good, at_once=n).estimate for n in (1, 2, 1000))
    assert one.device_seconds == two.device_seconds == many.device_seconds == one.wall_seconds
    assert one.device_seconds
    assert two.wall_seconds
    # Longest first leaves at most one run's length between two workers.
    longest = max(seconds for run in good.runs if (seconds := expected_seconds(run)))
    assert one.device_seconds / 2 <= two.wall_seconds <= one.device_seconds / 2 + longest
    assert many.wall_seconds == pytest.approx(longest)
    assert "assumed" in one.source


def test_a_short_run_on_a_core_takes_as_long_as_its_process_needs_to_start(good: Expansion) -> None:
    run = good.runs[0]
    seconds = [
        expected_seconds(replace(run, plan={**run.plan, "flops": {"exact": flops}}))
        for flops in (1.0, 1e9)
    ]
    assert seconds == pytest.approx([2.0, 2.0], rel=0.1)


def test_short_runs_are_counted_with_the_grammar_of_their_number(tmp_path: Path) -> None:
    changes = {"base": {"model.d_model": 16, "model.n_layers": 1, "train.steps": 50}}
    one = said(plan_sweep(sweep(tmp_path, **changes)), "steps")
    assert one.startswith("the only run takes fewer than 100 steps (the shortest 50): its loss")
    some = {"train.steps": [50, 200, 300]}
    assert "1 of 3 runs takes" in said(plan_sweep(sweep(tmp_path, **changes, grid=some)), "steps")


def test_what_two_more_seeds_cost_is_said_in_two_digits(tmp_path: Path) -> None:
    changes = {"base": {"model.d_model": 16, "model.n_layers": 1, "train.steps": 50}}
    assert "cost 200% more" in said(plan_sweep(sweep(tmp_path, **changes)), "seeds")


def test_finished_runs_replace_the_assumption_and_are_named(good: Expansion) -> None:
    start = Speed().start_seconds
    took = [(r, Took(5.0, 3 * (expected_seconds(r) or 0) - 3 * start)) for r in good.runs[:4]]
    assumed = plan_sweep(good).estimate
    measured = plan_sweep(good, speed=measured_speed(took, None)).estimate
    assert assumed.device_seconds
    training = assumed.device_seconds - len(good.runs) * start
    assert measured.device_seconds == pytest.approx(3 * training + 5 * len(good.runs))
    assert "measured on 4 finished runs" in measured.source
    assert measured.source.endswith("0.33 times the speed assumed before, 5s to start a run")


def test_what_small_runs_take_to_start_does_not_make_the_large_ones_slow(tmp_path: Path) -> None:
    """Their starts once counted as training: the first judged the others 45 times too slow."""
    changes = {
        "base": {"model.n_layers": 4, "train.tokens_per_param": 20},
        "grid": {"model.d_model": [64, 1024]},
        "resources": [{"gpus": 1}],
        "profile": {"peak_flops": 1e14, "mfu": 0.4},
    }
    expansion = sweep(tmp_path, **changes)
    small, large = expansion.runs
    profile = expansion.spec.profile
    alone = [expected_seconds(r, profile, Speed(start_seconds=0.0)) or 0 for r in (small, large)]
    speed = measured_speed([(small, Took(10.0, alone[0]))], profile)
    assert expected_seconds(large, profile, speed) == pytest.approx(10 + alone[1])


def test_a_gpu_without_a_known_peak_gets_no_invented_time(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "base": {"model.n_layers": 2},
        "isoflop": isoflop(FOUR, **WIDE),
        "resources": [{"gpus": 2}],
    }
    blind = plan_sweep(sweep(tmp_path, **changes)).estimate
    assert blind.device_seconds is None
    assert "peak_flops" in blind.source
    changes["profile"] = {"name": "site", "peak_flops": 1e12, "mfu": 0.25}
    expansion = sweep(tmp_path, **changes)
    estimate = plan_sweep(expansion).estimate
    flops = sum(run.plan["flops"]["exact"] for run in expansion.runs)
    # One run after the other on two GPUs: half the device time passes on the wall.
    starts = Speed().start_seconds * len(expansion.runs)
    assert estimate.device_seconds == pytest.approx(flops / (1e12 * 0.25) + 2 * starts)
    assert estimate.wall_seconds == pytest.approx(flops / (2 * 1e12 * 0.25) + starts)


def test_estimates_on_disk_do_not_depend_on_what_has_finished(good: Expansion) -> None:
    runs = with_estimates(good.runs, None)
    assert [run.id for run in runs] == [run.id for run in good.runs]
    assert [run.plan["estimate"] for run in runs] == [expected_seconds(run) for run in good.runs]


def test_planning_loads_neither_numpy_nor_torch(tmp_path: Path) -> None:
    sweep(tmp_path, base={"model.n_layers": 2}, isoflop=isoflop(FOUR, d_model=[32, 64]))
    code = (
        "import sys; from pathlib import Path\n"
        "from scalekit.sweep.load import load_sweep\n"
        "from scalekit.sweep.expand import expand\n"
        "from scalekit.sweep.plan import plan_sweep\n"
        "plan = plan_sweep(expand(load_sweep(Path(sys.argv[1]))))\n"
        "assert plan.n_runs == 8\n"
        "heavy = ('numpy', 'torch', 'pandas', 'scipy', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "demo.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SITE = {"peak_flops": 1e12, "mfu": 0.5, "price_per_gpu_hour": 2.0, "currency": "EUR"}
POWER = {"gpu_watts": 400, "pue": 1.25, "grid_intensity": 300}


def on_gpus(tmp_path: Path, **profile: Any) -> Expansion:
    return sweep(
        tmp_path,
        base={"model.n_layers": 2},
        isoflop=isoflop(FOUR, **WIDE),
        resources=[{"when": "N < 1e5", "gpus": 1}, {"gpus": 2}],
        profile=profile,
    )


def test_money_and_energy_follow_from_hours_prices_and_powers(tmp_path: Path) -> None:
    expansion = on_gpus(tmp_path, **SITE, **POWER)
    # Starts are left out here: two GPUs wait for one as long as one GPU does.
    cost = plan_sweep(expansion, speed=Speed(start_seconds=0.0)).estimate.cost
    # Two GPUs take half the time each: the hours are FLOPs over speed whatever runs share them.
    hours = sum(run.plan["flops"]["exact"] for run in expansion.runs) / (1e12 * 0.5) / 3600
    assert cost.gpu_hours == pytest.approx(hours, rel=1e-12)
    assert cost.price == pytest.approx(2.0 * hours, rel=1e-12)
    assert cost.kwh == pytest.approx(0.4 * 1.25 * hours, rel=1e-12)
    assert cost.kg_co2e == pytest.approx(0.3 * 0.5 * hours, rel=1e-12)
    assert (cost.currency, cost.missing) == ("EUR", ())
    # Twice as fast as assumed is half the price.
    faster = plan_sweep(expansion, speed=Speed(2.0, 0.0, 3)).estimate.cost
    assert faster.price == pytest.approx(hours, rel=1e-12)


def test_a_plan_on_gpus_says_what_it_costs_and_what_it_cannot_know(tmp_path: Path) -> None:
    def line(**profile: Any) -> list[str]:
        expansion = on_gpus(tmp_path, **profile)
        lines = plan_lines(plan_sweep(expansion), expansion.spec, expansion.runs)
        return [text for text in lines if text.startswith("cost:")]

    slow = {**SITE, "peak_flops": 1e9}
    (full,) = line(**slow, **POWER)
    pattern = r"cost: ([\d.]+) GPU-hours, ([\d.]+) EUR, ([\d.]+) kWh, ([\d.]+) kg CO2e"
    found = re.fullmatch(pattern, full)
    assert found is not None, full
    hours, price, *_ = map(float, found.groups())
    assert price == pytest.approx(2 * hours, rel=0.01)  # three digits are printed
    (part,) = line(peak_flops=1e9)
    assert part.endswith(
        "; not known: price_per_gpu_hour, gpu_watts, grid_intensity, give them in the profile"
    )
    assert line() == []  # nobody knows how long they take, and the estimate says so


def test_a_plan_beyond_all_bounds_is_told_in_powers_of_ten(tmp_path: Path) -> None:
    expansion = sweep(
        tmp_path,
        base={"model.n_layers": 2},
        isoflop=isoflop([1e40], **WIDE),
        resources=[{"gpus": 1}],
        profile={**SITE, **POWER},
    )
    runs = with_estimates(expansion.runs, expansion.spec.profile)
    lines = list(plan_lines(plan_sweep(expansion), expansion.spec, runs))
    words = {word for line in lines for word in line.split()} - {run.id for run in runs}
    assert not [word for word in words if re.search("[0-9]{7}", word)]


def test_runs_on_cores_have_no_price(good: Expansion) -> None:
    cost = plan_sweep(good).estimate.cost
    assert (cost.gpu_hours, cost.price, cost.kwh, cost.missing) == (0.0, None, None, ())


def test_disk_grows_with_lines_and_with_checkpoints_side_by_side(good: Expansion) -> None:
    alone, both = (plan_sweep(good, at_once=n).estimate.cost.disk_gb for n in (1, 2))
    largest = max(run.plan["params"]["total"] for run in good.runs)
    assert both - alone == pytest.approx(3 * 12 * largest / 1e9, rel=1e-6)
    n_lines = sum(run.plan["steps"] / 10 for run in good.runs)
    assert alone > 200 * n_lines / 1e9


def test_disk_holds_the_weights_that_runs_keep(tmp_path: Path) -> None:
    def disk(**base: Any) -> float:
        made = sweep(tmp_path, isoflop=isoflop(FOUR, **WIDE), base={"model.n_layers": 2, **base})
        return plan_sweep(made).estimate.cost.disk_gb

    runs = sweep(tmp_path, isoflop=isoflop(FOUR, **WIDE), base={"model.n_layers": 2}).runs
    params = sum(run.plan["params"]["total"] for run in runs)
    kept = disk(**{"log.keep_weights": True})
    assert kept - disk() == pytest.approx(4 * params / 1e9, rel=1e-6)


def test_disk_holds_what_trunks_leave_for_their_branches(tmp_path: Path) -> None:
    train = {"train.schedule": "wsd", "train.warmup_tokens": 2048, "model.n_layers": 2}
    steps = {"train.steps": [20, 40, 80]}
    alone, ladder = (
        sweep(tmp_path, base={**train, "model.d_model": 32}, **{kind: steps})
        for kind in ("grid", "ladder")
    )
    gained = plan_sweep(ladder).estimate.cost.disk_gb - plan_sweep(alone).estimate.cost.disk_gb
    params = ladder.runs[0].plan["params"]["total"]
    assert gained == pytest.approx(2 * 12 * params / 1e9, rel=1e-6)
