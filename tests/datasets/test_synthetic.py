"""Known entropy: checked by brute force, by a long sample and by the held-out rows themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from scalekit.datasets import synthetic
from scalekit.errors import InputError


def spec(**changes: Any) -> dict[str, Any]:
    base = {"kind": "graphwalk", "symbols": 30, "degree": 8, "decay": 0.75, "seed": 0}
    return {**base, **changes}


def data(**changes: Any) -> dict[str, Any]:
    base = {"source": "synthetic", "unique_tokens": None, "max_epochs": 1.0, "val_tokens": 64000}
    return {**base, "synthetic": spec(), **changes}


def block_entropy(matrix: np.ndarray, first: np.ndarray, length: int) -> float:
    """Enumerate every sequence: H(X_1..X_n), straight from the definition."""
    probabilities = first.copy()
    for _ in range(length - 1):
        last = np.arange(len(probabilities)) % len(matrix)
        probabilities = (probabilities[:, None] * matrix[last]).ravel()
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_rows_are_distributions_that_the_stationary_one_survives(kind: str) -> None:
    matrix = synthetic.transition_matrix(spec(kind=kind))
    stationary = synthetic.stationary(matrix)
    assert matrix.min() >= 0
    # Sums of thirty and a linear solve of size thirty in float64.
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(stationary @ matrix, stationary, atol=1e-12)
    powered = np.linalg.matrix_power(matrix, 4096)[0]
    np.testing.assert_allclose(stationary, powered, atol=1e-10)


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_the_entropy_rate_is_what_enumerating_every_sequence_gives(kind: str) -> None:
    matrix = synthetic.transition_matrix(spec(kind=kind, symbols=6, degree=5))
    first = synthetic.stationary(matrix)
    grown = block_entropy(matrix, first, 6) - block_entropy(matrix, first, 5)
    assert synthetic.entropy_rate(matrix) == pytest.approx(grown, abs=1e-10)


def test_a_uniform_walk_has_the_logarithm_of_its_degree() -> None:
    ring = (np.roll(np.eye(8), 1, axis=1) + np.roll(np.eye(8), -1, axis=1)) / 2
    assert synthetic.entropy_rate(ring) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_a_long_sample_follows_the_transition_matrix(kind: str) -> None:
    matrix = synthetic.transition_matrix(spec(kind=kind, symbols=12, degree=6))
    rows = synthetic.MarkovRows(matrix, 200, (1, 2), None).take(np.arange(5000))
    counts = np.zeros_like(matrix)
    np.add.at(counts, (rows[:, :-1].ravel(), rows[:, 1:].ravel()), 1)
    assert counts[matrix == 0].sum() == 0
    n = counts.sum(axis=1, keepdims=True)
    spread = np.sqrt(np.maximum(matrix * (1 - matrix), 1e-12) / n)
    # 144 entries, five standard errors: one false alarm in ten thousand such tests.
    assert (np.abs(counts / n - matrix) <= 5 * spread + 1e-12).all()


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_every_position_of_a_row_is_drawn_from_the_stationary_distribution(kind: str) -> None:
    matrix = synthetic.transition_matrix(spec(kind=kind, symbols=12, degree=6))
    expected = synthetic.stationary(matrix)
    rows = synthetic.MarkovRows(matrix, 20, (3,), None).take(np.arange(20000))
    for position in (0, 1, 20):
        share = np.bincount(rows[:, position], minlength=12) / len(rows)
        spread = np.sqrt(expected * (1 - expected) / len(rows))
        assert (np.abs(share - expected) <= 5 * spread).all()


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_the_oracle_loss_belongs_to_the_held_out_rows_and_nears_the_entropy(kind: str) -> None:
    config = data(synthetic=spec(kind=kind, symbols=64, degree=10))
    corpus = synthetic.open_corpus(config, 64, 0)
    matrix = synthetic.transition_matrix(config["synthetic"])
    rows = corpus.val.take(np.arange(1000))
    losses = [
        -math.log(matrix[row[t], row[t + 1]]) for row in rows.tolist() for t in range(len(row) - 1)
    ]
    assert corpus.facts["oracle_val_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert corpus.facts["val_tokens"] == len(losses)
    by_row = np.reshape(losses, (1000, 64)).mean(axis=1)
    standard_error = by_row.std(ddof=1) / math.sqrt(1000)
    assert abs(np.mean(losses) - corpus.facts["entropy"]) < 4 * standard_error


def test_a_fresh_sample_for_each_seed_of_an_endless_source() -> None:
    one, two = (synthetic.open_corpus(data(), 16, seed).train for seed in (0, 1))
    assert one.n_rows is None
    assert not np.array_equal(one.take(np.arange(50)), two.take(np.arange(50)))


def test_a_bounded_sample_belongs_to_the_source_and_not_to_the_seed() -> None:
    bounded = data(unique_tokens=16 * 3000)
    one, two = (synthetic.open_corpus(bounded, 16, seed).train for seed in (0, 1))
    scattered = np.array([2999, 0, 1500, 1023, 1024])
    assert one.n_rows == 3000
    assert np.array_equal(one.take(scattered), two.take(scattered))


def test_training_and_held_out_rows_are_different_samples() -> None:
    corpus = synthetic.open_corpus(data(), 16, 0)
    train = {row.tobytes() for row in corpus.train.take(np.arange(1000))}
    val = {row.tobytes() for row in corpus.val.take(np.arange(1000))}
    # Rows of 17 symbols with more than a nat each: a chance match is out of reach.
    assert not train & val


def test_another_source_seed_is_another_graph() -> None:
    one, two = (synthetic.transition_matrix(spec(seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one, two)
    assert (
        synthetic.facts(data())["fingerprint"]
        != (synthetic.facts(data(synthetic=spec(seed=1)))["fingerprint"])
    )


def test_the_mean_degree_and_the_zipf_weights_are_those_asked_for() -> None:
    matrix = synthetic.graphwalk(256, 16, seed=0)
    degrees = (matrix > 0).sum(axis=1)
    # Binomial with mean 16: the mean of 256 of them has a standard error of a quarter.
    assert degrees.mean() == pytest.approx(16, abs=1)
    row = np.sort(matrix[0][matrix[0] > 0])[::-1]
    np.testing.assert_allclose(row[0] / row, np.arange(1, len(row) + 1), rtol=1e-12)


def test_the_symbols_of_specbigram_have_falling_frequencies() -> None:
    stationary = synthetic.stationary(synthetic.specbigram(256, 0.75, seed=0))
    assert stationary[:16].sum() > 3 * stationary[-128:].sum()


def test_a_graph_in_pieces_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"data\.synthetic\.degree: 1 leaves"):
        synthetic.graphwalk(256, 1, seed=0)


def test_alias_tables_keep_every_probability() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.random((50, 37)) ** 8
    matrix[rng.random(matrix.shape) < 0.5] = 0.0
    matrix[:, 0] += 1e-3
    matrix /= matrix.sum(axis=1, keepdims=True)
    table = synthetic.AliasTable.of(matrix)
    rebuilt = np.zeros_like(matrix)
    for r in range(50):
        np.add.at(rebuilt[r], np.arange(37), table.keep[r] / 37)
        np.add.at(rebuilt[r], table.other[r], (1 - table.keep[r]) / 37)
    np.testing.assert_allclose(rebuilt, matrix, atol=1e-12)
    assert (rebuilt[matrix == 0] == 0).all()
