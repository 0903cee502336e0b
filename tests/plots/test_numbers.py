"""What single figures show: each one's own numbers, against an independent way to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from study_examples import THETA, full_study, isoflop_table

from scalekit.analysis.plane import plane, plane_names
from scalekit.analysis.study import Study
from scalekit.errors import FitError
from scalekit.fit.result import FitResult
from scalekit.fit.run import fit as fit_table
from scalekit.plots import params, rollout, sensitivity
from scalekit.plots._look import look
from scalekit.plots.base import CannotDrawError, Drawing


@pytest.fixture(scope="module")
def fitted() -> Study:
    """Thirty-five noisy runs, really fitted, with bootstrap draws."""
    table = isoflop_table()
    fit = fit_table(table, approaches=("parametric", "isoflop"), bootstrap=60, seed=5)
    return Study(table, fit, name="fitted")


def drawing(plot, study: Study) -> Drawing:
    with look("test"):
        return plot.draw(study)


@pytest.fixture(scope="module")
def forest(fitted: Study) -> list[dict[str, Any]]:
    return [dict(row) for row in drawing(sensitivity, fitted).shown]


def test_the_objective_over_two_exponents_is_least_at_the_fit_and_rises_around_it(
    fitted: Study,
) -> None:
    fit = fitted.fit
    assert fit is not None
    alpha, beta = fit.theta["alpha"], fit.theta["beta"]
    found = plane(fitted.table, fit, (alpha - 0.02, alpha + 0.02), (beta - 0.02, beta + 0.02))
    middle = len(found.first) // 2
    assert found.names == ("alpha", "beta")
    assert found.rise[middle, middle] == pytest.approx(0.0, abs=1e-9)
    assert found.rise.min() > -1e-9
    assert min(found.rise[0].min(), found.rise[-1].min(), found.rise[:, 0].min()) > 1e-3


def test_the_objective_off_the_fit_is_what_a_fit_with_both_exponents_held_reaches(
    fitted: Study,
) -> None:
    fit = fitted.fit
    assert fit is not None
    alpha, beta = fit.theta["alpha"] + 0.015, fit.theta["beta"] - 0.01
    found = plane(fitted.table, fit, (alpha - 0.01, alpha), (beta, beta + 0.01))
    # The robust objective takes its delta from the residuals; both must use the fit's own.
    held = fit_table(
        fitted.table,
        objective="huber",
        delta=fit.objective["delta"],
        fix={"alpha": alpha, "beta": beta},
    )
    expected = held.objective["value"] / fit.objective["value"] - 1
    assert found.rise[0, -1] == pytest.approx(expected, rel=1e-6)


def test_an_exact_fit_has_no_valley_to_show() -> None:
    table = isoflop_table(noise=0.0)
    fit = fit_table(table)
    with pytest.raises(FitError, match="fits these runs exactly"):
        plane(table, fit, (0.3, 0.4), (0.3, 0.4))


def test_a_held_exponent_leaves_no_plane(fitted: Study) -> None:
    fit = fit_table(fitted.table, fix={"alpha": 0.35})
    assert plane_names(fit) is None


def test_the_pairs_hold_every_draw_and_name_the_pair_that_was_tied(fitted: Study) -> None:
    fit = fitted.fit
    assert fit is not None
    rng = np.random.default_rng(0)
    made = np.array([list(THETA.values())] * 40) * np.exp(0.05 * rng.standard_normal((40, 5)))
    made[:, 4] = 0.3 + 1e-4 * made[:, 1]  # beta follows A
    tied = replace(fit, draws=tuple(map(tuple, made)))
    shown = drawing(params, replace(fitted, fit=tied))
    drawn = [row for row in shown.shown if row["what"] == "draw"]
    assert np.array([[row[n] for n in THETA] for row in drawn]) == pytest.approx(made)
    assert "most tied pair is A and β, with a rank correlation of 1.00" in shown.caption


def test_nine_draws_are_too_few_for_pairs(fitted: Study) -> None:
    fit = fitted.fit
    assert fit is not None
    few = replace(fitted, fit=replace(fit, draws=fit.draws[:9]))
    with pytest.raises(CannotDrawError, match="9 bootstrap draws are too few"):
        drawing(params, few)


def test_the_forest_begins_with_the_fit_and_holds_what_a_refit_without_a_budget_gives(
    fitted: Study, forest: list[dict[str, Any]]
) -> None:
    fit = fitted.fit
    assert fit is not None
    assert forest[0]["value"] == fit.exponents["params"]["value"]
    budget = fitted.budgets[0]
    rest = fitted.table.where(fitted.column("budget") != budget)
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


def test_one_budget_has_no_rollout() -> None:
    study = full_study()
    table = isoflop_table((1e19,), sizes=12, width=20.0)
    fit: FitResult = replace(study.fit, dropped=(), others=())
    with pytest.raises(CannotDrawError, match="no budget leaves enough runs"):
        drawing(rollout, Study(table, fit))
