"""Approach 2: the published bias of the parabola, refusals of what is no valley, both axes."""

import numpy as np
import pytest
from fit_examples import ASYMMETRIC, BESIROGLU, CHINCHILLA, ROUNDED, isoflop_table, with_columns
from scipy.interpolate import Akima1DInterpolator

from scalekit.errors import InputError
from scalekit.fit import akima
from scalekit.fit.line import fit_line
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit
from scalekit.fit.simulate import simulate
from scalekit.fit.valley import (
    EdgeMinimumError,
    NoMinimumError,
    bracketed,
    noise_of,
    parabola,
)
from scalekit.results.table import RunTable

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


def off_centre_table(theta, width, centre=1.0, drift=1.0, n_sizes=15):
    """Noiseless runs of the published biases' designs, as a table."""
    fitted = Fitted(CHINCHILLA, theta, SIX_N_D)
    share = np.linspace(0.0, 1.0, len(BUDGETS))
    middle = np.exp(allocate(fitted, theta, BUDGETS)[1]) * centre * drift**share
    D = (middle[:, None] * np.geomspace(1 / width, width, n_sizes)).ravel()
    C = np.repeat(BUDGETS, n_sizes)
    return simulate(CHINCHILLA, theta, {"N": C / 6 / D, "D": D}, budget=C)


def test_akimas_curve_is_free_of_the_parabolas_bias() -> None:
    """Where a parabola misses N* by 30 %, a curve through the same points misses by under 2 %."""
    result = fit(off_centre_table(ASYMMETRIC, 16.0), approaches=["isoflop"], predict=[1e24])
    other = result.others[0]
    assert other.law == "isoflop_akima"
    true = np.exp(allocate(Fitted(CHINCHILLA, ASYMMETRIC, SIX_N_D), ASYMMETRIC, np.array([1e24])))
    misses = [one.optimum[0]["params"] / true[0, 0] - 1 for one in (result, other)]
    assert misses[0] == pytest.approx(0.3007, abs=1e-4)
    assert abs(misses[1]) < 0.02


@pytest.mark.parametrize(("width", "centre", "drift"), [(16, 1, 1), (4, 3, 1), (8, 1, 3)])
def test_the_bias_that_is_reported_is_the_bias_there_is(width, centre, drift) -> None:
    """The parametric law knows the optimum exactly, so the design's bias is what it says."""
    table = off_centre_table(ROUNDED, width, centre, drift)
    result = fit(table, approaches=["parametric", "isoflop"], predict=[1e24])
    fitted = Fitted(CHINCHILLA, ROUNDED, SIX_N_D)
    true = np.exp(allocate(fitted, ROUNDED, np.array([1e24])))[:, 0]
    for one in result.others:
        bias = one.diagnostics["bias"]
        miss = bias["optimum"][0]
        assert one.optimum[0]["params"] / true[0] - 1 == pytest.approx(miss["params"], abs=1e-6)
        assert one.optimum[0]["tokens"] / true[1] - 1 == pytest.approx(miss["tokens"], abs=1e-6)
        share = ROUNDED["beta"] / (ROUNDED["alpha"] + ROUNDED["beta"])
        shift = one.exponents["params"]["value"] - share
        assert bias["exponent_params"] == pytest.approx(shift, abs=1e-8)
    said = [w for w in result.others[0].warnings if "the grid biases this approach" in w]
    assert bool(said) == (abs(result.others[0].diagnostics["bias"]["optimum"][0]["params"]) > 0.02)


def test_width_centre_and_drift_of_the_grid_are_told() -> None:
    result = fit(off_centre_table(SYMMETRIC, 8.0, 1.5, 2.0), approaches=["isoflop"])
    sizes = [v for v in result.diagnostics["valleys"] if v["axis"] == "tokens"]
    assert [v["width"] for v in sizes] == pytest.approx([8.0] * 5)
    # The grid's centre is 1.5 to 3 times D*; an off-centre parabola reads D* a little high.
    assert sizes[0]["centre"] == pytest.approx(1.5, rel=0.1)
    assert sizes[-1]["centre"] == pytest.approx(3.0, rel=0.1)
    # A factor of two over four decades of compute.
    assert result.diagnostics["drift"]["tokens"] == pytest.approx(np.log(2) / np.log(1e4), rel=0.1)
    assert result.diagnostics["drift"]["params"] < 0
    centred = fit(off_centre_table(SYMMETRIC, 8.0), approaches=["isoflop"])
    assert centred.diagnostics["drift"]["tokens"] == pytest.approx(0, abs=1e-9)


