"""What a fit rests on: noise and its parts, each run's influence, other objectives, other forms."""

import numpy as np
import pytest
from fit_examples import BESIROGLU, CHINCHILLA, isoflop_table, runs_of, with_columns

from scalekit import errors
from scalekit.cli import run
from scalekit.commands._evidence_text import evidence_lines
from scalekit.fit import noise
from scalekit.fit.describe import describe
from scalekit.fit.forms import with_a_say
from scalekit.fit.influence import leave_out
from scalekit.fit.objective import find_objective
from scalekit.fit.result import FitResult
from scalekit.fit.rows import select
from scalekit.fit.run import fit, read_fit
from scalekit.fit.simulate import simulate
from scalekit.fit.solve import refit_under, solve
from scalekit.fit.uncertainty import covariance
from scalekit.results.table import RunTable, write_table


def test_errors_at_an_optimum_add_up_to_its_prediction_interval() -> None:
    budgets = np.geomspace(1e18, 1e21, 12)
    table = isoflop_table(budgets=budgets, n_sizes=12, noise=0.005)
    entry = fit(table, objective="mse_log", predict=[1e22]).optimum[0]
    split = entry["errors"]
    # 144 runs know a spread to 6 %.
    assert split["scatter"] == pytest.approx(0.005, rel=0.15)
    wide = entry["intervals"]["loss_prediction"]
    half = np.log(wide["high"] / wide["low"]) / 2
    band = np.log(entry["intervals"]["loss"]["high"] / entry["intervals"]["loss"]["low"]) / 2
    reach = band / split["parameters"]
    total = np.sqrt(sum(v**2 for v in split.values()))
    assert half == pytest.approx(reach * total, rel=1e-6)


@pytest.mark.parametrize("error", [0.003, 0.01])
def test_an_evaluation_error_that_runs_share_takes_nothing_from_the_scatter(error: float) -> None:
    budgets = np.geomspace(1e18, 1e21, 12)
    table = isoflop_table(budgets=budgets, n_sizes=12, noise=0.004)
    # One validation set is as hard for every run: its error moves all losses by the same share.
    loss = table["loss"] * (1 + error)
    result = fit(with_columns(table, loss=loss, loss_sem=error * loss), predict=[1e22])
    parts = result.diagnostics["noise_parts"]
    assert parts["evaluation"] == pytest.approx(error, rel=1e-9)
    # 144 runs know a spread to 6 %; less the evaluation's error it would be 0.0026.
    assert parts["total"] == pytest.approx(0.004, rel=0.15)
    assert result.optimum[0]["errors"]["scatter"] == parts["total"]


def test_what_is_assumed_of_an_evaluation_error_is_said() -> None:
    table = isoflop_table(noise=0.004)
    said = {}
    for error in (0.003, 0.01):
        result = fit(with_columns(table, loss_sem=error * table["loss"]))
        said[error] = next(line for line in evidence_lines(result) if line.startswith("noise"))
        assert f"error, {error:.2%}, is taken as shared, by one validation set" in said[error]
    total = result.diagnostics["noise_parts"]["total"]
    rest = (total**2 - 0.003**2) ** 0.5
    assert f"were it each run's own, {rest:.2%} would be left" in said[0.003]
    assert "were it" not in said[0.01]  # it cannot be: the runs scatter by less


def test_without_a_column_of_errors_nothing_is_said_of_evaluations() -> None:
    result = fit(isoflop_table(noise=0.005))
    assert result.diagnostics["noise_parts"]["evaluation"] is None
    assert result.diagnostics["noise_parts"]["repeats"] is None
    assert not any("evaluation" in line for line in evidence_lines(result))


def test_repeated_seeds_measure_the_noise_that_no_law_can_explain() -> None:
    table = isoflop_table(noise=0.0)
    rng = np.random.default_rng(1)
    columns = {k: np.concatenate([v, v, v]) for k, v in table.columns.items()}
    columns["loss"] = columns["loss"] * np.exp(rng.normal(0, 0.004, 75))
    three = RunTable(columns, table.meta)
    runs = select(three, ("N", "D"))
    solution = solve(CHINCHILLA, runs, find_objective("mse_log"))
    found = noise.measure(solution)
    assert found.repeats_dof == 50
    # 50 differences know a spread to 10 %.
    assert found.repeats == pytest.approx(0.004, rel=0.25)
    # A row given twice is no repetition.
    twice = {k: np.concatenate([v, v]) for k, v in isoflop_table(noise=0.005).columns.items()}
    doubled = solve(
        CHINCHILLA, select(RunTable(twice, table.meta), ("N", "D")), find_objective("mse_log")
    )
    assert noise.measure(doubled).repeats is None


