"""From a sweep file to runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekit.counting import count_flops_per_token, count_params
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.spec import RunConfig, RunSpec, shape_of

WHOLE = Path(__file__).parent / "files" / "whole.yaml"


@pytest.fixture(scope="module")
def whole() -> Expansion:
    return expand(load_sweep(WHOLE))


def test_every_row_of_the_product_and_every_case_is_a_run_or_dropped(whole):
    n_product = 2 * 2 * 2 * 4
    assert len(whole.runs) + len(whole.dropped) == n_product + 1
    assert all(row.because for row in whole.dropped)


def test_a_run_holds_its_shape_counted_by_every_convention(whole):
    for run in whole.runs:
        shape = shape_of(run.config["model"])
        assert run.plan["params"] == count_params(shape)
        assert run.plan["flops_per_token"] == count_flops_per_token(shape)
        assert (
            run.plan["flops"]["exact"] == run.plan["flops_per_token"]["exact"] * run.plan["tokens"]
        )


def test_tokens_are_whole_steps_of_the_batch(whole):
    for run in whole.runs:
        train = run.config["train"]
        assert train["tokens"] == train["steps"] * train["batch_tokens"] == run.plan["tokens"]


def test_an_isoflop_run_meets_its_budget_within_the_tolerance(whole):
    budgeted = [run for run in whole.runs if run.plan["budget"]]
    assert len(budgeted) == len(whole.runs) - 1  # the case has steps of its own
    for run in budgeted:
        assert run.plan["flops"]["exact"] == pytest.approx(run.plan["budget"], rel=0.01)


def test_a_config_is_valid_and_leaves_nothing_open(whole):
    for run in whole.runs:
        RunConfig.model_validate(run.config)
        needed = ("d_model", "n_layers", "n_heads", "head_dim", "n_kv_heads", "d_ff", "vocab")
        assert all(run.config["model"][key] for key in needed)


def test_a_plan_line_reads_back(whole):
    assert RunSpec.from_json(whole.runs[0].to_json()) == whole.runs[0]


def test_the_resolved_file_gives_the_same_runs(whole, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(whole.spec.resolved_yaml())
    again = expand(load_sweep(file))
    assert again.runs == whole.runs
    assert again.dropped == whole.dropped
    assert again.spec.resolved_yaml() == whole.spec.resolved_yaml()