def test_akimas_curve_is_that_of_scipy_and_its_minimum_the_lowest_point() -> None:
    rng = np.random.default_rng(0)
    for n in (5, 6, 9, 15):
        x = np.sort(rng.normal(size=n))
        y = (x - rng.normal()) ** 2 + rng.normal(0, 0.1, n)
        curve = Akima1DInterpolator(x, y)
        np.testing.assert_allclose(akima.slopes(x, y), curve.derivative()(x), atol=1e-9)
        place, value = akima.minimum(x, y)
        dense = np.linspace(x[0], x[-1], 20_001)
        assert value <= curve(dense).min() + 1e-12
        assert curve(min(float(place), x[-1])) == pytest.approx(float(value), abs=1e-9)


def test_akimas_minima_are_weighted_and_never_sharper_than_a_third_of_the_spacing() -> None:
    quiet = isoflop_table(n_sizes=9, noise=1e-6).where(np.arange(45) != 3)
    akima_fit = fit(quiet, approaches=["isoflop"]).others[0]
    for valley in akima_fit.diagnostics["valleys"]:
        assert valley["error"] < valley["gap"] / 3
    assert akima_fit.intervals["exponent_params"].method == "wls-t"
    # With errors below the floor all budgets weigh alike but for the one whose gap is wider.
    best = [v for v in akima_fit.diagnostics["valleys"] if v["axis"] == "params"]
    x, y = (np.log([v[name] for v in best]) for name in ("budget", "best"))
    plain = np.polyfit(x, y, 1, w=1 / np.array([v["gap"] for v in best]))[0]
    assert akima_fit.exponents["params"]["value"] == pytest.approx(plain, rel=1e-9)


def test_a_weighted_line_is_that_of_its_normal_equations() -> None:
    rng = np.random.default_rng(1)
    C = np.geomspace(1e17, 1e21, 7)
    best = 0.3 * C**0.45 * np.exp(rng.normal(0, 0.1, 7))
    errors = rng.uniform(0.05, 0.3, 7)
    line = fit_line(C, best, errors)
    found, covariance = np.polyfit(np.log(C), np.log(best), 1, w=1 / errors, cov=True)
    assert line.exponent == pytest.approx(found[0], rel=1e-9)
    assert line.error == pytest.approx(float(np.sqrt(covariance[0, 0])), rel=1e-6)


def test_the_noise_of_valleys_is_told_by_seeds_or_else_by_a_cubic() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1e7, 1e9, 9)
    shape = 0.02 * np.log(x / 7e7) ** 2 + 0.004 * np.log(x / 7e7) ** 3 + 1.0
    many = [(x, np.exp(shape + rng.normal(0, 0.01, 9))) for _ in range(60)]
    # 60 x 5 degrees of freedom know a spread to 4 %.
    assert noise_of(many) == pytest.approx(0.01, rel=0.1)
    seeds = [(np.tile(x, 2), np.exp(np.tile(shape, 2) + rng.normal(0, 0.01, 18))) for _ in many]
    assert noise_of(seeds) == pytest.approx(0.01, rel=0.1)
    assert noise_of([(x[:4], np.exp(shape[:4]))]) is None


def test_too_few_sizes_for_akima_leave_the_parabola_standing() -> None:
    result = fit(isoflop_table(n_sizes=4, noise=0.001), approaches=["isoflop"])
    assert result.status is FitStatus.CONVERGED
    akima_fit = result.others[0]
    assert akima_fit.status is FitStatus.UNIDENTIFIED
    assert "Akima's curve needs 5" in akima_fit.warnings[0]


def test_an_edge_minimum_is_refused_by_type() -> None:
    """PO-1."""
    x = np.geomspace(1e7, 1e8, 6)
    with pytest.raises(EdgeMinimumError, match="the minimum is at the largest size"):
        bracketed(parabola, x, (np.log(x) - np.log(2e8)) ** 2 + 3, "budget 1e18")
    with pytest.raises(EdgeMinimumError, match="the minimum is at the smallest size"):
        bracketed(parabola, x, (np.log(x) - np.log(5e6)) ** 2 + 3, "budget 1e18")
    with pytest.raises(NoMinimumError, match="opens downwards"):
        bracketed(parabola, x, 3 - (np.log(x) - np.log(3e7)) ** 2, "budget 1e18")
    with pytest.raises(NoMinimumError, match="2 sizes, a valley needs 3"):
        bracketed(parabola, x[:2], np.array([3.0, 3.1]), "budget 1e18")


