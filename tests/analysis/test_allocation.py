"""What a fit is asked for afterwards: optimum, frontier, comparison, roll-out, influence."""

import numpy as np
import pytest

from scalekit import registry
from scalekit.analysis.allocation import frontier, optimum, predict
from scalekit.analysis.compare import summary
from scalekit.analysis.rollout import rollout
from scalekit.analysis.sensitivity import exponent_table
from scalekit.errors import FitError, UsageError
from scalekit.fit.run import fit, read_fit, write_fit
from scalekit.fit.simulate import PUBLISHED, isoflop_inputs, simulate
from scalekit.results.table import RunTable

CHINCHILLA = registry.find("laws", "chinchilla")
TRUTH = PUBLISHED["chinchilla"]
BUDGETS = np.geomspace(1e18, 1e20, 5)


def with_columns(table: RunTable, **columns) -> RunTable:
    return RunTable({**table.columns, **columns}, table.meta)


@pytest.fixture(scope="module")
def table() -> RunTable:
    inputs, budget = isoflop_inputs(CHINCHILLA, TRUTH, list(BUDGETS), n_sizes=6)
    return simulate(CHINCHILLA, TRUTH, inputs, noise=0.003, seed=1, budget=budget)


@pytest.fixture(scope="module")
def whole(table):
    return fit(
        table,
        approaches=["parametric", "isoflop", "envelope"],
        hold_out="largest-budget",
        predict=[1e21, 1e23],
    )


def test_the_optimum_of_a_written_fit_is_that_of_the_fit(whole, tmp_path) -> None:
    write_fit(whole, tmp_path / "fit.json")
    again = read_fit(tmp_path / "fit.json")
    for entry in whole.optimum:
        found = optimum(again, entry["flops"])
        assert found["params"] == pytest.approx(entry["params"], rel=1e-12)
        for name, ends in entry["intervals"].items():
            # The covariance passes through decimal digits once.
            assert found["intervals"][name]["low"] == pytest.approx(ends["low"], rel=1e-9)


def test_the_frontier_is_the_optimum_at_each_budget(whole) -> None:
    path = frontier(whole, np.array([1e21, 1e23]))
    for k, entry in enumerate(whole.optimum):
        for name in ("params", "tokens", "loss", "tokens_per_param"):
            assert path[name][k] == pytest.approx(entry[name], rel=1e-12)
            assert path[f"{name}_low"][k] < path[name][k] < path[f"{name}_high"][k]


def test_what_gives_no_law_is_refused_by_name(whole, table) -> None:
    with pytest.raises(FitError, match="isoflop: gives a frontier but no law"):
        frontier(whole.others[0], np.array([1e21]))
    with pytest.raises(UsageError, match="a law of C has no optimum"):
        optimum(fit(table, laws=["power"]), 1e21)
    sizes = np.geomspace(1e7, 1e9, 9)
    with pytest.raises(FitError, match="one ray"):
        predict(fit(simulate(CHINCHILLA, TRUTH, {"N": sizes, "D": 20 * sizes})), 1e9, 2e10)


def test_a_prediction_says_how_far_it_reaches(whole) -> None:
    found = predict(whole, 1e9, 1e12)
    assert found["flops"] == pytest.approx(6e21)
    assert found["extrapolation"] == pytest.approx(60)
    assert found["intervals"]["loss"]["low"] < found["loss"] < found["intervals"]["loss"]["high"]


def test_the_summary_lists_every_fit_and_decides_by_held_out_error(table) -> None:
    result = fit(
        table,
        laws=["chinchilla", "power"],
        approaches=["parametric", "isoflop"],
        hold_out="largest-budget",
        predict=[1e22],
    )
    found = summary(result)
    assert [r["law"] for r in found.rows] == ["chinchilla", "power", "isoflop", "isoflop_akima"]
    # The power law of C cannot know that a budget was split badly.
    assert found.best == "chinchilla"
    assert found.spread is not None
    assert 1 <= found.spread < 1.5
    assert any("held-out error: chinchilla" in s for s in found.sentences)


def test_a_rollout_refits_below_every_budget(table, whole) -> None:
    found = rollout(table, whole)
    cuts = [e["cut"] for e in found]
    # One budget of six sizes lies on one line: no law, but a number all the same.
    assert cuts == pytest.approx(BUDGETS[:4])
    assert [e["n_train"] for e in found] == [6, 12, 18, 24]
    last = found[-1]
    assert last["mape"] == pytest.approx(whole.holdout["mape"], rel=1e-9)
    assert last["next_mape"] == pytest.approx(last["mape"], rel=1e-9)
    assert last["mape"] < last["baseline_mape"]


def test_the_forest_names_each_variant_and_keeps_failures(table, whole) -> None:
    total = table["params"] + 47491.0 * table["params"] ** (1 / 3)
    rows = exponent_table(with_columns(table, params_total=total), whole)
    groups = {r["group"] for r in rows}
    assert groups == {"as fitted", "approach", "objective", "params count", "left out"}
    assert rows[0]["value"] == whole.exponents["params"]["value"]
    variants = {r["variant"]: r for r in rows}
    assert variants["mse"]["n_runs"] == 30
    assert variants["budget 1e18"]["n_runs"] == 24
    count = variants["total"]["value"]
    assert count is not None
    assert abs(count - rows[0]["value"]) > 1e-4


def test_a_tied_exponent_moves_by_no_standard_error_without_a_run(table) -> None:
    result = fit(table, laws=["chinchilla_tied"])
    shifts = [one["shift_in_errors"] for one in result.diagnostics["influence"]["runs"]]
    assert shifts == [0.0] * len(shifts)


def test_a_link_to_accuracy_is_no_rival_of_a_law_of_loss(table) -> None:
    accuracy = 0.2 + 9.0 * table["loss"] ** -3.5
    told = RunTable({**table.columns, "accuracy": accuracy}, table.meta)
    result = fit(told, laws=["chinchilla", "link_exp"], hold_out="largest-budget")
    found = summary(result)
    assert [row["response"] for row in found.rows] == ["loss", "accuracy"]
    assert found.best == "chinchilla"
    told_of = [s for s in found.sentences if s.startswith("held-out")]
    assert len(told_of) == 1
    assert "link_exp" not in told_of[0]
