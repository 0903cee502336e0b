"""The learning rate: its first step, the end of warm-up, its last step, and nothing jumps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.sweep.spec import TrainSpec
from scalekit.train.schedule import lr_factor


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(
        {"schedule": "cosine", "warmup_frac": 0.1, "decay_frac": 0.2, "min_lr_frac": 0.1, **changes}
    )


SHAPES = [
    ("cosine", "linear"),
    ("wsd", "linear"),
    ("wsd", "sqrt"),
    ("constant", "linear"),
    ("inverse_sqrt", "linear"),
]
of_every_shape = pytest.mark.parametrize(("schedule", "decay_shape"), SHAPES)


@of_every_shape
def test_warm_up_is_a_straight_line_that_ends_on_the_peak(schedule: str, decay_shape: str) -> None:
    train = spec(schedule=schedule, decay_shape=decay_shape)
    factors = [lr_factor(step, 100, train) for step in range(1, 11)]
    assert factors == pytest.approx([k / 10 for k in range(1, 11)], rel=1e-15)


@of_every_shape
def test_the_last_step_stands_on_the_floor_where_the_schedule_has_one(
    schedule: str, decay_shape: str
) -> None:
    train = spec(schedule=schedule, decay_shape=decay_shape)
    expected = {"constant": 1.0, "inverse_sqrt": 0.1**0.5}.get(schedule, 0.1)
    assert lr_factor(100, 100, train) == pytest.approx(expected, rel=1e-15)


@of_every_shape
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_runs_have_a_rate_too(schedule: str, decay_shape: str, steps: int) -> None:
    train = spec(schedule=schedule, decay_shape=decay_shape, warmup_frac=0.0)
    assert all(0.0 < lr_factor(step, steps, train) <= 1.0 for step in range(1, steps + 1))


def test_without_warm_up_the_first_step_is_not_below_the_second() -> None:
    train = spec(warmup_frac=0.0)
    assert lr_factor(1, 100, train) > lr_factor(2, 100, train) > 0.99


def test_cosine_is_halfway_down_in_the_middle_of_the_decay() -> None:
    assert lr_factor(55, 100, spec()) == pytest.approx(0.55, rel=1e-12)


@pytest.mark.parametrize(
    ("decay_shape", "at_quarter"), [("linear", 0.1 + 0.9 * 0.75), ("sqrt", 0.1 + 0.9 * 0.5)]
)
def test_wsd_holds_the_peak_and_then_cools_down(decay_shape: str, at_quarter: float) -> None:
    train = spec(schedule="wsd", decay_shape=decay_shape)
    assert {lr_factor(step, 100, train) for step in range(10, 81)} == {1.0}
    assert lr_factor(81, 100, train) < 1.0
    assert lr_factor(85, 100, train) == pytest.approx(at_quarter, rel=1e-12)


def test_the_inverse_square_root_is_vaswanis_over_its_peak_however_long_the_run() -> None:
    peak = 40**-0.5
    for steps, warmup_frac in ((400, 0.1), (160, 0.25)):
        train = spec(schedule="inverse_sqrt", warmup_frac=warmup_frac)
        # Equation 3 with 40 steps of warm-up, without its factor for the width.
        published = [min(k**-0.5, k * 40**-1.5) / peak for k in range(1, steps + 1)]
        factors = [lr_factor(k, steps, train) for k in range(1, steps + 1)]
        assert factors == pytest.approx(published, rel=1e-12)


def test_the_inverse_square_root_without_warm_up_begins_at_its_peak() -> None:
    train = spec(schedule="inverse_sqrt", warmup_frac=0.0)
    assert [lr_factor(k, 9, train) for k in (1, 4, 9)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_warm_up_and_cooldown_that_overlap_still_end_on_the_floor() -> None:
    train = spec(schedule="wsd", warmup_frac=0.5, decay_frac=0.9)
    assert lr_factor(50, 100, train) == 1.0
    assert lr_factor(51, 100, train) < 1.0
    assert lr_factor(100, 100, train) == pytest.approx(0.1, rel=1e-15)


@given(
    steps=st.integers(1, 300),
    shape=st.sampled_from(SHAPES),
    warmup_frac=st.floats(0, 0.99),
    decay_frac=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_the_rate_rises_to_the_peak_and_never_again(
    steps: int, shape: tuple[str, str], warmup_frac: float, decay_frac: float, floor: float
) -> None:
    train = spec(
        schedule=shape[0],
        decay_shape=shape[1],
        warmup_frac=warmup_frac,
        decay_frac=decay_frac,
        min_lr_frac=floor,
    )
    factors = [lr_factor(step, steps, train) for step in range(1, steps + 1)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    # Rounding of 1 - (1 - floor) x may lift a step by the last bit.
    assert all(b <= a + 1e-15 for a, b in zip(factors[top:], factors[top + 1 :], strict=False))
    assert all(0.0 <= f <= 1.0 + 1e-15 for f in factors)