def test_a_parabola_is_found_exactly_with_its_own_curve() -> None:
    x = np.geomspace(1e7, 1e9, 7)
    loss = 0.1 * (np.log(x) - np.log(7e7)) ** 2 + 2.5
    valley = bracketed(parabola, x, loss, "here")
    assert valley.best == pytest.approx(7e7, rel=1e-9)
    assert valley.loss == pytest.approx(2.5, rel=1e-12)
    np.testing.assert_allclose(np.polyval(valley.curve, np.log(x)), loss, rtol=1e-9)
    assert valley.error == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_minimum_is_the_spread_of_repetitions() -> None:
    x = np.geomspace(1e7, 1e9, 9)
    truth = 0.1 * (np.log(x) - np.log(7e7)) ** 2 + 2.5
    rng = np.random.default_rng(0)
    found = [bracketed(parabola, x, truth + rng.normal(0, 0.01, 9), "here") for _ in range(400)]
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
    assert result.message == (
        "an interior minimum at 4 of 5 budgets over params and 4 of 5 budgets over tokens"
    )


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
    assert any("not proportional to params x tokens" in w for w in isoflop.warnings)
    assert result.cost is not None
    assert result.cost.power == pytest.approx(1.05, abs=1e-6)
    total = sum(e["value"] for e in result.exponents.values())
    share = BESIROGLU["alpha"] + 1.05 * BESIROGLU["beta"]
    assert total == pytest.approx((BESIROGLU["alpha"] + BESIROGLU["beta"]) / share, rel=1e-6)


def test_a_line_through_two_budgets_is_doubted_for_it_has_no_error() -> None:
    for budgets in ([1e18, 1e20], [1e18, 1e19, 1e20]):
        table = isoflop_table(BESIROGLU, budgets, n_sizes=7, noise=0.002)
        result = fit(table, approaches=["isoflop"])
        told = [w for w in result.warnings if "params and tokens rest on two budgets" in w]
        assert len(told) == (len(budgets) == 2)
        assert bool(told) is (not result.intervals)


def test_minima_that_noise_reads_apart_are_not_laid_to_the_count_of_flops() -> None:
    table = isoflop_table(BESIROGLU, np.geomspace(1e18, 1e21, 4), n_sizes=7)
    loss = 3.0 + 0.02 * np.random.default_rng(32).standard_normal(28)
    (akima,) = fit(with_columns(table, loss=loss), approaches=["isoflop"]).others
    assert abs(akima.diagnostics["exponent_sum"] - 1) > 0.01
    (told,) = (w for w in akima.warnings if "add up to" in w)
    assert "are read apart by noise" in told
    # Rows that lie on another budget than their own are no noise.
    odd = np.where(np.arange(28) % 7 == 3, 10.0, 1.0)
    moved = fit(with_columns(table, budget=table["budget"] * odd), approaches=["isoflop"])
    (told,) = (w for w in moved.warnings if "add up to" in w)
    assert "budgets in this table are not proportional" in told


def test_the_envelope_of_noiseless_valleys_follows_their_minima() -> None:
    budgets = np.geomspace(1e18, 1e21, 6)
    table = isoflop_table(BESIROGLU, budgets, n_sizes=41, width=3.0)
    result = fit(table, approaches=["envelope"])
    assert result.status is FitStatus.CONVERGED
    exponent = result.exponents["params"]
    # Its runs are a grid, so the exponent is as sharp as their spacing allows.
    assert exponent["low"] < 0.5126 < exponent["high"]
    assert exponent["value"] == pytest.approx(0.5126, abs=0.01)


@pytest.mark.parametrize(("drift", "known"), [(0.3, "planned"), (0.03, "counted")])
def test_the_hull_does_not_follow_a_budgets_valley_down(drift: float, known: str) -> None:
    """FLOPs of one budget fall as sizes grow: its cheapest run is no better choice for that."""
    n_sizes = 13
    table = isoflop_table(BESIROGLU, np.geomspace(1e18, 1e21, 6), n_sizes=n_sizes)
    best = fit(table, approaches=["envelope"]).diagnostics["hull"]
    place = np.tile(np.linspace(0, 1, n_sizes), 6)
    columns = {**table.columns, "flops": table["budget"] * (1 - drift * place)}
    if known == "counted":
        del columns["budget"]
    found = fit(RunTable(columns, table.meta), approaches=["envelope"]).diagnostics["hull"]
    assert [p["params"] for p in found] == [p["params"] for p in best]


def test_a_hull_on_a_perfect_line_is_known_no_better_than_its_grid() -> None:
    """Centred grids hit the same place of every budget: no scatter, and yet a spacing."""
    result = fit(isoflop_table(n_sizes=5), approaches=["envelope"], predict=[1e21])
    ends = result.exponents["params"]
    gap = np.log(16.0) / 4  # five sizes over a factor of 16
    log_c = np.log(np.geomspace(1e18, 1e20, 5))
    # The spacing of all sizes together is finer than one budget's; a third of it is the floor.
    assert 0.005 < ends["high"] - ends["low"] < 2 * 1.645 * gap / 3 / np.sqrt(5 * log_c.var())
    entry = result.optimum[0]["intervals"]["params"]
    assert entry["low"] < result.optimum[0]["params"] < entry["high"]


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
