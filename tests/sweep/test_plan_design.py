"""What a design can tell: published diagnostics, and the sizes proposed for a valley."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.sweep.design import (
    BESIROGLU,
    REACH,
    PriorLaw,
    confounding,
    exponent_sd,
    fill_valley,
)

NOISE = 0.005


def geometric(low: float, high: float, n: int) -> list[float]:
    return [float(x) for x in np.geomspace(low, high, n)]


def rays(sizes: list[float], *ratios: float) -> list[tuple[float, float]]:
    return [(N, k * N) for N in sizes for k in ratios]


def isoflop(reach: float) -> list[tuple[float, float]]:
    points = []
    for C in geometric(1e18, 1e20, 5):
        centre = BESIROGLU.optimum(C)
        points += [(N, C / 6 / N) for N in geometric(centre / reach, centre * reach, 5)]
    return points


# ID-2 of the literature: sd of the exponent under Besiroglu's law with 0.5 % noise. Its designs are
# stated in part; the sizes below are those for which cost and sd both come out.
@pytest.mark.parametrize(
    ("points", "published"),
    [
        (isoflop(4), 0.013),
        (isoflop(8), 0.009),
        (rays(geometric(2e7, 1e9, 8), 5, 100), 0.021),
        ([(N, D) for N in geometric(2e7, 1e9, 5) for D in geometric(4e8, 2e10, 5)], 0.016),
    ],
    ids=["isoflop 4x", "isoflop 8x", "two rays", "grid"],
)
def test_the_precision_of_a_design_is_the_published_one(
    points: list[tuple[float, float]], published: float
) -> None:
    # Three decimals are what was published.
    assert exponent_sd(BESIROGLU, points, NOISE) == pytest.approx(published, abs=6e-4)


def test_the_published_isoflop_design_costs_what_was_published() -> None:
    assert sum(6 * N * D for N, D in isoflop(4)) == pytest.approx(7.3e20, rel=2e-3)


@pytest.mark.parametrize("n_sizes", [5, 8, 50, 500])
def test_a_single_ray_tells_nothing_however_many_runs_it_has(n_sizes: int) -> None:
    assert exponent_sd(BESIROGLU, rays(geometric(1e7, 1e9, n_sizes), 20), NOISE) > 1


def test_a_ray_under_equal_exponents_is_singular_not_precise() -> None:
    law = PriorLaw("equal", E=1.7, A=400, B=400, alpha=0.35, beta=0.35, params_from=0)
    assert exponent_sd(law, rays(geometric(1e7, 1e9, 20), 20), NOISE) == math.inf
    assert confounding(law, rays(geometric(1e7, 1e9, 20), 20)) > 1e12


@pytest.mark.parametrize("n_points", [0, 1, 4])
def test_fewer_points_than_parameters_determine_nothing(n_points: int) -> None:
    assert exponent_sd(BESIROGLU, isoflop(4)[:n_points], NOISE) == math.inf


def test_the_precision_agrees_with_a_numerical_jacobian_and_a_dense_inverse() -> None:
    points = isoflop(4)
    theta = np.array(
        [BESIROGLU.E, np.log(BESIROGLU.A), np.log(BESIROGLU.B), BESIROGLU.alpha, BESIROGLU.beta]
    )
    N, D = np.array(points).T

    def log_loss(t: np.ndarray) -> np.ndarray:
        return np.log(t[0] + np.exp(t[1]) * N ** -t[3] + np.exp(t[2]) * D ** -t[4])

    step = 1e-6 * np.eye(5)
    jacobian = np.stack([(log_loss(theta + s) - log_loss(theta - s)) / 2e-6 for s in step], axis=1)
    total = (BESIROGLU.alpha + BESIROGLU.beta) ** 2
    gradient = np.array([0, 0, 0, -BESIROGLU.beta / total, BESIROGLU.alpha / total])
    variance = gradient @ np.linalg.inv(jacobian.T @ jacobian) @ gradient
    # Differences of step 1e-6 leave about nine digits, of which the condition number takes five.
    assert exponent_sd(BESIROGLU, points, NOISE) == pytest.approx(
        NOISE * float(np.sqrt(variance)), rel=1e-3
    )


@given(st.integers(2, 5))
def test_repeating_a_design_divides_its_sd_by_the_root_of_the_repeats(times: int) -> None:
    once = exponent_sd(BESIROGLU, isoflop(4), NOISE)
    # 1e-6: five-by-five linear algebra with a condition number of 1e4.
    assert exponent_sd(BESIROGLU, isoflop(4) * times, NOISE) == pytest.approx(
        once / math.sqrt(times), rel=1e-6
    )


# ID-1 of the literature: 20 sizes on the ray D = 20 N, alpha .35, beta less by eps.
@pytest.mark.parametrize(
    ("eps", "published"), [(0.2, 67), (0.1, 299), (0.05, 1.27e3), (0.02, 8.2e3), (0.01, 3.3e4)]
)
def test_a_ray_confounds_the_amplitudes_as_published(eps: float, published: float) -> None:
    law = PriorLaw("ray", E=1.7, A=400, B=400, alpha=0.35, beta=0.35 - eps, params_from=0)
    # Two to three digits are what was published.
    assert confounding(law, rays(geometric(1e7, 1e9, 20), 20)) == pytest.approx(published, rel=0.01)


def test_the_prior_optimum_minimises_the_priors_loss() -> None:
    C = 1e20
    best = min(geometric(1e8, 1e10, 20_001), key=lambda N: BESIROGLU.loss(N, C / 6 / N))
    # The grid's step.
    assert BESIROGLU.optimum(C) == pytest.approx(best, rel=3e-4)


SIZES = st.lists(st.floats(1e3, 1e12), max_size=6)


@given(SIZES, st.floats(1e4, 1e11), st.integers(0, 9))
def test_a_filled_valley_has_the_sizes_wanted_on_both_sides_of_the_optimum(
    sizes: list[float], optimum: float, wanted: int
) -> None:
    added = fill_valley(sizes, optimum, wanted)
    together = {*sizes, *added}
    assert len(together) >= wanted
    # What is added is new, and none lies outside the reach; the factor is rounding.
    assert not set(added) & set(sizes)
    assert all(optimum / REACH / 1.001 <= n <= optimum * REACH * 1.001 for n in added)
    reach = REACH * 1.6
    assert sum(optimum / reach <= n < 1.6 * optimum for n in together) >= 2
    assert sum(optimum / 1.6 < n <= optimum * reach for n in together) >= 2


def test_a_valley_that_is_full_gets_nothing() -> None:
    assert fill_valley(geometric(25, 400, 5), 100.0, 5) == ()


def test_a_valley_is_filled_from_the_places_that_can_be_had() -> None:
    places = [1.0, 20, 30, 60, 150, 200, 350, 1e4]
    added = fill_valley([100.0], 100.0, 5, places)
    assert len(added) == 4
    assert set(added) <= {30, 60, 150, 200, 350}
    # Too few can be had: all that help are taken, and it ends.
    assert fill_valley([], 100.0, 5, [50.0, 1e9]) == (50.0,)


def test_an_empty_valley_gets_sizes_that_span_it() -> None:
    added = fill_valley([], 1e6, 5)
    assert len(added) == 5
    assert added[0] == pytest.approx(1e6 / REACH)
    assert added[-1] == pytest.approx(1e6 * REACH)
    # Evenly enough that no gap is wider than half of the valley.
    assert max(b / a for a, b in pairwise(added)) < REACH
