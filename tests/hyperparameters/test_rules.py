"""The contract of `hyperparameters/`, its published numbers, and its use in a sweep file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scalekit import cli, errors, registry
from scalekit.hyperparameters.base import Rule
from scalekit.models._parametrization import rules_for
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.plan import plan_sweep
from scalekit.sweep.ranges import QUANTITIES
from scalekit.sweep.review import Level

RULES: list[Rule] = [
    registry.find("hyperparameters", name) for name in registry.names("hyperparameters")
]
of_every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def rule(name: str) -> Rule:
    return registry.find("hyperparameters", name)


@of_every_rule
def test_a_rule_says_what_it_is_and_bears_the_name_of_its_file(rule: Rule) -> None:
    assert rule.name in registry.names("hyperparameters")
    assert registry.find("hyperparameters", rule.name) is rule
    assert all((rule.inputs, rule.gives, rule.formula, rule.source, rule.fitted_on))
    assert rule.call in rule.describe()


@of_every_rule
def test_the_range_of_a_rule_is_of_quantities_that_a_plan_compares(rule: Rule) -> None:
    assert set(rule.fitted_range) <= set(QUANTITIES)
    assert all(0 < least < most for least, most in rule.fitted_range.values())


@of_every_rule
@given(data=st.data())
def test_a_rule_is_a_power_of_each_input(rule: Rule, data: st.DataObject) -> None:
    """Multiplied by k twice, each input multiplies the value by the same factor twice."""
    values = [data.draw(st.floats(1e-4, 1e24)) for _ in rule.inputs]
    k = data.draw(st.floats(1.5, 100.0))
    for i in range(len(values)):
        steps = [rule(*values[:i], values[i] * k**power, *values[i + 1 :]) for power in range(3)]
        assert all(0 < s < math.inf for s in steps)
        # Six powers of floats.
        assert steps[1] / steps[0] == pytest.approx(steps[2] / steps[1], rel=1e-9)


@of_every_rule
def test_an_input_that_is_not_above_zero_is_refused(rule: Rule) -> None:
    for i, name in enumerate(rule.inputs):
        values = [1.0] * len(rule.inputs)
        values[i] = 0.0
        with pytest.raises(ValueError, match=f"{rule.name} needs {name} above 0, found 0"):
            rule(*values)


@pytest.mark.parametrize(
    ("N", "D", "lr", "batch"),
    [(1e9, 1e11, 1.632e-3, 1.108e6), (7e9, 1.4e12, 9.17e-4, 5.0e6)],
)
def test_step_law_gives_the_numbers_of_its_constants(N, D, lr, batch) -> None:
    # Li et al. 2025, arXiv:2503.04715; evaluated apart, with the digits that stand here.
    assert rule("step_law_lr")(N, D) == pytest.approx(lr, rel=5e-4)
    assert rule("step_law_batch")(D) == pytest.approx(batch, rel=1e-2)


def test_step_law_is_inside_the_spread_of_its_authors_bootstrap() -> None:
    # Medians of the 1,000 released fits, and the published standard deviations of the exponents.
    def exponent(name: str, *at: float, of: int) -> float:
        moved = [value * (2.0 if i == of else 1.0) for i, value in enumerate(at)]
        return math.log2(rule(name)(*moved) / rule(name)(*at))

    assert exponent("step_law_lr", 1e9, 1e11, of=0) == pytest.approx(-0.7122, abs=0.030)
    assert exponent("step_law_lr", 1e9, 1e11, of=1) == pytest.approx(0.3070, abs=0.019)
    assert exponent("step_law_batch", 1e11, of=0) == pytest.approx(0.5713, abs=0.019)


@pytest.mark.parametrize(
    # Non-embedding FLOPs a token by their own shapes (30 layers of 4096, 95 of 8192, context
    # 4096) times 2T tokens; then what the rule gives, and what was trained with.
    ("C", "lr", "batch", "used_lr", "used_batch"),
    [
        (42_278_584_320 * 2e12, 4.246e-4, 9.22e6, 4.2e-4, 2304 * 4096),
        (497_276_682_240 * 2e12, 3.12e-4, 2.07e7, 3.2e-4, 4608 * 4096),
    ],
    ids=["7B", "67B"],
)
def test_deepseek_gives_what_its_models_were_trained_with(
    C: float, lr: float, batch: float, used_lr: float, used_batch: int
) -> None:
    # Three digits.
    assert rule("deepseek_lr")(C) == pytest.approx(lr, rel=2.5e-3)
    assert rule("deepseek_batch")(C) == pytest.approx(batch, rel=2.5e-3)
    # The models round what the rule gives; the larger one's batch by a tenth.
    assert rule("deepseek_lr")(C) == pytest.approx(used_lr, rel=0.03)
    assert rule("deepseek_batch")(C) == pytest.approx(used_batch, rel=0.10)


def test_power_lines_puts_the_timescale_on_its_law() -> None:
    N, lr = 1e9, 2e-3
    timescales = {}
    for tpp in (20.0, 1280.0):
        for batch in (5e5, 1e6):
            D = tpp * N
            decay = rule("power_lines_decay")(N, D, batch, lr)
            timescales.setdefault(tpp, []).append(batch / (lr * decay * D))
    # The best decay is proportional to the batch: the timescale does not depend on it.
    for pair in timescales.values():
        assert pair[0] == pytest.approx(pair[1], rel=1e-12)
    slope = math.log(timescales[1280.0][0] / timescales[20.0][0]) / math.log(64)
    # Bergsma et al. 2025, arXiv:2505.13738: the interval of the fitted exponent.
    assert -0.529 <= slope <= -0.507


# --- In a sweep file.


def sweep_file(folder: Path, derive: dict[str, str]) -> Path:
    file = folder / "a.yaml"
    whole = {
        "scalekit": 1,
        "name": "a",
        "base": {
            "model": {"n_layers": 2, "d_model": 32, "head_dim": 16, "context": 64},
            "data": {"source": "synthetic"},
            "train": {"tokens": 102400, "batch_tokens": 1024},
        },
        "derive": derive,
    }
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    return file


def test_rules_are_called_by_name_in_derive(tmp_path: Path) -> None:
    derive = {
        "train.lr": "step_law_lr(N, D)",
        "train.batch_tokens": "context * max(1, round(step_law_batch(D) / context))",
        "train.weight_decay": "power_lines_decay(N, D, batch_tokens, lr)",
    }
    (run,) = expand(load_sweep(sweep_file(tmp_path, derive))).runs
    train, N = run.config["train"], run.plan["params"][run.plan["params_kind"]]
    assert train["lr"] == rule("step_law_lr")(N, 102400)
    assert train["batch_tokens"] == 64 * round(rule("step_law_batch")(102400) / 64) > 64
    expected = rule("power_lines_decay")(N, 102400, train["batch_tokens"], train["lr"])
    assert train["weight_decay"] == expected


@pytest.mark.parametrize(
    ("parametrization", "lr"),
    [("standard", "lr"), ("mup", "lr * base_width / d_model"), ("completep", "lr")],
)
def test_power_lines_holds_for_hidden_matrices_at_the_rate_that_it_names(
    tmp_path: Path, parametrization: str, lr: str
) -> None:
    name = "power_lines_decay"
    file = sweep_file(tmp_path, {"train.weight_decay": f"{name}(N, D, batch_tokens, {lr})"})
    whole = yaml.safe_load(file.read_text())
    scaled = {"parametrization": parametrization, "base_width": 8, "base_depth": 1}
    whole["base"]["model"] |= scaled
    file.write_text(yaml.safe_dump(whole))
    (run,) = expand(load_sweep(file)).runs
    rules, train = rules_for(run.config["model"]), run.config["train"]
    rate = train["lr"] * rules.hidden_lr * train["weight_decay"] * rules.hidden_decay
    N, D = run.plan["params"][run.plan["params_kind"]], run.plan["tokens"]
    assert train["batch_tokens"] / (rate * D) == pytest.approx(1.084 * (D / N) ** -0.527)
    assert lr in rule(name).describe()


def test_the_readme_calls_step_law_with_the_params_that_it_was_fitted_on(tmp_path: Path) -> None:
    """Those of its authors' models, of which their data give shape and number, have no head."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (call,) = re.findall(r"train\.lr: (step_law_lr\(.*?\))`", readme)
    (run,) = expand(load_sweep(sweep_file(tmp_path, {"train.lr": call}))).runs
    params = run.plan["params"]["non_embedding"]
    assert run.config["train"]["lr"] == rule("step_law_lr")(params, 102400)


