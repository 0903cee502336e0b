"""What every importer must keep. A new one is tested by existing, and by its line in EXAMPLES."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from log_examples import EXAMPLES

from scalekit import registry
from scalekit.errors import InputError
from scalekit.importers._cells import as_column
from scalekit.importers.base import HEAD_BYTES, Imported, Importer, Source

IMPORTERS: dict[str, Importer] = {
    name: registry.find("importers", name) for name in registry.names("importers")
}
ALL = pytest.mark.parametrize("name", IMPORTERS)
EACH = pytest.mark.parametrize("example", EXAMPLES)


def read_or_refused(name: str, path: Path) -> Imported | None:
    """Read a file as one run; None where it is refused with its place, as a user is told it."""
    try:
        return IMPORTERS[name].read([Source(path, "a run")], ())
    except InputError as error:
        message = str(error)
    if str(path.parent) not in message:
        pytest.fail(f"names no file: {message}")
    return None


def n_rows_of(read: Imported) -> int:
    (size,) = {len(as_column(column)) for column in read.columns.values()}
    return size


def written(example: str, folder: Path) -> tuple[Importer, Path, int]:
    if example == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    write, n_rows = EXAMPLES[example]
    return IMPORTERS[example.split(maxsplit=1)[0]], write(folder), n_rows


@ALL
def test_an_importer_is_called_as_its_file_and_has_an_example(name: str) -> None:
    assert IMPORTERS[name].name == name
    assert IMPORTERS[name].about
    assert name in {example.split(maxsplit=1)[0] for example in EXAMPLES}


@EACH
def test_an_example_is_recognised_by_its_importer_and_by_no_other_log(
    example: str, tmp_path: Path
) -> None:
    importer, path, _ = written(example, tmp_path)
    found = [one for one in IMPORTERS.values() if one.recognise(Source(path))]
    logs = [one.name for one in found if not one.is_general]
    assert logs == ([] if importer.is_general else [importer.name])
    assert importer in found


@EACH
def test_an_example_is_read_to_columns_of_one_length(example: str, tmp_path: Path) -> None:
    importer, path, n_rows = written(example, tmp_path)
    read = importer.read([Source(path, "a run")], ())
    assert {len(column) for column in read.columns.values()} == {n_rows}
    for name, column in read.columns.items():
        assert as_column(column).shape == (n_rows,), name
    if read.is_history:
        assert "step" in read.columns


@EACH
def test_what_an_importer_says_is_of_columns_that_it_gives(example: str, tmp_path: Path) -> None:
    importer, path, _ = written(example, tmp_path)
    read = importer.read([Source(path, "a run")], ())
    assert set(read.loss_units) <= set(read.columns)
    assert set(read.about) <= set(read.columns)
    assert not read.flops_kind or "flops" in read.columns


@ALL
def test_an_importer_recognises_nothing_in_what_is_not_its_own(name: str, tmp_path: Path) -> None:
    for number, data in enumerate([b"", b"hello\n", bytes(range(256)) * 50, b"\x1f\x8bnot gzip"]):
        path = tmp_path / f"file{number}"
        path.write_bytes(data)
        assert not IMPORTERS[name].recognise(Source(path))


@EACH
def test_recognising_reads_no_more_than_the_head(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer, path, _ = written(example, tmp_path)
    source = Source(path)
    assert len(source.head) <= HEAD_BYTES

    def refuse(*_: object) -> None:
        raise AssertionError("opened again")

    monkeypatch.setattr(Source, "open", refuse)
    assert importer.recognise(source)


@EACH
def test_a_gzipped_example_is_read_as_the_plain_one(example: str, tmp_path: Path) -> None:
    importer, path, n_rows = written(example, tmp_path)
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert importer.recognise(Source(packed))
    read = importer.read([Source(packed, "a run")], ())
    assert {len(column) for column in read.columns.values()} == {n_rows}


@EACH
def test_an_example_cut_at_any_byte_is_read_or_refused(example: str, tmp_path: Path) -> None:
    importer, path, n_rows = written(example, tmp_path)
    data = path.read_bytes()
    for cut in range(0, len(data), max(1, len(data) // 97)):
        path.write_bytes(data[:cut])
        read = read_or_refused(importer.name, path)
        assert read is None or n_rows_of(read) <= n_rows


LINES = sorted(
    {
        line
        for write, _ in (EXAMPLES[name] for name in ("nanogpt", "nanochat", "csv", "jsonl"))
        for line in write.__closure__[1].cell_contents.splitlines()  # type: ignore[index]
    }
)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(LINES) | st.text(max_size=30), max_size=12).map("\n".join),
)


@ALL
@settings(deadline=None, suppress_health_check=QUIET, max_examples=60)
@given(text=TEXTS, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
@example(text='a,b\n"1,2', encoding="utf-8")
@example(text='{"a": 1' + "0" * 5000 + "}", encoding="utf-8")
@example(text="[" * 5000, encoding="utf-8")
@example(text="iter 1: loss 1.2.3, time 1", encoding="utf-8")
@example(text="step 0: train loss nan, val loss -inf", encoding="utf-8")
def test_any_text_is_read_to_rows_or_refused(
    name: str, tmp_path: Path, text: str, encoding: str
) -> None:
    path = tmp_path / {"hf_trainer": "x.json", "jsonl": "x.jsonl"}.get(name, "x.csv")
    path.write_bytes(text.encode(encoding, errors="replace"))
    read = read_or_refused(name, path)
    assert read is None or n_rows_of(read) > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRY = st.dictionaries(
    st.sampled_from(["step", "loss", "eval_loss", "train_loss", "train_runtime", "lr", "x"]), JSON
)


@settings(deadline=None, suppress_health_check=QUIET, max_examples=100)
@given(
    entries=st.lists(ENTRY | JSON, max_size=4),
    step=st.integers(-1, 50) | JSON,
    rest=st.dictionaries(
        st.sampled_from(["max_steps", "total_flos", "num_input_tokens_seen"]), JSON
    ),
)
def test_any_trainer_state_is_read_or_refused(
    tmp_path: Path, entries: list, step: object, rest: dict
) -> None:
    import json

    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": entries, "global_step": step, **rest}))
    read = read_or_refused("hf_trainer", path)
    assert read is None or n_rows_of(read) > 0


@settings(deadline=None, suppress_health_check=QUIET, max_examples=100)
@given(data=st.data())
def test_event_files_with_changed_bytes_are_read_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    from log_examples import framed

    path = EXAMPLES["tensorboard"][0](tmp_path)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    else:
        whole += framed(data.draw(st.binary(max_size=60)))
    path.write_bytes(whole)
    read = read_or_refused("tensorboard", path)
    assert read is None or n_rows_of(read) > 0
