"""The solver: recovery, certificates, identifiability, fixed parameters, symmetries."""

import numpy as np
import pytest
from fit_examples import (
    ASYMMETRIC,
    BESIROGLU,
    CHINCHILLA,
    HOFFMANN,
    isoflop_table,
    runs_of,
    table_of,
    with_columns,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekit.errors import FitError, InputError, UsageError
from scalekit.fit.identify import survey
from scalekit.fit.judge import GATE, judge
from scalekit.fit.newton import Problem, minimise
from scalekit.fit.objective import find_objective
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit, read_fit, write_fit
from scalekit.fit.solve import solve
from scalekit.results.table import RunTable


@pytest.mark.parametrize("objective", ["robust", "hoffmann", "mse_log", "mse", "lad"])
def test_noiseless_runs_give_their_law_back(objective: str) -> None:
    result = fit(
        isoflop_table(ASYMMETRIC, np.geomspace(1e17, 1e21, 5), n_sizes=15, width=8.0),
        objective=objective,
    )
    assert result.status is FitStatus.CONVERGED
    # Residuals vanish to 1e-15 and the design's condition is 1e4.
    assert result.theta == pytest.approx(ASYMMETRIC, rel=1e-9)


def test_a_false_success_of_a_mean_objective_is_flagged() -> None:
    """CH-3b: where scipy stops and says success, the scaled gradient is far from zero."""
    table = isoflop_table(budgets=np.geomspace(1e18, 1e21, 7), n_sizes=9)
    runs = runs_of(table["params"], table["tokens"], table["loss"])
    frame = CHINCHILLA.frame({"N": runs.inputs["N"], "D": runs.inputs["D"]})
    objective = find_objective("hoffmann")
    problem = Problem(
        CHINCHILLA, frame, np.log(runs.loss), objective, np.eye(5), np.zeros(5), tuple(range(5))
    )
    # Where scipy's L-BFGS-B with default tolerances ends on the mean of the same objective.
    stopped = _scipy_on_the_mean(runs)
    phi = CHINCHILLA.to_internal(stopped, frame.centre)
    there = minimise(problem, phi[None], max_iterations=0)
    design = survey(CHINCHILLA, frame, np.eye(5), phi, runs.inputs)
    assert there.value[0] > 1e-4  # the truth has 0
    assert there.scaled_gradient[0] > 1e3 * GATE
    assert judge(runs, problem, there, design).status is FitStatus.NOT_CONVERGED
    proper = fit(table, objective="hoffmann")
    assert proper.theta == pytest.approx(BESIROGLU, rel=1e-9)


def _scipy_on_the_mean(runs) -> dict[str, float]:
    from scipy.optimize import minimize

    log_n, log_d, log_l = (np.log(v) for v in (runs.inputs["N"], runs.inputs["D"], runs.loss))

    def mean_huber(x):
        terms = np.stack([x[0] - x[1] * log_n, x[2] - x[3] * log_d, np.full_like(log_n, x[4])])
        r = np.abs(log_l - np.logaddexp.reduce(terms, axis=0))
        return np.mean(np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)))

    start = [6.0073404, 0.33917084, 6.0179186, 0.2849083, 0.5267228]
    found = minimize(mean_huber, start, method="L-BFGS-B")
    assert found.success
    a, alpha, b, beta, e = found.x
    return {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta}


def test_our_optimum_is_that_of_scipy_least_squares() -> None:
    from scipy.optimize import least_squares

    table = isoflop_table(noise=0.01, seed=3)
    ours = fit(table, objective="mse_log")
    log_n, log_d, log_l = (np.log(table[c]) for c in ("params", "tokens", "loss"))

    def residual(x):
        loss = (
            np.exp(x[0]) + np.exp(x[1] - x[3] * (log_n - 19)) + np.exp(x[2] - x[4] * (log_d - 23))
        )
        return np.log(loss) - log_l

    found = least_squares(residual, [0.5, 0.0, 0.0, 0.3, 0.3], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert ours.objective["value"] <= found.cost * (1 + 1e-12)
    assert ours.theta["alpha"] == pytest.approx(found.x[3], rel=1e-5)


N20 = np.geomspace(1e7, 1e9, 20)
GRID_N, GRID_D = (
    v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(2e8, 2e10, 4))
)


@pytest.mark.parametrize(
    ("N", "D", "says"),
    [
        (N20, 20 * N20, "one ray"),
        (N20, 1e20 / 6 / N20, "one budget"),
        (N20, np.full(20, 1e10), "the same D"),
        (N20, 20 * N20 * np.exp(np.random.default_rng(0).normal(0, 0.05, 20)), "one ray"),
    ],
    ids=["ray", "one isoFLOP", "fixed tokens", "a ray with 5 % scatter"],
)
def test_a_design_on_one_line_is_unidentified(N, D, says: str) -> None:
    result = fit(table_of(N, D, noise=0.005), predict=[1e21])
    assert result.status is FitStatus.UNIDENTIFIED
    assert says in result.message
    assert result.optimum == ()


