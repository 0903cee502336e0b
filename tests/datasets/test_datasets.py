"""The contract of `datasets/`: honest facts, fixed held-out rows, an order that a step decides."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_examples import made

from scalekit import registry
from scalekit.datasets import base
from scalekit.datasets._arrays import ArrayRows, DrawnRows, SpreadRows
from scalekit.datasets.base import Dataset, Order, check_supply
from scalekit.errors import InputError, UsageError

NAMES = registry.names("datasets")
CONTEXT = 16


@pytest.fixture(params=NAMES)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return registry.find("datasets", request.param)


@pytest.fixture
def data(dataset: Dataset, tmp_path: Path) -> dict[str, Any]:
    return resolved(dataset.name, tmp_path)


def write_shards(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rng.integers(50, size=5000, dtype=np.uint16).tofile(folder / "train_0.bin")
    rng.integers(50, size=3001, dtype=np.uint16).tofile(folder / "train_1.bin")
    rng.integers(50, size=4000, dtype=np.uint16).tofile(folder / "val.bin")


def resolved(source: str, folder: Path, **changes: Any) -> dict[str, Any]:
    if source == "shards":
        write_shards(folder, 0)
    if source == "mixture":
        for seed, name in enumerate(("code", "web")):
            write_shards(folder / name, seed)
    synthetic = {"kind": "graphwalk", "symbols": 40, "degree": 12, "decay": 0.75, "seed": 0}
    base = {
        "source": source,
        "tokenizer": "bytes",
        "path": str(folder),
        "weights": "web=0.75, code=0.25" if source == "mixture" else None,
        "fingerprint": None,
        "unique_tokens": None,
        "max_epochs": 1.0,
        "val_tokens": 1600,
        "synthetic": synthetic,
    }
    return {**base, **changes}


def test_rows_are_tokens_of_the_vocabulary_and_one_longer_than_the_context(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    corpus = dataset.open(data, CONTEXT, 0)
    for rows in (corpus.train, corpus.val):
        taken = rows.take(np.array([0, 3, 1]))
        assert taken.shape == (3, CONTEXT + 1)
        assert taken.dtype == np.int64
        assert taken.min() >= 0
        assert taken.max() < (corpus.facts["vocab"] or 50)


def test_what_planning_is_told_is_what_opening_finds(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    planned, found = dataset.facts(data), dataset.open(data, CONTEXT, 0).facts
    for name in ("vocab", "train_tokens", "bytes_per_token", "fingerprint"):
        assert planned[name] == found[name], name
    corpus = dataset.open(data, CONTEXT, 0)
    # Every source of a mixture has as many.
    n_sources = len(corpus.shares) or 1
    assert found["val_tokens"] == n_sources * (data["val_tokens"] // CONTEXT) * CONTEXT


def test_planning_needs_neither_numpy_nor_torch(dataset: Dataset, data: dict[str, Any]) -> None:
    program = (
        "import sys\n"
        "from scalekit import registry\n"
        f"dataset = registry.find('datasets', {dataset.name!r})\n"
        f"dataset.facts({data!r}), dataset.n_rows({data!r}, {CONTEXT})\n"
        "sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_held_out_rows_do_not_depend_on_the_seed(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    every = np.arange(100)
    one, two = (dataset.open(data, CONTEXT, seed).val for seed in (0, 1))
    assert one.n_rows == two.n_rows
    assert one.n_rows is not None
    assert one.n_rows % 100 == 0
    assert np.array_equal(one.take(every), two.take(every))


def test_a_row_is_the_same_however_and_whenever_it_is_asked_for(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    rows = dataset.open(data, CONTEXT, 0).train
    again = dataset.open(data, CONTEXT, 0).train
    indices = np.array([7, 2, 250, 2])
    together = rows.take(indices)
    for i, index in enumerate(indices):
        assert np.array_equal(again.take(np.array([index]))[0], together[i])


def test_unique_tokens_from_everywhere_are_drawn_from_the_whole_split_and_fewer_are_among_more(
    dataset: Dataset, tmp_path: Path
) -> None:
    everything = resolved(dataset.name, tmp_path)
    n_all, _ = dataset.n_rows(everything, CONTEXT)
    if n_all is None:
        return  # its rows are drawn one by one, and the first are like all

    def rows(**changes: Any) -> list[bytes]:
        train = dataset.open({**everything, **changes}, CONTEXT, 0).train
        assert train.n_rows is not None
        return [row.tobytes() for row in train.take(np.arange(train.n_rows))]

    few, more = 40 * CONTEXT, 80 * CONTEXT
    drawn = rows(unique_tokens=few, unique_from="everywhere")
    assert drawn == rows(unique_tokens=few, unique_from="everywhere")
    assert len(drawn) == 40
    assert set(drawn) < set(rows(unique_tokens=more, unique_from="everywhere")) < set(rows())
    assert not set(drawn) <= set(rows(unique_tokens=few))


def test_drawn_rows_lie_evenly_over_all_of_them() -> None:
    n_rows, n_drawn = 100_000, 10_000
    drawn = DrawnRows(ArrayRows([np.arange(n_rows + 1)], context=1), n_drawn)
    places = drawn.take(np.arange(n_drawn))[:, 0]
    assert len(set(places.tolist())) == n_drawn
    # 100 cells of 100 rows each: chi squared has mean 99 and standard deviation 14, and less so
    # for a tenth of all.
    cells = np.histogram(places, 100, (0, n_rows))[0]
    assert ((cells - 100) ** 2 / 100).sum() == pytest.approx(99, abs=5 * 14)


def test_unique_tokens_limits_what_training_sees(dataset: Dataset, tmp_path: Path) -> None:
    data = resolved(dataset.name, tmp_path, unique_tokens=40 * CONTEXT)
    corpus = dataset.open(data, CONTEXT, 0)
    assert corpus.train.n_rows == 40
    assert corpus.facts["train_tokens"] == dataset.facts(data)["train_tokens"] == 40 * CONTEXT


def test_less_than_a_row_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    for key in ("unique_tokens", "val_tokens"):
        data = resolved(dataset.name, tmp_path, **{key: CONTEXT - 1})
        with pytest.raises(InputError, match=f"data.{key}"):
            dataset.open(data, CONTEXT, 0)


def test_a_source_opens_its_own_tokenizer_or_says_that_it_knows_none(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    coder = dataset.coder(data)
    if coder is not None:
        assert coder.identity == data["tokenizer"] == "bytes"
        assert coder.vocab == dataset.facts(data)["vocab"]
    # Bytes are only the default of the setting: other tokens are not taken for text.
    assert (coder is None) == (dataset.name != "stdlib")


@pytest.mark.parametrize("source", ["shards", "mixture"])
def test_shards_without_a_manifest_have_the_tokenizer_that_is_named(
    source: str, tmp_path: Path
) -> None:
    asked = resolved(source, tmp_path, tokenizer=made("huggingface", tmp_path / "tokenizer"))
    coder = registry.find("datasets", source).coder(asked)
    assert coder.identity.startswith("huggingface:")
    with pytest.raises(UsageError, match="'gpt2': unknown"):
        registry.find("datasets", source).coder({**asked, "tokenizer": "gpt2"})


@pytest.mark.parametrize("source", ["stdlib", "shards", "mixture"])
def test_more_tokens_than_there_are_is_refused_by_name(source: str, tmp_path: Path) -> None:
    dataset = registry.find("datasets", source)
    for key in ("unique_tokens", "val_tokens"):
        with pytest.raises(InputError, match=rf"data.{key}: \d+,\d{{3}},000,000"):
            dataset.open(resolved(source, tmp_path, **{key: 10**10}), CONTEXT, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_the_order_of_rows_does_not_depend_on_who_takes_them(
    dataset: Dataset, data: dict[str, Any], workers: int
) -> None:
    """Each of some processes takes its slice of every batch and the batches it is asked for."""
    corpus = dataset.open(data, CONTEXT, 0)
    whole = [corpus.ordered(5).rows(step, 12) for step in range(1, 80)]
    shared = [dataset.open(data, CONTEXT, 0).ordered(5) for _ in range(workers)]
    for step in range(80 - 1, 0, -1):
        parts = [
            shared[w].rows(step, 12)[w * 12 // workers : (w + 1) * 12 // workers]
            for w in range(workers)
        ]
        assert np.array_equal(np.concatenate(parts), whole[step - 1])


def test_what_was_seen_is_what_was_taken(dataset: Dataset, data: dict[str, Any]) -> None:
    corpus = dataset.open(data, CONTEXT, 0)
    order = corpus.ordered(3)
    taken: list[int] = []
    for step in range(1, 120):
        taken += order.rows(step, 7).tolist()
        seen = order.seen(7 * step)
        assert seen.rows == len(taken)
        assert seen.unique == len(set(taken))
        assert sum(one.rows for one in seen.sources.values()) == (seen.rows if seen.sources else 0)
    if corpus.train.n_rows is None:
        assert order.seen(1000).epochs is None
    else:
        assert order.seen(corpus.train.n_rows * 3).epochs == pytest.approx(3.0, rel=1e-12)


def test_as_many_rows_as_planning_counts_are_different_and_the_next_is_not(
    dataset: Dataset, tmp_path: Path
) -> None:
    # More than there is never asked, and what is left behind the last row of a file is no row.
    for unique in (None, 40 * CONTEXT, 63 * CONTEXT + 15, 8001 if dataset.name == "shards" else 9):
        data = resolved(dataset.name, tmp_path, unique_tokens=unique)
        n_rows, _ = dataset.n_rows(data, CONTEXT)
        if not n_rows:
            assert (dataset.name, unique) == ("synthetic", None) or unique == 9
            continue
        order = dataset.open(data, CONTEXT, 0).ordered(3)
        for rows, repeats in ((n_rows, False), (n_rows + 1, True)):
            seen = order.seen(rows)
            assert (seen.unique < seen.rows) == repeats, (unique, rows)


def test_as_many_held_out_rows_as_planning_counts_can_be_asked_for(
    dataset: Dataset, data: dict[str, Any]
) -> None:
    _, n_rows = dataset.n_rows(data, CONTEXT)
    if n_rows is None:
        return
    every = dataset.open({**data, "val_tokens": n_rows * CONTEXT}, CONTEXT, 0)
    assert every.val.n_rows == n_rows * (len(every.shares) or 1)
    with pytest.raises(InputError, match=r"data\.val_tokens"):
        dataset.open({**data, "val_tokens": (n_rows + 1) * CONTEXT}, CONTEXT, 0)


def test_an_epoch_takes_every_row_once_and_the_next_one_in_another_order() -> None:
    order = Order(10, seed=3)
    taken = np.concatenate([order.rows(step, 4) for step in range(1, 6)])
    assert Counter(taken[:10].tolist()) == Counter(range(10))
    assert Counter(taken[10:].tolist()) == Counter(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert taken.tolist() != np.concatenate([Order(10, 4).rows(s, 4) for s in range(1, 6)]).tolist()


def test_a_step_takes_the_same_rows_whether_or_not_earlier_steps_were_asked_for() -> None:
    walked = Order(7, seed=0)
    for step in range(1, 9):
        rows = walked.rows(step, 5)
        assert np.array_equal(Order(7, seed=0).rows(step, 5), rows)


def test_a_batch_larger_than_the_data_spans_epochs_exactly() -> None:
    assert Counter(Order(3, seed=0).rows(1, 9).tolist()) == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("n_rows", [1, 2, 7, 64, 65, 1000, 4097])
def test_an_order_too_long_for_a_list_takes_every_row_once_an_epoch_too(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SHUFFLED_AT_MOST", 0)
    taken = Order(n_rows, seed=3).rows(1, 2 * n_rows)
    assert Counter(taken.tolist()) == Counter(dict.fromkeys(range(n_rows), 2))
    if n_rows > 7:
        assert taken[:n_rows].tolist() != taken[n_rows:].tolist()


def test_an_order_too_long_for_a_list_is_drawn_from_all_rows_and_by_its_seed() -> None:
    n_rows, n_taken = 10**9 + 7, 100_000
    taken = Order(n_rows, seed=0).rows(1, n_taken)
    assert len(np.unique(taken)) == n_taken
    # 1,000 cells of 100 rows each: chi squared has mean 999 and standard deviation 45.
    cells = np.histogram(taken, 1000, (0, n_rows))[0]
    assert ((cells - 100) ** 2 / 100).sum() == pytest.approx(999, abs=5 * 45)
    # Of independent draws a correlation is within 5 / sqrt(n) but once in two million times.
    for other in (np.arange(n_taken), np.roll(taken, 1), Order(n_rows, seed=1).rows(1, n_taken)):
        assert abs(np.corrcoef(taken, other)[0, 1]) < 5 / n_taken**0.5


def test_an_endless_source_is_read_forward_and_never_twice() -> None:
    order = Order(None, seed=9)
    taken = np.concatenate([order.rows(step, 4) for step in (1, 2, 3)])
    assert taken.tolist() == list(range(12))


def test_rows_lie_side_by_side_and_none_crosses_into_the_next_array() -> None:
    arrays = [np.arange(0, 9), np.arange(100, 103), np.arange(200, 213)]
    rows = ArrayRows(arrays, context=4)
    assert rows.n_rows == 5
    expected = [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    expected += [[200 + k, *range(201 + k, 205 + k)] for k in (0, 4, 8)]
    assert rows.take(np.arange(5)).tolist() == expected


def test_held_out_rows_are_spread_over_the_whole_split() -> None:
    spread = SpreadRows(ArrayRows([np.arange(101)], context=10), 4)
    assert spread.take(np.arange(4))[:, 0].tolist() == [0, 20, 50, 70]


@pytest.mark.parametrize(
    ("tokens", "max_epochs", "refused"),
    [(100, 1.0, False), (101, 1.0, True), (150, 1.5, False), (151, 1.5, True)],
)
def test_repetition_has_to_be_asked_for_by_name(
    tokens: int, max_epochs: float, refused: bool
) -> None:
    data = {"max_epochs": max_epochs, "source": "x"}
    check_supply(tokens, None, data)
    if refused:
        with pytest.raises(InputError, match=r"data\.max_epochs"):
            check_supply(tokens, 100, data)
    else:
        check_supply(tokens, 100, data)