@pytest.mark.parametrize(
    ("sizes", "tokens", "said"),
    [
        ([16, 32], 102400, "215M to 1.07B params, these runs have"),
        ([1408, 2048], 20e9, ""),
        ([1408, 2048], 1e9, "step_law_lr was fitted on 4B to 100B tokens, these runs have 1B"),
    ],
)
def test_a_rule_outside_of_what_it_was_fitted_on_is_noted_in_the_plan(
    tmp_path: Path, sizes: list[int], tokens: float, said: str
) -> None:
    file = sweep_file(tmp_path, {"train.lr": "0.5 * step_law_lr(N, D)"})
    whole = yaml.safe_load(file.read_text())
    whole["base"]["model"] |= {"n_layers": 8 if sizes[0] > 1000 else 2, "d_model": None}
    whole["base"]["train"]["tokens"] = tokens
    whole["base"]["data"]["max_epochs"] = 1e9
    whole["grid"] = {"model.d_model": sizes}
    file.write_text(yaml.safe_dump(whole))
    checks = plan_sweep(expand(load_sweep(file))).checks
    found = [check for check in checks if check.topic == "rule"]
    assert [check.level for check in found] == ([Level.NOTE] if said else [])
    assert all(said in check.text for check in found)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("step_lw_lr(N, D)", "unknown function 'step_lw_lr'; did you mean 'step_law_lr'?"),
        ("2 * step_law_lr(N)", "step_law_lr takes N, D, found 1 argument; write step_law_lr(N, D)"),
        ("step_law_lr(N, nope)", "unknown key 'nope'"),
        ("step_law_lr(N, 0)", "has no value, step_law_lr needs D above 0, found 0"),
        ("step_law_lr", "unknown key 'step_law_lr'; write step_law_lr(N, D)"),
        ("power_lines_decay(N, D, batch_tokens, lr)", "depends on itself"),
    ],
)
def test_a_mistake_is_told_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], expression: str, said: str
) -> None:
    derive = {"train.lr": "weight_decay * 0.03", "train.weight_decay": expression}
    if "power" not in expression:
        derive = {"train.lr": expression}
    assert cli.run(["validate", str(sweep_file(tmp_path, derive))]) == errors.REFUSED
    assert said in capsys.readouterr().err


def test_the_schema_lists_every_rule_where_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schema"]) == errors.OK
    described = json.loads(capsys.readouterr().out)["properties"]["derive"]["description"]
    for each in RULES:
        assert each.describe() in described
    assert "sqrt" in described
