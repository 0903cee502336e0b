"""Errors that last along curves: the dense covariance, the memory that was put in, doubts."""

import numpy as np
import pytest

from scalekit.fit import serial
from scalekit.fit.serial import measure


def curves(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Curve and step of each row."""
    return np.repeat(np.arange(count), length), np.tile(10.0 * np.arange(1, length + 1), count)


def lasting(curve: np.ndarray, time: float, share: float, seed: int) -> np.ndarray:
    """Errors of unit variance of which `share` decays over `time` lines."""
    rng = np.random.default_rng(seed)
    new, part = rng.standard_normal((2, len(curve)))
    keep = np.exp(-1.0 / time)
    for k in range(1, len(curve)):
        if curve[k] == curve[k - 1]:
            part[k] = keep * part[k - 1] + np.sqrt(1 - keep**2) * part[k]
    return np.sqrt(share) * part + np.sqrt(1 - share) * new


def dense(gaps: np.ndarray, time: float, share: float) -> np.ndarray:
    """The correlation of one curve's errors, written out."""
    place = np.cumsum(gaps)
    return share * np.exp(-np.abs(place[:, None] - place) / time) + (1 - share) * np.eye(len(gaps))


def test_the_recursions_are_the_dense_matrices() -> None:
    rng = np.random.default_rng(0)
    gaps = np.array([[0.0, 1.0, 2.0, 0.5, 1.0], [0.0, 1.0, 1.0, np.nan, np.nan]])
    x, y = rng.standard_normal((2, 5, 2)), rng.standard_normal((2, 5))
    time, share = np.array([0.7, 6.0, 3.0]), np.array([1.0, 0.6, 0.0])
    logdet, gram = serial._whitened(y, x, gaps, time, share)
    meat, sums, squares = serial._covered(x, gaps, time, share)
    for g in range(3):
        parts = [(dense(gap[: n], time[g], share[g]), k, n) for k, (gap, n) in
                 enumerate(zip(gaps, (5, 3), strict=True))]  # fmt: skip
        both = [np.column_stack([x[k, :n], y[k, :n]]) for _, k, n in parts]
        solved = sum(b.T @ np.linalg.solve(R, b) for b, (R, _, _) in zip(both, parts, strict=True))
        assert gram[g] == pytest.approx(solved, rel=1e-10)
        assert logdet[g] == pytest.approx(sum(np.linalg.slogdet(R)[1] for R, _, _ in parts))
        assert meat[g] == pytest.approx(sum(x[k, :n].T @ R @ x[k, :n] for R, k, n in parts))
        assert sums[g] == pytest.approx(sum(R.sum() for R, _, _ in parts))
        assert squares[g] == pytest.approx(sum((R**2).sum() for R, _, _ in parts))


@pytest.mark.parametrize(("time", "share"), [(5.0, 1.0), (20.0, 1.0), (10.0, 0.5)])
def test_the_memory_that_was_put_in_is_found(time: float, share: float) -> None:
    curve, step = curves(20, 120)
    columns = np.stack([np.ones(len(curve)), step])
    found = measure(lasting(curve, time, share, seed=1), columns, curve, step)
    assert found.lasts == pytest.approx(time, rel=0.5)
    assert found.share == pytest.approx(share, abs=0.2)
    # Of a mean over lines that forget after `time`, about 2 time lines are worth one.
    worth = 20 * 120 / (1 + share * 2 * time)
    assert found.effective == pytest.approx(worth, rel=0.5)
    assert found.dof > found.effective


def test_errors_without_memory_are_worth_their_number_and_the_plain_covariance() -> None:
    curve, step = curves(3, 80)
    columns = np.stack([np.ones(len(curve)), np.log(step)])
    found = measure(lasting(curve, 1.0, 0.0, seed=2), columns, curve, step)
    assert found.effective > 0.5 * len(curve)
    plain = columns @ columns.T
    assert found.meat[0, 0] == pytest.approx(plain[0, 0], rel=0.5)


def test_long_curves_are_averaged_first_to_the_same_answer(monkeypatch) -> None:
    curve, step = curves(4, 400)
    pulls = lasting(curve, 30.0, 1.0, seed=3)
    columns = np.stack([np.ones(len(curve)), np.log(step)])
    whole = measure(pulls, columns, curve, step)
    monkeypatch.setattr(serial, "_MOST_LINES", 100)
    short = measure(pulls, columns, curve, step)
    # Of variances: standard errors differ by half as much. The grid of times steps by 1.9.
    assert short.meat == pytest.approx(whole.meat, rel=0.4)
    assert short.lasts == pytest.approx(whole.lasts, rel=0.4)
    assert short.effective == pytest.approx(whole.effective, rel=0.4)