def test_a_grid_and_four_valleys_are_identified() -> None:
    assert fit(table_of(GRID_N, GRID_D, noise=0.003)).status is FitStatus.CONVERGED
    four = isoflop_table(budgets=np.geomspace(1e18, 1e20, 4), n_sizes=4, noise=0.003)
    assert fit(four).status is FitStatus.CONVERGED


def test_centred_coordinates_are_well_conditioned() -> None:
    """A2-2: the asymmetric design, Gauss-Newton condition 1.5e4 centred, 1.6e11 published."""
    table = isoflop_table(ASYMMETRIC, np.geomspace(1e17, 1e21, 5), n_sizes=15, width=16.0)
    inputs = {"N": table["params"], "D": table["tokens"]}
    frame = CHINCHILLA.frame(inputs)
    phi = CHINCHILLA.to_internal(ASYMMETRIC, frame.centre)
    jac = CHINCHILLA.jacobian(CHINCHILLA.state(phi[None], frame))[0]
    turn = CHINCHILLA.published_jacobian(phi, frame.centre)
    published = np.linalg.solve(turn.T, jac)
    assert np.linalg.cond(jac @ jac.T) < 1e5
    assert np.linalg.cond(published @ published.T) > 1e10


def test_too_few_runs_are_refused_with_what_to_do() -> None:
    with pytest.raises(FitError, match=r"4 runs but chinchilla has 5 free parameters; add runs or"):
        fit(table_of(GRID_N[:4], GRID_D[:4]))
    with pytest.raises(FitError, match=r"1 different sizes and lengths"):
        fit(table_of(np.full(9, 1e8), np.full(9, 2e9)))


def test_fixing_a_parameter_frees_the_others_and_keeps_it() -> None:
    table = isoflop_table(noise=0.01, seed=1)
    for name in BESIROGLU:
        result = fit(table, fix={name: BESIROGLU[name]})
        assert result.status is FitStatus.CONVERGED
        assert result.theta[name] == pytest.approx(BESIROGLU[name], rel=1e-9)
        assert name not in result.intervals
        free = fit(table, objective="mse_log")
        held = fit(table, objective="mse_log", fix={name: BESIROGLU[name]})
        assert held.objective["value"] >= free.objective["value"]
    with pytest.raises(UsageError, match="did you mean 'alpha'"):
        fit(table, fix={"alfa": 0.3})


def test_a_ray_is_identified_once_enough_is_fixed() -> None:
    fixed = {"E": BESIROGLU["E"], "B": BESIROGLU["B"], "beta": BESIROGLU["beta"]}
    result = fit(table_of(N20, 20 * N20), fix=fixed)
    assert result.status is FitStatus.CONVERGED
    assert result.theta["alpha"] == pytest.approx(BESIROGLU["alpha"], rel=1e-8)


def test_a_law_without_irreducible_loss_hits_the_bound_of_e() -> None:
    theta = {**BESIROGLU, "E": 1e-9}
    # About half of all seeds end there; the others at a small E whose interval reaches zero.
    result = fit(isoflop_table(theta, noise=0.003, seed=4))
    assert result.status is FitStatus.BOUND_HIT
    assert result.diagnostics["bounds_hit"] == ["E"]
    assert "E" in result.message
    inside = fit(isoflop_table(theta, noise=0.003, seed=0))
    assert inside.status is FitStatus.CONVERGED
    assert inside.intervals["E"].low == 0.0


def test_the_wrong_law_predicts_the_largest_budget_worse() -> None:
    table = isoflop_table(budgets=np.geomspace(1e17, 1e21, 6), n_sizes=6, noise=0.002, seed=5)
    right = fit(table, hold_out="largest-budget")
    wrong = fit(table, fix={"E": 0.0}, hold_out="largest-budget")
    assert wrong.holdout["mape"] > 2 * right.holdout["mape"]


@settings(max_examples=8, deadline=None)
@given(
    scale_n=st.floats(1e-9, 1e3),
    scale_d=st.floats(1e-9, 1e3),
    seed=st.integers(0, 1000),
)
def test_units_and_row_order_change_no_exponent(scale_n: float, scale_d: float, seed: int) -> None:
    table = isoflop_table(noise=0.01, seed=7)
    plain = fit(table)
    order = np.random.default_rng(seed).permutation(len(table))
    shuffled = table.where(order)
    moved = fit(
        with_columns(
            shuffled, params=shuffled["params"] * scale_n, tokens=shuffled["tokens"] * scale_d
        )
    )
    # The optimum is settled to rounding; through a condition of 1e4 and an adaptive delta's fixed
    # point, which stops at 1e-9, parameters agree to 1e-7.
    for name in ("E", "alpha", "beta"):
        assert moved.theta[name] == pytest.approx(plain.theta[name], rel=1e-7)
    expected = plain.theta["A"] * scale_n ** plain.theta["alpha"]
    assert moved.theta["A"] == pytest.approx(expected, rel=1e-5)


