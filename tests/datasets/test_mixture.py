"""Mixtures: shares as asked at any length, each source in its own order, sums that do not pass."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekit.datasets import mixture
from scalekit.datasets._arrays import ArrayRows
from scalekit.datasets._turns import CYCLE, MixedOrder, cycle_counts, place_of
from scalekit.datasets.base import Order
from scalekit.datasets.mixture import read_weights, write_weights
from scalekit.errors import InputError

CONTEXT = 10


def write(root: Path, name: str, first: int, *, n_train: int = 2001, n_val: int = 501) -> None:
    folder = root / name
    folder.mkdir()
    np.arange(first, first + n_train, dtype=np.uint16).tofile(folder / "train.bin")
    np.arange(first, first + n_val, dtype=np.uint16).tofile(folder / "val.bin")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "code", 10_000)
    write(tmp_path, "web", 20_000)
    write(tmp_path, "books", 30_000, n_train=401)
    return tmp_path


def config(root: Path, weights: str | None, **changes: Any) -> dict[str, Any]:
    plain = {"source": "mixture", "path": str(root), "weights": weights, "val_tokens": 300}
    return {**plain, "unique_tokens": None, "max_epochs": 1.0, **changes}


def rows_of(n_rows: int) -> ArrayRows:
    return ArrayRows([np.arange(n_rows + 1)], 1)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.integers(1, 1000), min_size=1, max_size=6), batch=st.integers(1, 200))
def test_at_any_step_every_source_has_its_share_within_a_few_rows(
    parts: list[int], batch: int
) -> None:
    weights = {f"s{n}": part / sum(parts) for n, part in enumerate(parts)}
    order = MixedOrder([rows_of(50)] * len(parts), weights, seed=0)
    for step in (1, 2, 10, 1000):
        seen = order.seen(step * batch)
        for name, weight in weights.items():
            # A row for each source that its turn may wait for, and the weights' own rounding.
            slack = len(parts) + step * batch * 2 / CYCLE
            assert abs(seen.sources[name].rows - weight * step * batch) <= slack


def test_a_cycle_has_exactly_its_weights_and_the_next_one_goes_on() -> None:
    order = MixedOrder([rows_of(7), rows_of(5)], {"a": 0.75, "b": 0.25}, seed=1)
    seen = order.seen(2 * CYCLE)
    assert seen.sources["a"].rows == 2 * 3 * CYCLE // 4
    assert seen.sources["b"].epochs == pytest.approx(2 * CYCLE / 4 / 5, rel=1e-12)
    across = [order.rows(CYCLE // 8 + k, 8) for k in range(-1, 3)]
    assert Counter((np.concatenate(across) >= 7).tolist()) == {False: 24, True: 8}


def test_every_source_takes_each_of_its_rows_once_an_epoch() -> None:
    order = MixedOrder([rows_of(12), rows_of(12)], {"a": 2 / 3, "b": 1 / 3}, seed=0)
    taken = np.concatenate([order.rows(step, 6) for step in range(1, 7)])
    assert Counter(taken[taken < 12].tolist()) == dict.fromkeys(range(12), 2)
    assert sorted(taken[taken >= 12].tolist()) == list(range(12, 24))


def test_a_source_keeps_its_order_when_another_is_added() -> None:
    rows = [rows_of(40)] * 3
    two = MixedOrder(rows[:2], {"a": 0.5, "b": 0.5}, seed=4)
    three = MixedOrder(rows, {"a": 0.25, "b": 0.25, "c": 0.5}, seed=4)
    a_of_two = np.concatenate([two.rows(s, 8) for s in range(1, 9)])
    a_of_three = np.concatenate([three.rows(s, 8) for s in range(1, 17)])
    assert a_of_two[a_of_two < 40].tolist() == a_of_three[a_of_three < 40].tolist()
    # And two sources of one size are not read in step with each other.
    b_of_two = a_of_two[a_of_two >= 40] - 40
    assert a_of_two[a_of_two < 40].tolist() != b_of_two.tolist()


def test_the_rows_of_a_mixture_are_those_of_its_sources(root: Path) -> None:
    corpus = mixture.open_corpus(config(root, "web=0.5, code=0.5"), CONTEXT, 0)
    taken = corpus.train.take(corpus.ordered(0).rows(1, 40))
    first = taken[:, 0] // 10_000
    assert Counter(first.tolist()) == {1: 20, 2: 20}
    assert (np.diff(taken, axis=1) == 1).all()
    held = corpus.val.take(np.arange(60))[:, 0]
    assert [share.n_val_rows for share in corpus.shares] == [30, 30]
    assert (held[:30] // 10_000 == 1).all()
    assert (held[30:] // 10_000 == 2).all()


def test_a_source_has_the_same_held_out_rows_in_every_mixture(root: Path) -> None:
    one = mixture.open_corpus(config(root, "code=1"), CONTEXT, 0)
    two = mixture.open_corpus(config(root, "books=0.4, code=0.2, web=0.4"), CONTEXT, 0)
    every = np.arange(30)
    assert np.array_equal(one.val.take(every), two.val.take(every + 30))


def test_the_supply_ends_when_the_first_source_was_seen_once(root: Path) -> None:
    data = config(root, "books=0.5, web=0.5")
    assert mixture.facts(data)["train_tokens"] == 802
    assert mixture.n_rows(data, CONTEXT) == (80, 50)
    corpus = mixture.open_corpus(config(root, "books=0.5, web=0.5"), CONTEXT, 0)
    seen = corpus.ordered(0).seen(80)
    assert seen.sources["books"].epochs == 1.0
    assert seen.sources["web"].epochs == 0.2


def test_unique_tokens_are_shared_out_so_that_all_sources_repeat_equally(root: Path) -> None:
    data = config(root, "web=0.75, code=0.25", unique_tokens=400)
    assert mixture.facts(data)["train_tokens"] == 400
    seen = mixture.open_corpus(data, CONTEXT, 0).ordered(0).seen(120)
    assert seen.unique == 40
    assert {one.epochs for one in seen.sources.values()} == {3.0}


def test_more_unique_tokens_than_there_are_name_the_source_and_how_many_may_be_asked(
    root: Path,
) -> None:
    said = r"3,000 asked, 1,500 of them of 'books', .* has 401; ask for 802 or fewer"
    with pytest.raises(InputError, match=said):
        mixture.facts(config(root, "web=0.5, books=0.5", unique_tokens=3000))
    known = mixture.facts(config(root, "web=0.5, books=0.5", unique_tokens=802))
    assert known["train_tokens"] == 802


@pytest.mark.parametrize(
    "weights", ["web=0.7, code=0.3", "web=0.9, code=0.1", "web=0.666667, code=0.333333"]
)
def test_an_epoch_of_unique_tokens_is_allowed_and_repeats_no_row(root: Path, weights: str) -> None:
    for unique in (330, 410, 500, 1010):
        data = config(root, weights, unique_tokens=unique)
        assert mixture.n_rows(data, CONTEXT)[0] == unique // CONTEXT
        corpus = mixture.open_corpus(data, CONTEXT, seed=0)
        seen = corpus.ordered(0).seen(unique // CONTEXT)
        assert seen.unique == seen.rows == corpus.train.n_rows
        assert [one.epochs for one in seen.sources.values()] == [1.0, 1.0]


def test_a_source_without_a_row_is_refused_where_rows_are_counted(root: Path) -> None:
    """Planning counts rows; only training opens the sources."""
    few, enough = (config(root, "web=0.9, code=0.1", unique_tokens=n * CONTEXT) for n in (4, 5))
    with pytest.raises(InputError, match=r"40 are 4 rows of 10 .* 'code' has none; ask for 50"):
        mixture.n_rows(few, CONTEXT)
    assert mixture.n_rows(enough, CONTEXT)[0] == 5
    assert mixture.open_corpus(enough, CONTEXT, 0).train.n_rows == 5
    write(root, "note", 40_000, n_train=CONTEXT)
    with pytest.raises(InputError, match="'note' has not one row of 10 training tokens; leave"):
        mixture.n_rows(config(root, "web=0.9, note=0.1"), CONTEXT)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    n_rows=st.lists(st.integers(1, 300_000), min_size=5, max_size=5),
)
def test_planning_finds_the_first_row_that_repeats_as_the_order_takes_it(
    parts: list[int], n_rows: list[int]
) -> None:
    weights = {f"s{n}": part / sum(parts) for n, part in enumerate(parts)}
    order = MixedOrder([rows_of(n) for n in n_rows[: len(parts)]], weights, seed=0)
    counts = cycle_counts(list(weights.values()))
    first = min(place_of(counts, i, n_rows[i]) for i in range(len(parts)))
    assert order.seen(first).unique == first
    assert order.seen(first + 1).unique == first


def test_every_weight_that_is_allowed_gets_a_row() -> None:
    small = 0.6 / CYCLE
    with pytest.raises(InputError, match="less than one row"):
        read_weights(f"a={small:.9f}, b={small:.9f}, c={1 - 2 * small:.9f}")
    weights = read_weights(f"a={1 / CYCLE!r}, b={1 / CYCLE!r}, c={1 - 2 / CYCLE!r}")
    seen = MixedOrder([rows_of(5)] * 3, weights, seed=0).seen(CYCLE)
    assert [one.rows for one in seen.sources.values()] == [1, 1, CYCLE - 2]


def test_equal_mixtures_are_written_equally() -> None:
    one, two = read_weights("web=.70 code=30%"), read_weights("code=0.3,  web=0.7")
    assert write_weights(one) == write_weights(two) == "code=0.3, web=0.7"
    assert read_weights(write_weights(one)) == one


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (None, r"data\.weights: missing"),
        ("", r"data\.weights: missing"),
        ("web=0.7, code=0.2", r"sum to 0\.9, not 1; .* write web=0\.777778, code=0\.222222"),
        ("web=7, code=3", r"sum to 10, not 1; .* write web=0\.7, code=0\.3"),
        ("web", "'web' is no NAME=WEIGHT"),
        ("web=0.5, web=0.5", "'web' has two weights"),
        ("web=most, code=0.5", "'most' of 'web' is no number"),
        ("web=1, code=0", "0 of 'code' is less than one row"),
        ("web=1.5, code=-0.5", "-0.5 of 'code' is less than one row"),
        ("web=1, code=1e-9", "1e-09 of 'code' is less than one row"),
        ("web=0.5, kode=0.5", r"'kode' is no folder in .*; did you mean 'code'\?"),
        ("web=0.5, ./web=0.5", r"'web' and './web' are one folder, .*; name it once"),
        (
            "web=0.5, code/../web=0.5",
            "'web' and 'code/../web' are one folder|'code/../web' and 'web'",
        ),
    ],
)
def test_weights_that_are_no_mixture_are_refused(
    weights: str | None, says: str, root: Path
) -> None:
    with pytest.raises(InputError, match=says):
        mixture.facts(config(root, weights))


def test_sources_of_different_tokenizers_are_refused(root: Path, tmp_path: Path) -> None:
    from scalekit.documents.base import Ask
    from scalekit.prepare.recipe import Recipe, find_sources
    from scalekit.prepare.run import prepare

    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"text {n}" for n in range(50)))
    for name, end in (("one", None), ("two", "none")):
        recipe = Recipe("bytes", end, 0.5, 1000, Ask(unit="blank"))
        prepare(recipe, find_sources([str(texts)], None, is_held_out=False), root / name, workers=1)
    facts = mixture.facts(config(root, "one=0.5, two=0.5", val_tokens=10))
    assert (facts["vocab"], facts["tokenizer"]) == (256, "bytes")
    path = root / "two" / "manifest.json"
    path.write_text(path.read_text().replace('"identity": "bytes"', '"identity": "tiktoken:1"'))
    with pytest.raises(InputError, match=r"differ in their tokenizer, one: bytes, two: tiktoken"):
        mixture.facts(config(root, "one=0.5, two=0.5", val_tokens=10))


def test_one_source_alone_is_read_like_any_other_split() -> None:
    order = MixedOrder([rows_of(9)], {"a": 1.0}, seed=2)
    salted = Order(9, 2, (zlib.crc32(b"a"),))
    for step in range(1, 6):
        assert np.array_equal(order.rows(step, 4), salted.rows(step, 4))
