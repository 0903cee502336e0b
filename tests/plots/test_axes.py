"""Ticks and labels: the right ones for every span of a log axis."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.plots import _axes, _labels


def test_counts_read_as_people_write_them() -> None:
    assert [_axes.count_text(v) for v in (3e7, 1e8, 1e9, 999.96e6)] == ["30M", "100M", "1B", "1B"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2e7, 2e9, [3e7, 1e8, 3e8, 1e9]),  # two decades: 1 and 3
        (1e6, 8e6, [1e6, 2e6, 5e6]),  # under 1.2 decades: 1, 2 and 5
    ],
)
def test_labelled_ticks_follow_the_span(low: float, high: float, expected: list[float]) -> None:
    major, _ = _axes.log_ticks(low, high, 6)
    assert major == pytest.approx(expected)


@given(
    low=st.floats(1e-5, 1e20),
    decades=st.floats(0.02, 14),
    most=st.integers(4, 8),
)
def test_any_log_axis_gets_two_to_most_ticks_inside_it(
    low: float, decades: float, most: int
) -> None:
    high = low * 10.0**decades
    major, minor = _axes.log_ticks(low, high, most)
    assert 2 <= len(major) <= most + 1
    # a tick on the very edge may miss it by rounding
    assert all(low * (1 - 1e-8) <= t <= high * (1 + 1e-8) for t in major)
    assert not {round(t, 12) for t in major} & {round(t, 12) for t in minor}


@given(
    places=st.lists(st.floats(0, 100), min_size=1, max_size=8),
    gap=st.floats(0.5, 8),
)
def test_spread_labels_never_touch_and_keep_their_order(places: list[float], gap: float) -> None:
    moved = _labels.spread(places, gap, -1000, 1000)
    order = sorted(range(len(places)), key=lambda k: places[k])
    steps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert all(step >= gap - 1e-6 for step in steps)  # places are rounded to 1e-9
    if len(places) == 1:
        assert moved[0] == pytest.approx(places[0], abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("total", "Parameters N (total)"),
        ("non_embedding_head", "Parameters N (non-embedding + head)"),
        ("", "Parameters N (count not stated)"),
        ("unstated", "Parameters N (count not stated)"),
    ],
)
def test_a_parameter_axis_says_which_count_it_is(kind: str, words: str) -> None:
    assert _axes.params_label(kind) == words


def test_compute_labels_name_the_count_only_where_it_differs() -> None:
    assert _axes.flops_label("6N_total", "total") == "Training compute C (FLOPs, 6ND)"
    assert "N total" in _axes.flops_label("6N_total", "non_embedding")
