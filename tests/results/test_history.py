"""Which checkpoint stands for a run, and that smoothing is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import InputError, UsageError
from scalekit.results.history import At, Chosen, choose, parse_at


def words(cells: list[str]) -> np.ndarray:
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column


NAN = float("nan")
CURVES = {
    "run": words(["a", "a", "a", "a", "b", "b", "b"]),
    "step": np.array([0.0, 10, 20, 25, 0, 10, 20]),
    "tokens": np.array([0.0, 100, 200, 250, 0, 200, 400]),
    "loss": np.array([5.0, 3.0, 4.0, NAN, 6.0, 5.0, 4.5]),
}


def chosen(at: str, smooth: int = 1, columns=CURVES) -> Chosen:
    return choose(columns, parse_at(at), smooth, "logs")


@pytest.mark.parametrize(
    ("at", "steps", "losses"),
    [
        ("final", [20, 20], [4.0, 4.5]),
        ("best", [10, 20], [3.0, 4.5]),
        ("every", [0, 10, 20, 0, 10, 20], [5.0, 3.0, 4.0, 6.0, 5.0, 4.5]),
        ("step=10", [10, 10], [3.0, 5.0]),
        ("step=15", [10, 10], [3.0, 5.0]),
        ("tokens=200", [20, 10], [4.0, 5.0]),
        ("step=0", [0, 0], [5.0, 6.0]),
        ("curve", [0, 10, 20, 25, 0, 10, 20], [5.0, 3.0, 4.0, NAN, 6.0, 5.0, 4.5]),
    ],
)
def test_the_asked_checkpoints_are_taken(at: str, steps: list, losses: list) -> None:
    taken = chosen(at).columns
    assert taken["step"].tolist() == steps
    np.testing.assert_array_equal(taken["loss"], losses)


def test_curves_keep_their_runs_names_and_lines_without_a_loss() -> None:
    told = chosen("curve")
    assert told.columns["run"].tolist() == CURVES["run"].tolist()
    assert told.assumed[0].startswith("all 7 lines of 2 runs are kept, 6 with a loss")


def test_another_response_takes_the_place_of_the_loss() -> None:
    columns = {**CURVES, "accuracy": np.array([NAN, 0.5, NAN, NAN, 0.25, 0.75, NAN])}
    taken = choose(columns, parse_at("final"), 1, "logs", "accuracy").columns
    assert taken["accuracy"].tolist() == [0.5, 0.75]
    assert taken["loss"].tolist() == [3.0, 5.0]


def test_a_run_that_did_not_get_that_far_stays_without_a_loss_and_is_told() -> None:
    told = chosen("tokens=300")
    assert told.columns["run"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(told.columns["loss"], [NAN, 5.0])
    assert told.notes == ["logs: 1 of 2 runs did not get that far: a"]


def test_a_run_without_any_loss_stays_and_is_told() -> None:
    columns = {**CURVES, "loss": np.where(CURVES["run"] == "a", NAN, CURVES["loss"])}
    told = chosen("final", columns=columns)
    assert np.isnan(told.columns["loss"][0])
    assert told.notes == ["logs: 1 of 2 runs have no loss: a"]


def test_what_was_done_is_said() -> None:
    assert chosen("final").assumed == [
        "the last checkpoint with a loss stands for each run, at step 20; logs go on for up to 5 "
        "steps without another; no smoothing"
    ]
    assert chosen("best", 2).assumed == [
        "the checkpoint with the lowest loss stands for each run, at step 20; each loss is the "
        "mean of the last 2"
    ]
    assert "lies below what they measure" in chosen("best").notes[0]
    assert "checkpoints of one run are not independent" in chosen("every").notes[0]


def test_smoothing_is_the_mean_of_the_last_losses_and_is_flagged() -> None:
    taken = chosen("every", 2).columns
    np.testing.assert_allclose(taken["loss"], [5, 4, 3.5, 6, 5.5, 4.75], rtol=1e-15)
    assert taken["flags"].tolist() == ["at_every smoothed_2"] * 6
    assert chosen("final").columns["flags"].tolist() == ["", ""]


def test_a_spike_before_the_window_does_not_touch_the_mean() -> None:
    loss = np.array([3.0, 1e30, 3.0, 4.0])
    columns = {"run": words(["a"] * 4), "step": np.arange(4.0), "loss": loss}
    assert chosen("final", 2, columns).columns["loss"].tolist() == [3.5]


def test_checkpoints_as_rows_have_names_of_their_own_and_keep_the_runs() -> None:
    taken = chosen("every").columns
    assert taken["run"].tolist()[:3] == ["a@0", "a@10", "a@20"]
    assert taken["trunk"].tolist() == ["a", "a", "a", "b", "b", "b"]


def test_a_step_with_two_losses_is_refused() -> None:
    columns = {**CURVES, "run": words(["a"] * 7)}
    with pytest.raises(InputError, match=r"run 'a' has two losses at step 0; .*--map run="):
        chosen("final", columns=columns)


def test_a_loss_without_a_step_is_refused_since_nobody_knows_its_place() -> None:
    columns = {**CURVES, "step": np.array([0.0, NAN, 20, 25, 0, 10, 20])}
    with pytest.raises(InputError, match="has a loss without a step"):
        chosen("final", columns=columns)


def test_choosing_by_a_column_that_is_not_there_is_refused() -> None:
    columns = {name: column for name, column in CURVES.items() if name != "tokens"}
    with pytest.raises(InputError, match="--map tokens=COLUMN"):
        chosen("tokens=1e9", columns=columns)


@pytest.mark.parametrize("text", ["", "last", "step", "step=", "step=x", "final=1", "loss=3"])
def test_a_checkpoint_that_does_not_exist_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--at"):
        parse_at(text)


def test_numbers_of_a_checkpoint_have_suffixes() -> None:
    assert parse_at("tokens=1B") == At("tokens", 1e9)


@pytest.mark.parametrize("at", ["final", "best", "step=10", "tokens=200"])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_lines_changes_nothing(seed: int, at: str) -> None:
    order = np.random.default_rng(seed).permutation(7)
    plain, mixed = chosen(at, 2), chosen(at, 2, {k: v[order] for k, v in CURVES.items()})
    by_run = {run: i for i, run in enumerate(mixed.columns["run"].tolist())}
    rows = [by_run[run] for run in plain.columns["run"].tolist()]
    for name in ("step", "tokens", "loss"):
        np.testing.assert_array_equal(plain.columns[name], mixed.columns[name][rows])


@given(
    st.lists(st.floats(0.5, 20), min_size=1, max_size=40),
    st.integers(1, 50),
)
def test_a_smoothed_final_loss_is_a_mean_of_the_last(losses: list[float], smooth: int) -> None:
    columns = {
        "run": words(["a"] * len(losses)),
        "step": np.arange(len(losses), dtype=float),
        "loss": np.array(losses),
    }
    taken = choose(columns, At("final"), smooth, "x").columns
    # Sums of up to 40 numbers below 20 err by 40 roundings.
    assert taken["loss"][0] == pytest.approx(np.mean(losses[-smooth:]), rel=1e-12)
