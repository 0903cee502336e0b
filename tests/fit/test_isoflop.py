"""Approach 2: the published bias of the parabola, refusals of what is no valley, both axes."""

import numpy as np
import pytest
from fit_examples import ASYMMETRIC, BESIROGLU, CHINCHILLA, ROUNDED, isoflop_table, with_columns

from scalekit.errors import InputError
from scalekit.fit.isoflop import EdgeMinimumError, NoMinimumError, fit_line, fit_valley, parabola
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit
from scalekit.fit.simulate import simulate

BUDGETS = np.geomspace(1e17, 1e21, 5)
SYMMETRIC = {"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}


def miss_at_1e24(theta, width, centre=1.0, drift=1.0) -> tuple[float, float, float]:
    """Fit noiseless valleys of 15 points; return N*'s and D*'s relative miss and N's exponent."""
    fitted = Fitted(CHINCHILLA, theta, SIX_N_D)
    best = {"N": [], "D": []}
    for i, C in enumerate(BUDGETS):
        middle = np.exp(allocate(fitted, theta, np.array([C]))[1, 0])
        middle *= centre * drift ** (i / (len(BUDGETS) - 1))
        D = middle * np.geomspace(1 / width, width, 15)
        N = C / 6 / D
        loss = CHINCHILLA.predict(theta, {"N": N, "D": D})
        for axis, x in (("N", N), ("D", D)):
            best[axis].append(parabola(x, loss, "here").best)
    lines = {axis: fit_line(BUDGETS, np.array(x)) for axis, x in best.items()}
    true_n, true_d, _ = np.exp(allocate(fitted, theta, np.array([1e24]))[:, 0])
    return (
        lines["N"].at(1e24)[0] / true_n - 1,
        lines["D"].at(1e24)[0] / true_d - 1,
        lines["N"].exponent,
    )


@pytest.mark.parametrize(
    ("theta", "width", "n_miss", "d_miss"),
    [
        (SYMMETRIC, 16.0, 0.0, 0.0),
        (ROUNDED, 2.0, 0.33, -0.33),
        (ROUNDED, 4.0, 1.32, -1.30),
        (ROUNDED, 8.0, 2.99, -2.90),
        (ROUNDED, 16.0, 5.37, -5.10),
        (ASYMMETRIC, 2.0, 1.70, -1.67),
        (ASYMMETRIC, 4.0, 6.95, -6.50),
        (ASYMMETRIC, 8.0, 16.16, -13.91),
        (ASYMMETRIC, 16.0, 30.07, -23.12),
    ],
)
def test_a_wide_centred_grid_misses_by_the_published_amount(theta, width, n_miss, d_miss) -> None:
    """A2-1, Czech et al. 2026: the intercept is biased, the exponent exact."""
    found_n, found_d, exponent = miss_at_1e24(theta, width)
    # Printed in per cent with two decimals.
    assert 100 * found_n == pytest.approx(n_miss, abs=0.006)
    assert 100 * found_d == pytest.approx(d_miss, abs=0.006)
    assert exponent == pytest.approx(theta["beta"] / (theta["alpha"] + theta["beta"]), abs=1e-9)


@pytest.mark.parametrize(("width", "miss"), [(2.0, 7.11), (4.0, 5.69), (8.0, 3.38), (16.0, 0.24)])
def test_an_off_centre_grid_moves_the_minimum_by_the_published_amount(width, miss) -> None:
    assert 100 * miss_at_1e24(ROUNDED, width, centre=3.0)[1] == pytest.approx(miss, abs=0.006)


@pytest.mark.parametrize(("width", "miss"), [(2.0, 11.61), (4.0, 9.83), (8.0, 6.94), (16.0, 3.05)])
def test_a_drifting_grid_moves_the_exponent_too(width, miss) -> None:
    _, d_miss, exponent = miss_at_1e24(ROUNDED, width, drift=3.0)
    assert 100 * d_miss == pytest.approx(miss, abs=0.006)
    assert exponent != pytest.approx(0.45161, abs=1e-4)


def test_approach_3_has_no_such_bias_on_the_same_points() -> None:
    table = isoflop_table(ASYMMETRIC, BUDGETS, n_sizes=15, width=16.0)
    result = fit(table, predict=[1e24])
    true = np.exp(allocate(Fitted(CHINCHILLA, ASYMMETRIC, SIX_N_D), ASYMMETRIC, np.array([1e24])))
    assert result.optimum[0]["tokens"] == pytest.approx(true[1, 0], rel=1e-6)


def test_an_edge_minimum_is_refused_by_type() -> None:
    """PO-1."""
    x = np.geomspace(1e7, 1e8, 6)
    with pytest.raises(EdgeMinimumError, match="the minimum is at the largest size"):
        fit_valley(x, (np.log(x) - np.log(2e8)) ** 2 + 3, "budget 1e18")
    with pytest.raises(EdgeMinimumError, match="the minimum is at the smallest size"):
        fit_valley(x, (np.log(x) - np.log(5e6)) ** 2 + 3, "budget 1e18")
    with pytest.raises(NoMinimumError, match="opens downwards"):
        fit_valley(x, 3 - (np.log(x) - np.log(3e7)) ** 2, "budget 1e18")
    with pytest.raises(NoMinimumError, match="2 sizes, a valley needs 3"):
        fit_valley(x[:2], np.array([3.0, 3.1]), "budget 1e18")


def test_a_parabola_is_found_exactly_with_its_own_curve() -> None:
    x = np.geomspace(1e7, 1e9, 7)
    loss = 0.1 * (np.log(x) - np.log(7e7)) ** 2 + 2.5
    valley = fit_valley(x, loss, "here")
    assert valley.best == pytest.approx(7e7, rel=1e-9)
    assert valley.loss == pytest.approx(2.5, rel=1e-12)
    np.testing.assert_allclose(np.polyval(valley.curve, np.log(x)), loss, rtol=1e-9)
    assert valley.error == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_minimum_is_the_spread_of_repetitions() -> None:
    x = np.geomspace(1e7, 1e9, 9)
    truth = 0.1 * (np.log(x) - np.log(7e7)) ** 2 + 2.5
    rng = np.random.default_rng(0)
    found = [fit_valley(x, truth + rng.normal(0, 0.01, 9), "here") for _ in range(400)]
    spread = np.std([np.log(v.best) for v in found])
    # 400 repetitions know a standard deviation to 3.5 %; the delta method adds curvature.
    assert np.median([v.error for v in found]) == pytest.approx(spread, rel=0.15)


def test_valleys_without_a_minimum_are_listed_and_left_out() -> None:
    table = isoflop_table(BESIROGLU, noise=0.001)
    cut = table.where(~((table["budget"] == 1e18) & (table["params"] > 5e7)))
    result = fit(cut, approaches=["isoflop"])
    rejected = [v for v in result.diagnostics["valleys"] if v["rejected"]]
    assert {v["budget"] for v in rejected} == {1e18}
    assert len(result.warnings) >= 2
    assert result.status is FitStatus.CONVERGED
    assert "8 of 10" in result.message


def test_budgets_are_never_recovered_by_rounding() -> None:
    """P27: 1.5e19 and 2.4e19 stay two groups, and a table without budgets is refused."""
    table = isoflop_table(BESIROGLU, [1.5e19, 2.4e19, 6e19])
    result = fit(table, approaches=["isoflop"])
    assert sorted({v["budget"] for v in result.diagnostics["valleys"]}) == [1.5e19, 2.4e19, 6e19]
    columns = {k: v for k, v in table.columns.items() if k != "budget"}
    with pytest.raises(InputError, match="--map budget=COLUMN"):
        fit(type(table)(columns, table.meta), approaches=["isoflop"])


def test_flops_that_are_not_6nd_show_in_the_sum_of_the_exponents() -> None:
    """P14: with C = k N^1.1 D the two exponents do not add up to one, and that is said."""
    table = isoflop_table(BESIROGLU, np.geomspace(1e18, 1e21, 6), n_sizes=7)
    N, C = table["params"], table["budget"]
    D = C / (2.0 * N**1.05)
    moved = simulate(CHINCHILLA, BESIROGLU, {"N": N * 3, "D": D / 3}, budget=C)
    moved = with_columns(moved, flops=C)
    result = fit(moved, approaches=["parametric", "isoflop"])
    isoflop = result.others[0]
    assert isoflop.diagnostics["exponent_sum"] < 0.99
    assert any("add up to" in w for w in isoflop.warnings)
    assert result.cost is not None
    assert result.cost.power == pytest.approx(1.05, abs=1e-6)
    total = sum(e["value"] for e in result.exponents.values())
    share = BESIROGLU["alpha"] + 1.05 * BESIROGLU["beta"]
    assert total == pytest.approx((BESIROGLU["alpha"] + BESIROGLU["beta"]) / share, rel=1e-6)


def test_the_envelope_of_noiseless_valleys_follows_their_minima() -> None:
    budgets = np.geomspace(1e18, 1e21, 6)
    table = isoflop_table(BESIROGLU, budgets, n_sizes=41, width=3.0)
    result = fit(table, approaches=["envelope"])
    assert result.status is FitStatus.CONVERGED
    exponent = result.exponents["params"]
    # Its runs are a grid, so the exponent is as sharp as their spacing allows.
    assert exponent["low"] < 0.5126 < exponent["high"]
    assert exponent["value"] == pytest.approx(0.5126, abs=0.01)


def test_the_envelope_of_training_curves_follows_the_frontier() -> None:
    sizes = np.geomspace(1e7, 1e9, 15)
    curves = []
    for N in sizes:
        D = np.geomspace(N, 400 * N, 60)
        loss = CHINCHILLA.predict(BESIROGLU, {"N": np.full(60, N), "D": D})
        curves.append({"params": N, "tokens": D, "flops": 6 * N * D, "loss": loss})
    result = fit(isoflop_table(), approaches=["envelope"], curves=curves)
    assert result.diagnostics["source"] == "15 training curves"
    assert result.exponents["params"]["value"] == pytest.approx(0.5126, abs=0.03)
