"""Minima and crossings: exact where smooth, honest at kinks, ends and where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.fit.search import crossing, lowest

FREE = np.array([-20.0]), np.array([20.0])


@given(st.floats(-15, 15), st.floats(0.05, 3), st.floats(0.05, 3), st.floats(0, 5))
def test_the_minimum_of_two_exponentials_is_the_known_one(centre, a, b, floor) -> None:
    def sums(x):
        return floor + np.exp(-a * (x - centre)) / a + np.exp(b * (x - centre)) / b

    # Rounding of the floor is the most that blurs it: 1e-15 of the value over the curvature.
    assert lowest(sums, *FREE)[0] == pytest.approx(centre, abs=1e-8)


def test_many_functions_are_minimised_at_once_and_the_deepest_valley_wins() -> None:
    centres = np.array([-3.0, 0.5, 7.0])

    def valleys(x):
        return -np.exp(-((x - centres) ** 2)) - 0.5 * np.exp(-((x + 12) ** 2))

    found = lowest(valleys, np.full(3, -20.0), np.full(3, 20.0))
    np.testing.assert_allclose(found, centres, atol=1e-9)


def test_a_kink_is_found_to_the_width_of_the_last_grid() -> None:
    for slopes in ((1.0, 2.0), (0.1, 30.0)):
        found = lowest(lambda x, s=slopes: np.maximum(-s[0] * (x - 1.7), s[1] * (x - 1.7)), *FREE)
        assert found[0] == pytest.approx(1.7, abs=1e-10)


def test_a_bend_that_jumps_does_not_pull_the_minimum_aside() -> None:
    """Repeated-data laws: the slope is continuous, its own slope is not; a stencil would mix."""

    def bent(x):
        y = x - 1.7
        return 2.0 + np.where(y > 0, 3.0, 0.3) * y**2

    # The square root of rounding over the smaller bend.
    assert lowest(bent, *FREE)[0] == pytest.approx(1.7, abs=1e-7)


def test_without_a_minimum_inside_the_end_is_returned() -> None:
    assert lowest(lambda x: np.exp(-x), *FREE)[0] == 20.0
    assert lowest(lambda x: np.where(x < 3, np.nan, x), *FREE)[0] == pytest.approx(3, abs=1e-9)


@given(st.floats(-9, 9), st.floats(0.01, 5))
def test_a_crossing_is_found_to_rounding(place, rate) -> None:
    found = crossing(lambda x: np.expm1(-rate * (x - place)), np.array([-10.0]), np.array([10.0]))
    assert found[0] == pytest.approx(place, abs=1e-12)


def test_what_never_crosses_is_infinite_and_what_has_crossed_is_the_low_end() -> None:
    low, high = np.array([0.0, 0.0, 0.0]), np.array([9.0, 9.0, 9.0])
    found = crossing(lambda x: np.array([1.0, 4.0, -1.0]) - 0.5 * x, low, high)
    assert found.tolist() == pytest.approx([2.0, 8.0, 0.0], abs=1e-13)
    assert crossing(lambda x: 5.0 - 0.5 * x, low[:1], high[:1])[0] == np.inf