def test_the_noise_of_a_robust_fit_is_where_nine_runs_in_ten_lie() -> None:
    """Errors of t with 3 degrees of freedom, and then one run ten times as far off."""
    table = isoflop_table(budgets=np.geomspace(1e18, 1e21, 16), n_sizes=16)
    error = 0.005 * np.random.default_rng(2).standard_t(3, 256)
    parts = []
    for worst in (1.0, 1.3):
        loss = table["loss"] * np.exp(error)
        loss[100] *= worst
        runs = runs_of(table["params"], table["tokens"], loss)
        parts.append(noise.measure(solve(CHINCHILLA, runs, find_objective("robust"))).total)
    # 256 runs know the share inside to 0.019; by their median size it is 0.84 here.
    inside = np.mean(np.abs(error) < 1.645 * parts[0])
    assert inside == pytest.approx(0.9, abs=0.03)
    assert parts[1] == pytest.approx(parts[0], rel=0.05)


def solved_with_numbers(table: RunTable):
    runs = runs_of(table["params"], table["tokens"], table["loss"])
    solution = solve(CHINCHILLA, runs, find_objective("mse_log"))
    return solution, describe(solution, covariance(solution, 0), {})


def test_the_few_runs_that_are_refitted_are_the_ones_that_move_the_optimum_most() -> None:
    """Choosing by first order finds what refitting without every single run finds."""
    for seed in range(4):
        table = isoflop_table(noise=0.01, seed=seed)
        solution, fitted = solved_with_numbers(table)
        every = leave_out(solution, fitted, 1e22)
        some = leave_out(solution, fitted, 1e22, 8)
        assert len(every) == 25
        assert len(some) == 8
        assert some[0].runs == every[0].runs
        assert some[0].params_ratio == pytest.approx(every[0].params_ratio, rel=1e-9)


def test_leaving_out_a_run_is_fitting_the_others() -> None:
    table = isoflop_table(noise=0.01, seed=2)
    solution, fitted = solved_with_numbers(table)
    one = leave_out(solution, fitted, 1e22)[0]
    index = int(one.runs[0])
    rest = fit(table.where(np.arange(25) != index), objective="mse_log", predict=[1e22])
    assert one.params == pytest.approx(rest.optimum[0]["params"], rel=1e-6)
    assert one.exponent == pytest.approx(rest.exponents["params"]["value"], rel=1e-6)


def test_a_fit_that_rests_on_one_run_says_so() -> None:
    table = isoflop_table(noise=0.001, seed=0)
    loss = table["loss"].copy()
    loss[4] *= 1.02
    result = fit(with_columns(table, loss=loss), objective="mse_log", predict=[1e22])
    assert result.diagnostics["influence"]["flops"] == 1e22
    assert result.diagnostics["influence"]["runs"][0]["runs"] == ["sim-05"]
    assert any("the result rests on sim-05" in w for w in result.warnings)


def test_exponents_by_other_objectives_are_those_of_their_own_fits() -> None:
    table = isoflop_table(noise=0.01, seed=5)
    beside = fit(table).diagnostics["objectives"]
    assert set(beside) == {"hoffmann", "mse_log", "mse"}
    for name, told in beside.items():
        own = fit(table, objective=name)
        assert told["exponent_params"] == pytest.approx(own.exponents["params"]["value"], rel=1e-6)
        assert told["value"] == pytest.approx(own.objective["value"], rel=1e-9)


def test_an_objective_is_left_for_the_adaptive_one_at_its_fixed_point() -> None:
    table = isoflop_table(noise=0.01, seed=5)
    runs = select(table, ("N", "D"))
    solution = solve(CHINCHILLA, runs, find_objective("mse"))
    objective, _, value = refit_under(solution, find_objective("robust"))
    own = fit(table)
    assert objective.to_json(value)["delta"] == pytest.approx(own.objective["delta"], rel=1e-8)
    assert value == pytest.approx(own.objective["value"], rel=1e-8)


@pytest.fixture(scope="module")
def several() -> FitResult:
    table = isoflop_table(budgets=np.geomspace(1e17, 1e21, 6), n_sizes=6, noise=0.002, seed=5)
    return fit(
        table, laws=["chinchilla", "coupled", "kaplan"], hold_out="largest-budget", predict=[1e23]
    )


