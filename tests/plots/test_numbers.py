"""What single figures show: each one's own numbers, against an independent way to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from study_examples import (
    LINK,
    THETA,
    full_study,
    isoflop_table,
    optimal_params,
    seeds_study,
    spent_study,
    surface,
    task_study,
    with_columns,
)

from scalekit.analysis.noise import pooled, repeats, spread_interval
from scalekit.analysis.plane import plane, plane_names
from scalekit.analysis.study import Study
from scalekit.errors import FitError
from scalekit.fit.result import FitResult
from scalekit.fit.run import fit as fit_table
from scalekit.plots import (
    cost,
    isoflop,
    noise,
    overtrain,
    params,
    power_laws,
    rollout,
    sensitivity,
    tokens_per_param,
    two_step,
)
from scalekit.plots._look import look
from scalekit.plots.base import CannotDrawError, Drawing
from scalekit.results.table import RunTable


@pytest.fixture(scope="module")
def fitted() -> Study:
    """Thirty-five noisy runs, really fitted, with bootstrap draws."""
    table = isoflop_table()
    fit = fit_table(table, approaches=("parametric", "isoflop"), bootstrap=60, seed=5)
    return Study(table, fit, name="fitted")


def fit_of(study: Study) -> FitResult:
    assert study.fit is not None
    return study.fit


def table_of(study: Study) -> RunTable:
    assert study.table is not None
    return study.table


def drawing(plot, study: Study) -> Drawing:
    with look("test"):
        return plot.PLOT.draw(study)


@pytest.fixture(scope="module")
def forest(fitted: Study) -> list[dict[str, Any]]:
    return [dict(row) for row in drawing(sensitivity, fitted).shown]


def test_the_objective_over_two_exponents_is_least_at_the_fit_and_rises_around_it(
    fitted: Study,
) -> None:
    fit = fit_of(fitted)
    alpha, beta = fit.theta["alpha"], fit.theta["beta"]
    found = plane(table_of(fitted), fit, (alpha - 0.02, alpha + 0.02), (beta - 0.02, beta + 0.02))
    middle = len(found.first) // 2
    assert found.names == ("alpha", "beta")
    assert found.rise[middle, middle] == pytest.approx(0.0, abs=1e-9)
    assert found.rise.min() > -1e-9
    assert min(found.rise[0].min(), found.rise[-1].min(), found.rise[:, 0].min()) > 1e-3


def test_the_objective_off_the_fit_is_what_a_fit_with_both_exponents_held_reaches(
    fitted: Study,
) -> None:
    fit = fit_of(fitted)
    alpha, beta = fit.theta["alpha"] + 0.015, fit.theta["beta"] - 0.01
    found = plane(table_of(fitted), fit, (alpha - 0.01, alpha), (beta, beta + 0.01))
    # The robust objective takes its delta from the residuals; both must use the fit's own.
    held = fit_table(
        table_of(fitted),
        objective="huber",
        delta=fit.objective["delta"],
        fix={"alpha": alpha, "beta": beta},
    )
    expected = held.objective["value"] / fit.objective["value"] - 1
    assert found.rise[0, -1] == pytest.approx(expected, rel=1e-6)


def test_exact_runs_have_an_exponent_that_reads_as_it_is_and_no_spread_of_draws() -> None:
    table = isoflop_table(noise=0.0)
    study = Study(table, fit_table(table, bootstrap=20))
    exponent = drawing(rollout, study).figure.axes[1]
    told = fit_of(study).exponents["params"]["value"]
    read = [float(text.get_text()) for text in exponent.get_yticklabels()]
    assert len(set(read)) > 1
    assert min(read) < told < max(read)
    with pytest.raises(CannotDrawError, match="fewer than two parameters vary"):
        drawing(params, study)


def test_an_exact_fit_has_no_valley_to_show() -> None:
    table = isoflop_table(noise=0.0)
    fit = fit_table(table)
    with pytest.raises(FitError, match="fits these runs exactly"):
        plane(table, fit, (0.3, 0.4), (0.3, 0.4))


def test_a_held_exponent_leaves_no_plane(fitted: Study) -> None:
    fit = fit_table(table_of(fitted), fix={"alpha": 0.35})
    assert plane_names(fit) is None


def test_the_pairs_hold_every_draw_and_name_the_pair_that_was_tied(fitted: Study) -> None:
    fit = fit_of(fitted)
    rng = np.random.default_rng(0)
    made = np.array([list(THETA.values())] * 40) * np.exp(0.05 * rng.standard_normal((40, 5)))
    made[:, 4] = 0.3 + 1e-4 * made[:, 1]  # beta follows A
    tied = replace(fit, draws=tuple(map(tuple, made)))
    shown = drawing(params, replace(fitted, fit=tied))
    drawn = [row for row in shown.shown if row["what"] == "draw"]
    assert np.array([[row[n] for n in THETA] for row in drawn]) == pytest.approx(made)
    assert "most tied pair is A and β, with a rank correlation of 1.00" in shown.caption


def test_nine_draws_are_too_few_for_pairs(fitted: Study) -> None:
    fit = fit_of(fitted)
    few = replace(fitted, fit=replace(fit, draws=(fit.draws or ())[:9]))
    with pytest.raises(CannotDrawError, match="9 bootstrap draws are too few"):
        drawing(params, few)


def test_the_forest_begins_with_the_fit_and_holds_what_a_refit_without_a_budget_gives(
    fitted: Study, forest: list[dict[str, Any]]
) -> None:
    fit = fit_of(fitted)
    assert forest[0]["value"] == fit.exponents["params"]["value"]
    budget = fitted.budgets[0]
    rest = table_of(fitted).where(fitted.column("budget") != budget)
    alone = fit_table(rest, seed=5)
    row = next(r for r in forest if r["variant"] == "budget 1e18")
    assert row["value"] == pytest.approx(alone.exponents["params"]["value"], rel=1e-9)
    assert row["n_runs"] == len(rest)


def test_the_forest_moves_delta_to_both_sides_of_hoffmanns(forest: list[dict[str, Any]]) -> None:
    variants = [row["variant"] for row in forest]
    assert {"huber, delta 0.01", "hoffmann", "huber, delta 0.0001"} <= set(variants)


def test_the_rollout_misses_less_when_the_law_is_right_than_without_a_fit(fitted: Study) -> None:
    shown = drawing(rollout, fitted).shown
    assert [row["n_train"] for row in shown] == [7, 14, 21, 28]
    last = shown[-1]
    assert last["mape"] < 0.25 * last["baseline_mape"]
    # The last cut's next budget is all that is left above it.
    assert last["next_mape"] == pytest.approx(last["mape"], rel=1e-12)


def test_the_forest_says_how_many_runs_are_left_out_at_the_end_of_a_range() -> None:
    # A quarter of the runs is of the smallest size.
    N = np.repeat(np.geomspace(1e8, 1e10, 4), 8)
    D = np.tile(np.geomspace(1e9, 1e11, 8), 4)
    loss = surface(N, D) * np.exp(0.002 * np.random.default_rng(3).standard_normal(32))
    table = RunTable({"params": N, "tokens": D, "loss": loss}, {"path": "grid.csv"})
    shown = drawing(sensitivity, Study(table, fit_table(table))).shown
    (row,) = (r for r in shown if str(r["variant"]).startswith("smallest params"))
    assert row["variant"] == "smallest params (8 of 32 runs)"
    assert row["n_runs"] == 24


def test_a_rollout_of_a_law_that_sets_its_exponent_has_no_panel_for_it() -> None:
    table = isoflop_table()
    tied = drawing(rollout, Study(table, fit_table(table, laws=["chinchilla_tied"])))
    assert len(tied.figure.axes) == 1
    assert "its exponent" not in tied.caption


def test_one_budget_has_no_rollout() -> None:
    study = full_study()
    table = isoflop_table((1e19,), sizes=12, width=20.0)
    fit: FitResult = replace(fit_of(study), dropped=(), others=())
    with pytest.raises(CannotDrawError, match="no budget leaves enough runs"):
        drawing(rollout, Study(table, fit))


@pytest.mark.parametrize("plot", [isoflop, power_laws, overtrain], ids=lambda p: p.PLOT.name)
def test_wild_losses_stand_at_the_top_edge_and_are_counted(plot) -> None:
    study = full_study()
    loss = study.column("loss").copy()
    held = study.roles == "held_out"
    wild = np.flatnonzero(study.is_used & ~held)[0], np.flatnonzero(held)[0]
    highest = np.nanmax(loss)
    loss[list(wild)] = 11.0
    made = drawing(plot, replace(study, table=with_columns(table_of(study), loss=loss)))
    labels = [text.get_text() for text in made.figure.legends[0].get_texts()]
    assert "in the fit (26, 1 above)" in labels
    assert "also held out once (7, 1 above)" in labels
    assert made.figure.axes[0].get_ylim()[1] < 1.2 * highest


def test_the_lower_envelope_holds_the_runs_that_none_beats_and_a_pure_power_comes_back() -> None:
    table = isoflop_table(noise=0.01)
    shown = drawing(power_laws, Study(table)).shown
    C, L = table["flops"], table["loss"]
    alone = {
        (C[k], L[k])
        for k in range(len(C))
        # FLOPs of one budget differ by rounding alone; the lowest of them is kept.
        if not any(
            (C[j], L[j]) != (C[k], L[k]) and C[j] <= C[k] and L[j] <= L[k] for j in range(35)
        )
    }
    kept = {(r["x"], r["loss"]) for r in shown if r["what"] == "envelope" and r["axis"] == "C"}
    assert kept == alone
    pure = with_columns(table, loss=(3e25 / C) ** 0.06)
    caption = drawing(power_laws, Study(pure)).caption
    assert "L ~ C^-0.060" in caption


def test_a_run_at_its_optimum_costs_nothing_and_others_cost_what_the_law_says() -> None:
    study = full_study()
    N = optimal_params(np.array([1e19, 1e20, 1e21]))
    N = np.concatenate([N, [2e9]])
    D = np.array([1e19, 1e20, 1e21, 1e20]) / (6 * N)
    columns = {"params": N, "tokens": D, "loss": surface(N, D), "flops": 6 * N * D}
    fit = replace(fit_of(study), dropped=(), holdout={}, others=())
    shown = drawing(overtrain, Study(RunTable(columns), fit)).shown
    excess = [row["excess_percent"] for row in shown if row["what"] == "fitted"]
    assert excess[:3] == pytest.approx([0.0] * 3, abs=1e-6)
    best = surface(optimal_params(1e20), 1e20 / (6 * optimal_params(1e20)))
    assert excess[3] == pytest.approx(100 * (surface(N[3], D[3]) / best - 1), rel=1e-9)


@pytest.mark.parametrize(("n_ratios", "dashes"), [(1, ["--"]), (3, ["-", "--"])])
def test_the_legend_of_over_training_shows_the_lines_that_are_drawn(
    n_ratios: int, dashes: list[str]
) -> None:
    study = full_study()
    N = np.repeat(np.geomspace(1e8, 1e10, 6), n_ratios)
    D = N * np.resize(np.geomspace(5, 100, 3), N.size)
    columns = {"params": N, "tokens": D, "loss": surface(N, D), "flops": 6 * N * D}
    fit = replace(fit_of(study), dropped=(), holdout={}, others=())
    made = drawing(overtrain, Study(RunTable(columns), fit))
    (legend,) = made.figure.legends
    entries = zip(legend.get_texts(), legend.get_lines(), strict=True)
    keys = {text.get_text(): line.get_linestyle() for text, line in entries}
    assert [dash for label, dash in keys.items() if "(a)" in label] == dashes
    assert {line.get_linestyle() for line in made.figure.axes[0].lines} >= set(dashes)


def test_the_laws_excess_touches_zero_at_the_optimal_ratio() -> None:
    shown = drawing(overtrain, full_study()).shown
    curve = [row for row in shown if row["what"] == "law's excess"]
    for flops in {row["flops"] for row in curve}:
        mine = [row for row in curve if row["flops"] == flops]
        least = min(mine, key=lambda row: row["excess_percent"])
        N = optimal_params(flops)
        assert 0 <= least["excess_percent"] < 0.05
        # Six steps of ninety-seven over three decades of the ratio lie between the points.
        assert least["tokens_per_param"] == pytest.approx(flops / (6 * N * N), rel=0.6)


def test_the_ratio_is_told_with_the_interval_that_the_fit_gave_it() -> None:
    study = full_study()
    told = fit_of(study).optimum[0]
    between = told["intervals"]["tokens_per_param"]
    numbers = (told["tokens_per_param"], between["low"], between["high"])
    sentence = "At its end the first fit says {:.3g} [{:.3g}, {:.3g}] tokens".format(*numbers)
    assert sentence in drawing(tokens_per_param, study).caption


def test_the_ratio_at_the_largest_budget_is_the_one_there_where_another_was_asked() -> None:
    study = full_study()
    # Far from 20 at every budget: what is said of one beside it would show.
    theta = {**THETA, "alpha": 0.6, "beta": 0.3}
    fit = replace(fit_of(study), theta=theta, optimum=(), covariance=None)
    flops = study.flops[study.is_used].max()
    scale = (0.6 * theta["A"] / (0.3 * theta["B"])) ** (1 / 0.9)
    N = scale * (flops / 6) ** (0.3 / 0.9)
    caption = drawing(tokens_per_param, replace(study, fit=fit)).caption
    assert f"the first fit says {flops / (6 * N * N):.3g}" in caption


def test_a_planted_spread_between_seeds_comes_back_within_its_interval() -> None:
    study = seeds_study(spread=0.004)
    found = repeats(study)
    assert [len(one.runs) for one in found] == [5] * 15
    share, dof = pooled(found)
    assert dof == 60
    low, high = spread_interval(share, dof)
    assert low < 0.004 < high
    assert "within that interval" not in drawing(noise, study).caption  # 0.005 was said to be noise


def test_seeds_that_changed_nothing_are_no_noise() -> None:
    study = seeds_study(spread=0.0)
    with pytest.raises(CannotDrawError, match="equal losses"):
        drawing(noise, study)
    some = table_of(study)["loss"].copy()
    some[5:] = table_of(seeds_study())["loss"][5:]
    caption = drawing(noise, Study(with_columns(table_of(study), loss=some))).caption
    assert "Not drawn: 1 setting whose losses are equal." in caption


def test_a_spreads_interval_is_that_of_the_tables() -> None:
    # Chi-squared of nine degrees of freedom: 3.32511 and 16.9190 at 5 and 95 %.
    assert spread_interval(2.0, 9) == pytest.approx(
        (2 * np.sqrt(9 / 16.9190), 2 * np.sqrt(9 / 3.32511)), rel=1e-5
    )


def test_runs_that_differ_in_more_than_their_seed_are_no_repeats() -> None:
    table = table_of(seeds_study())
    wd = np.arange(len(table), dtype=float)
    other = with_columns(table, **{"train.weight_decay": wd, "train.seed": wd})
    assert repeats(Study(other)) == []
    alike = with_columns(table, **{"train.seed": wd})
    assert len(repeats(Study(alike))) == 15


def test_planned_device_time_counts_every_gpu_and_the_sums_are_the_budgets() -> None:
    study = spent_study()
    shown = drawing(cost, study).shown
    runs = [row for row in shown if "run" in row]
    assert {row["planned_s"] for row in runs} == {120.0}
    sums = [row for row in shown if row["what"] == "sum"]
    assert [row["n_runs"] for row in sums] == [7] * 5
    assert sum(row["used_s"] for row in sums) == pytest.approx(study.column("device_s").sum())


def test_the_link_is_drawn_and_its_misses_are_counted(tmp_path) -> None:
    path = tmp_path / "link.py"
    path.write_text(LINK)
    made = drawing(two_step, task_study(str(path)))
    curve = [row for row in made.shown if row["what"].startswith("link")]
    assert curve
    for row in curve:
        assert row["accuracy"] == pytest.approx(0.2 + 9.0 * row["task_loss"] ** -3.5, rel=1e-9)
    assert "misses the accuracies by" in made.caption
    assert "7 held-out runs are missed by" in made.caption
