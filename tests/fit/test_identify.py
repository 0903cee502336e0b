"""What a design can tell, before a fit: rank, condition, lines, the exponent's error by design."""

import numpy as np
import pytest
from fit_examples import BESIROGLU, CHINCHILLA, isoflop_table, runs_of, table_of

from scalekit.fit.identify import condition_of, count_distinct, exponent_sd, keys_of, survey
from scalekit.fit.newton import Problem, minimise
from scalekit.fit.objective import find_objective
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit

N20 = np.geomspace(1e7, 1e9, 20)
N8 = np.geomspace(1e7, 1e9, 8)


def surveyed(N, D):
    inputs = {"N": np.asarray(N, dtype=float), "D": np.asarray(D, dtype=float)}
    frame = CHINCHILLA.frame(inputs)
    phi = CHINCHILLA.to_internal(BESIROGLU, frame.centre)
    return survey(CHINCHILLA, frame, np.eye(5), phi, inputs)


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    N, D = np.meshgrid(np.geomspace(1e7, 1e9, side), np.geomspace(2e8, 2e10, side))
    return N.ravel(), D.ravel()


@pytest.mark.parametrize(
    ("eps", "condition"), [(0.2, 67.0), (0.1, 299.0), (0.05, 1.27e3), (0.02, 8.2e3), (0.01, 3.3e4)]
)
def test_the_ray_diagnostic_grows_as_exponents_meet(eps: float, condition: float) -> None:
    """ID-1: the two amplitude columns on D = 20 N, alpha = .35, beta = alpha - eps."""
    columns = np.stack([N20**-0.35, (20 * N20) ** -(0.35 - eps)])
    # Printed to two or three digits.
    assert condition_of(columns) == pytest.approx(condition, rel=0.02)


def l_shape() -> tuple[np.ndarray, np.ndarray]:
    """All sizes at few tokens and all lengths at the smallest size, 15 runs."""
    N, D = np.geomspace(5e6, 5e8, 8), np.geomspace(1e9, 1e11, 8)
    return np.concatenate([N, np.full(7, N[0])]), np.concatenate([np.full(8, D[0]), D[1:]])


def runs_at(table) -> tuple[np.ndarray, np.ndarray]:
    return table["params"], table["tokens"]


# The exact sizes of all but the isoFLOP designs are not published, only their kind.
ID_2 = {
    "two rays": (np.tile(N8, 2), np.concatenate([5 * N8, 100 * N8]), 0.021, 0.4),
    "three rays": (np.tile(N8, 3), np.concatenate([5 * N8, 20 * N8, 100 * N8]), 0.019, 0.4),
    "isoFLOP 5 x 5, w=4": (*runs_at(isoflop_table()), 0.013, 0.05),
    "isoFLOP 5 x 5, w=8": (*runs_at(isoflop_table(width=8.0)), 0.009, 0.05),
    "grid 5 x 5": (*grid(5), 0.016, 0.4),
    "L-shape": (*l_shape(), 0.029, 0.4),
}


@pytest.mark.parametrize("name", ID_2)
def test_the_sd_of_the_exponent_by_design_is_the_published_one(name: str) -> None:
    """ID-2: local standard deviation of p at 0.5 % noise, truth Besiroglu et al. 2024."""
    N, D, expected, digits = ID_2[name]
    assert exponent_sd(CHINCHILLA, BESIROGLU, {"N": N, "D": D}) == pytest.approx(
        expected, rel=digits
    )


def test_one_ray_leaves_the_exponent_open_however_many_runs_it_has() -> None:
    """ID-2's ray: a standard deviation far over one, of a number between zero and one."""
    for n in (8, 800):
        N = np.geomspace(1e7, 1e9, n)
        sd = exponent_sd(CHINCHILLA, BESIROGLU, {"N": N, "D": 20 * N})
        assert sd is not None
        assert sd > 1
        assert surveyed(N, 20 * N).line == "all runs lie on one ray, D proportional to N"