def test_rows_given_twice_weigh_twice_and_are_reported() -> None:
    table = isoflop_table(noise=0.01, seed=8)
    twice = RunTable({k: np.concatenate([v, v]) for k, v in table.columns.items()}, table.meta)
    once_fit, twice_fit = (fit(t, objective="mse_log") for t in (table, twice))
    assert twice_fit.objective["value"] == pytest.approx(2 * once_fit.objective["value"], rel=1e-12)
    # Both stop where the objective cannot fall by 1e-15 of itself; a valley of condition 1e4 turns
    # that into 1e-7 of an amplitude.
    assert twice_fit.theta == pytest.approx(once_fit.theta, rel=1e-6)
    assert any("25 rows with the inputs and loss of another" in w for w in twice_fit.warnings)
    runs = runs_of(table["params"], table["tokens"], table["loss"])
    solution = solve(CHINCHILLA, runs, find_objective("mse_log"))
    weighted = minimise(solution.problem, solution.psi[None], np.full((1, 25), 2.0))
    assert weighted.value[0] == pytest.approx(2 * solution.value, rel=1e-12)


@pytest.mark.parametrize(
    ("columns", "error", "says"),
    [
        ({"loss": -1.0}, InputError, "loss must be positive, found -1 in row 3"),
        ({"loss": 0.0}, InputError, "loss must be positive"),
        ({"params": 0.0}, InputError, "params must be positive, found 0 in row 3"),
    ],
)
def test_impossible_numbers_are_refused_with_their_row(columns, error, says: str) -> None:
    table = isoflop_table(noise=0.01)
    changed = {}
    for name, value in columns.items():
        changed[name] = table[name].copy()
        changed[name][2] = value
    with pytest.raises(error, match=says):
        fit(with_columns(table, **changed))


ODD = {
    "every loss the same": lambda t: {"loss": np.full(25, 3.0)},
    "losses that rise with compute": lambda t: {"loss": t["loss"][::-1].copy()},
    "losses of no pattern": lambda t: {"loss": np.exp(np.random.default_rng(0).normal(1, 0.1, 25))},
    "losses in other units": lambda t: {"loss": 1e8 * t["loss"]},
    "sizes that do not matter": lambda t: {"loss": 1.8 + 2085 * t["tokens"] ** -0.366},
    "one outlier": lambda t: {"loss": np.where(np.arange(25) == 3, 50.0, t["loss"])},
}


@pytest.mark.parametrize("objective", ["robust", "hoffmann"])
@pytest.mark.parametrize("name", ODD)
def test_odd_losses_end_in_a_status_and_never_in_a_crash(tmp_path, name, objective) -> None:
    table = isoflop_table(noise=0.005)
    odd = with_columns(table, **ODD[name](table))
    result = fit(odd, objective=objective, predict=[1e22], hold_out="largest-budget")
    assert (result.status is FitStatus.CONVERGED) == (name == "one outlier"), result.message
    write_fit(result, tmp_path / "fit.json")
    assert read_fit(tmp_path / "fit.json").status is result.status


def test_few_runs_to_spare_are_warned_of() -> None:
    table = isoflop_table(noise=0.005)
    few = fit(table.where(np.arange(25) < 7))
    assert any("7 runs for 5 free parameters leave 2" in w for w in few.warnings)
    assert not any("free parameters leave" in w for w in fit(table).warnings)


@pytest.mark.slow
def test_three_hundred_thousand_rows_are_fitted_to_their_truth() -> None:
    rng = np.random.default_rng(0)
    n = 300_000
    N, D = np.exp(rng.uniform(17, 24, n)), np.exp(rng.uniform(20, 27, n))
    result = fit(table_of(N, D, noise=0.01))
    assert result.status is FitStatus.CONVERGED
    for name, value in BESIROGLU.items():
        ends = result.intervals[name]
        # Three times the half-width: the truth of a 90 % interval, and no false alarm.
        assert abs(result.theta[name] - value) < 3 * (ends.high - ends.low) / 2


def test_every_row_left_out_has_its_reason() -> None:
    table = isoflop_table(noise=0.01)
    loss, status = table["loss"].copy(), table["status"].copy()
    loss[0] = np.nan
    status[1], status[2] = "diverged", "pruned"
    table = with_columns(table, loss=loss, status=status)
    result = fit(table, drop=["params>1e9"])
    reasons = {d["run"]: d["reason"] for d in result.dropped}
    assert reasons["sim-01"] == "loss is not a number"
    assert reasons["sim-02"] == "diverged"
    assert reasons["sim-03"] == "pruned"
    large = {str(r) for r in table["run"][table["params"] > 1e9]}
    assert {r for r, why in reasons.items() if why == "--drop params>1e9"} == large
    assert result.n_runs == 25 - len(reasons)


def test_hoffmann_start_is_not_the_answer() -> None:
    """The published start values are no optimum of other runs: the fit must leave them."""
    result = fit(isoflop_table(), fix=None)
    assert abs(result.theta["beta"] - HOFFMANN["beta"]) > 0.05