def test_the_band_of_forms_spans_the_laws_that_predict_held_out_runs(several) -> None:
    kaplan = several.others[1]
    assert kaplan.holdout["mape"] > 2 * several.holdout["mape"]
    assert [f.law for f in with_a_say((several, *several.others))] == ["chinchilla", "coupled"]
    form = several.optimum[0]["form"]
    assert form["laws"] == ["chinchilla", "coupled"]
    losses = [f.optimum[0]["loss"] for f in (several, several.others[0])]
    assert form["loss"] == [min(losses), max(losses)]
    # The band is its own: the parameters' intervals know nothing of it.
    alone = fit(isoflop_table(noise=0.002), predict=[1e23])
    assert "form" not in alone.optimum[0]


def test_a_law_that_no_run_held_out_believes_is_warned_of() -> None:
    """Losses that stop falling: any extrapolated law is worse than the best loss seen."""
    table = isoflop_table(budgets=np.geomspace(1e18, 1e21, 5), noise=0.001)
    loss = table["loss"].copy()
    last = table["budget"] == table["budget"].max()
    loss[last] = loss[~last].min()
    result = fit(with_columns(table, loss=loss), hold_out="largest-budget")
    assert result.holdout["baseline_mape"] < 1e-12
    assert any("no better than by the best loss seen" in w for w in result.warnings)


def test_the_bootstraps_optimum_has_the_bootstraps_intervals() -> None:
    table = isoflop_table(noise=0.005, seed=1)
    plain = fit(table, predict=[1e22]).optimum[0]["intervals"]
    drawn = fit(table, predict=[1e22], bootstrap=300).optimum[0]["intervals"]
    assert set(drawn) == set(plain)
    for name, ends in drawn.items():
        assert ends["method"] == "bootstrap-bca"
        # Two methods of one level on the same runs agree in size, not in ends.
        ratio = np.log(ends["high"] / ends["low"]) / np.log(
            plain[name]["high"] / plain[name]["low"]
        )
        assert 0.5 < ratio < 1.5, name
    wide, band = drawn["loss_prediction"], drawn["loss"]
    assert wide["low"] < band["low"] < band["high"] < wide["high"]


def test_all_that_disagrees_is_printed_side_by_side(tmp_path, capsys) -> None:
    path, out = tmp_path / "data.csv", tmp_path / "fit.json"
    table = isoflop_table(n_sizes=6, noise=0.004, seed=3)
    write_table(with_columns(table, loss_sem=0.002 * table["loss"]), path)
    argv = ["fit", str(path), "--law", "chinchilla", "--law", "coupled", "--predict", "1e22"]
    argv += ["--approach", "parametric", "--approach", "isoflop", "--approach", "envelope"]
    argv += ["--hold-out", "largest-budget", "--roll-out", "-o", str(out)]
    assert run(argv) == errors.OK
    text = capsys.readouterr().out
    table_rows = text.split("side by side")[1].split("roll-out")[0]
    for name in ("chinchilla", "coupled", "isoflop", "isoflop_akima", "envelope"):
        assert f"\n  {name} " in table_rows
    assert "times the largest measured" in table_rows
    assert "held-out error decides for" in table_rows
    for word in ("design ", "noise ", "beside ", "influence ", "bias ", "errors ", "forms "):
        assert f"\n{word}" in text, word
    assert "the evaluation's error, 0.20%, is taken as shared" in text
    rolled = text.split("roll-out")[1]
    assert rolled.count("chinchilla") == 4
    assert len(read_fit(out).diagnostics["roll_out"]) == 8


def test_a_roll_out_can_be_asked_without_a_hold_out(tmp_path, capsys) -> None:
    path = tmp_path / "data.csv"
    write_table(isoflop_table(noise=0.004), path)
    assert run(["fit", str(path), "--roll-out"]) == errors.OK
    assert "roll-out, mean absolute errors" in capsys.readouterr().out


def test_the_truth_of_another_law_is_not_hidden_by_one_laws_intervals() -> None:
    """Negative control: coupled runs, fitted by chinchilla, are told apart by held-out error."""
    coupled = {"E": 0.27, "A": 900.0, "B": 8000.0, "alpha": 0.39, "beta": 0.43, "k": 0.47}
    from scalekit import registry

    law = registry.find("laws", "coupled")
    source = isoflop_table(BESIROGLU, np.geomspace(1e17, 1e21, 6), n_sizes=6)
    inputs = {"N": source["params"], "D": source["tokens"]}
    table = simulate(law, coupled, inputs, noise=0.001, seed=0, budget=source["budget"])
    result = fit(table, laws=["chinchilla", "coupled"], hold_out="largest-budget")
    wrong, right = result.holdout["mape"], result.others[0].holdout["mape"]
    assert wrong > 2 * right