def test_the_predicted_sd_is_that_of_many_fits() -> None:
    table = isoflop_table()
    runs = runs_of(table["params"], table["tokens"], table["loss"])
    frame = CHINCHILLA.frame({"N": runs.inputs["N"], "D": runs.inputs["D"]})
    phi = CHINCHILLA.to_internal(BESIROGLU, frame.centre)
    noise = np.random.default_rng(0).normal(0, 0.002, (1000, 25))
    problem = Problem(
        CHINCHILLA, frame, np.log(runs.loss) + noise, find_objective("mse_log"), np.eye(5),
        np.zeros(5), tuple(range(5)),
    )  # fmt: skip
    psi = minimise(problem, np.tile(phi, (1000, 1))).psi
    share = psi[:, 4] / (psi[:, 3] + psi[:, 4])
    expected = exponent_sd(CHINCHILLA, BESIROGLU, runs.inputs, noise=0.002)
    # 1000 fits know a spread to 2.2 %; small noise keeps the law straight.
    assert np.std(share) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize(
    ("N", "D", "line"),
    [
        (N20, 20 * N20, "one ray"),
        (N20, 1e20 / 6 / N20, "one budget"),
        (N20, np.full(20, 1e10), "the same D"),
        (np.full(20, 1e8), N20 * 20, "the same N"),
        (N20, 1e3 * N20**1.5, "one line, D ~ N^1.50"),
    ],
)
def test_a_design_on_a_line_is_told_before_the_fit_and_unidentified_after(N, D, line) -> None:
    """P17."""
    found = surveyed(N, D)
    assert not found.is_identified
    assert line in (found.line or "")
    result = fit(table_of(N, D, noise=0.005))
    assert result.status is FitStatus.UNIDENTIFIED
    assert line in result.diagnostics["design"]["line"]
    assert result.exponents == {}
    assert result.intervals == {}


def test_a_good_design_has_full_rank_and_a_small_condition() -> None:
    """P17's good designs: a 4 x 4 grid and four isoFLOPs of four sizes."""
    four = isoflop_table(budgets=np.geomspace(1e18, 1e20, 4), n_sizes=4)
    for N, D in (grid(4), runs_at(four)):
        found = surveyed(N, D)
        assert found.is_identified
        assert found.rank == 5
        assert found.condition < 1e5
    low, high = surveyed(*grid(4)).tokens_per_param or (0, 0)
    assert (low, high) == pytest.approx((0.2, 2000))


def test_a_parameter_that_no_run_feels_lowers_the_rank() -> None:
    """Without a repeated token nothing says what repetitions are worth."""
    from scalekit import registry
    from scalekit.fit.simulate import simulate

    law = registry.find("laws", "repeat_exp")
    theta = {"E": 1.87, "A": 520.8, "B": 1487.7, "alpha": 0.35, "beta": 0.36}
    theta |= {"R_D_star": 15.4, "R_N_star": 5.3}
    N, D = grid(5)
    inputs = {"N": N, "D": D, "U": 10 * D}
    result = fit(simulate(law, theta, inputs, noise=0.001), laws=["repeat_exp"])
    assert result.status is FitStatus.UNIDENTIFIED
    assert result.diagnostics["design"]["rank"] < 7


def test_distinct_points_are_counted_without_rounding_any_together() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 4, (3, 200)).astype(float)
    assert count_distinct(points) == np.unique(points, axis=1).shape[1]
    assert count_distinct(np.array([[1.0, 1.0, 1.0 + 1e-15]])) == 2


def test_a_design_on_one_side_of_the_optimum_is_warned_of() -> None:
    N = np.tile(np.geomspace(1e7, 1e9, 6), 3)
    ratio = np.repeat([100.0, 300.0, 900.0], 6)
    over = fit(table_of(N, ratio * N, noise=0.001))
    low, high = over.diagnostics["design"]["ratio_over_optimum"]
    assert 1 < low < high
    assert any("more tokens per parameter than the fitted optimum" in w for w in over.warnings)
    both = fit(isoflop_table(noise=0.001))
    low, high = both.diagnostics["design"]["ratio_over_optimum"]
    # Sizes a factor 4 to each side of N*, so tokens per parameter a factor 16.
    assert (low, high) == pytest.approx((1 / 16, 16), rel=0.05)
    assert not any("than the fitted optimum" in w for w in both.warnings)


def test_equal_columns_and_only_they_have_equal_keys() -> None:
    rng = np.random.default_rng(0)
    # Few values, so that many columns are equal in some rows and not in others.
    points = rng.choice(np.geomspace(1e7, 1e9, 12), size=(3, 4000))
    points[2, :7] = [0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, np.inf]
    keys = keys_of(points)
    whole = {tuple(column) for column in points.T}
    assert len(set(keys.tolist())) == len(whole) == count_distinct(points)
    assert len({(k, tuple(c)) for k, c in zip(keys.tolist(), points.T, strict=True)}) == len(whole)
