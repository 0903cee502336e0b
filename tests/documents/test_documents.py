"""The contract of `documents/`: every document once and in order, however a source is cut."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from scalekit import registry
from scalekit.documents.base import Ask, Format
from scalekit.errors import InputError

NAMES = registry.names("documents")
TEXTS = [f"document {n} é\u2028 with a separator\x0c " + "word " * (n % 23) for n in range(300)]


def write_text(path: Path, texts: Sequence[str]) -> str:
    path.with_suffix(".txt").write_bytes("\n \r\n\n".join(texts).encode())
    return str(path.with_suffix(".txt"))


def write_jsonl(path: Path, texts: Sequence[str]) -> str:
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    return str(path.with_suffix(".jsonl"))


def write_parquet(path: Path, texts: Sequence[str], column: str = "text") -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": list(range(len(texts))), column: pa.array(texts, pa.string())})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=37)
    return str(path.with_suffix(".parquet"))


def write_huggingface(path: Path, texts: Sequence[str]) -> str:
    import datasets

    datasets.Dataset.from_dict({"text": list(texts)}).save_to_disk(str(path))
    return str(path)


WRITERS: dict[str, Callable[[Path, Sequence[str]], str]] = {
    "text": write_text,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "huggingface": write_huggingface,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` writes of the files it reads out of the home folder."""
    if importlib.util.find_spec("datasets.config") is not None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=NAMES)
def form(request: pytest.FixtureRequest) -> Format:
    member = registry.find("documents", request.param)
    if member.package is not None:
        pytest.importorskip(member.package, "0.1")
    return member


def read(form: Format, source: str, piece_bytes: int, ask: Ask) -> list[str]:
    return [t for piece in form.cut(source, piece_bytes, ask) for t in form.read(piece, ask)]


@pytest.mark.parametrize("piece_bytes", [1, 777, 10**9])
def test_every_document_comes_once_and_in_order_however_the_source_is_cut(
    form: Format, piece_bytes: int, tmp_path: Path
) -> None:
    source = WRITERS[form.name](tmp_path / "a", TEXTS)
    assert read(form, source, piece_bytes, Ask(unit="blank")) == TEXTS


def test_pieces_cover_the_source_side_by_side_and_weigh_something(
    form: Format, tmp_path: Path
) -> None:
    pieces = form.cut(WRITERS[form.name](tmp_path / "a", TEXTS), 500, Ask(unit="blank"))
    assert pieces[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(pieces))
    assert all(piece.weight > 0 for piece in pieces)


def test_the_digest_follows_the_content(form: Format, tmp_path: Path) -> None:
    one, other = (WRITERS[form.name](tmp_path / n, t) for n, t in (("a", TEXTS), ("b", TEXTS[:-1])))
    assert form.digest(one, Ask()) == form.digest(one, Ask()) != form.digest(other, Ask())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "text"])
def test_an_unknown_column_is_refused_with_the_ones_there_are(name: str, tmp_path: Path) -> None:
    form = registry.find("documents", name)
    if form.package is not None:
        pytest.importorskip(form.package, "0.1")
    source = WRITERS[name](tmp_path / "a", TEXTS)
    with pytest.raises(InputError, match=r"no column 'txt'; did you mean 'text'\?"):
        read(form, source, 10**6, Ask(column="txt"))


def test_a_source_that_is_not_there_is_refused_by_name(form: Format, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        form.cut(str(tmp_path / "nowhere"), 1000, Ask())


@pytest.mark.parametrize("name", ["text", "jsonl", "parquet"])
def test_an_empty_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match="is empty; leave it out"):
        registry.find("documents", name).cut(str(tmp_path / "a"), 1000, Ask())


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", "0.1")
    source = write_parquet(tmp_path / "a", [])
    with pytest.raises(InputError, match="holds no rows"):
        registry.find("documents", "parquet").cut(source, 1000, Ask())


@pytest.mark.parametrize("unit", ["file", "blank", "line"])
def test_text_that_is_not_utf8_is_refused_with_the_byte(unit: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\n\n" * 10 + b"caf\xe9\n")
    with pytest.raises(InputError, match=r"not UTF-8, byte 0xe9 at 63"):
        read(registry.find("documents", "text"), str(tmp_path / "a.txt"), 20, Ask(unit=unit))  # type: ignore[arg-type]


def test_a_document_may_be_a_file_or_a_line(tmp_path: Path) -> None:
    form = registry.find("documents", "text")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo\n")
    source = str(tmp_path / "a.txt")
    assert read(form, source, 5, Ask(unit="file")) == ["one\r\n\ntwo\n"]
    for piece_bytes in (1, 5, 100):
        assert read(form, source, piece_bytes, Ask(unit="line")) == ["one", "", "two"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "list, not an object"),
        (b'{"text": null}', "'text' is null, not text"),
        (b'{"text": 3}', "'text' is int, not text"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "\xe9"}', "not UTF-8, byte 0xe9"),
        (b"\0" * 4, "not JSON"),  # what a torn write leaves; looks like UTF-32 to a guesser
        ('{"text": "a"}'.encode("utf-16"), "not UTF-8, byte 0xff"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_in_the_file(
    line: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' * 50 + line + b"\n")
    with pytest.raises(InputError, match=rf"a\.jsonl:101: .*{says}"):
        read(registry.find("documents", "jsonl"), str(path), 100, Ask())


def test_compressed_lines_are_read_and_a_torn_file_is_refused(tmp_path: Path) -> None:
    form = registry.find("documents", "jsonl")
    plain = Path(write_jsonl(tmp_path / "a", TEXTS)).read_bytes()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(plain))
    assert read(form, str(path), 10, Ask()) == TEXTS
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="torn"):
        read(form, str(path), 10, Ask())


def test_a_parquet_file_that_is_torn_or_holds_no_text_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", "0.1")
    form = registry.find("documents", "parquet")
    source = Path(write_parquet(tmp_path / "a", TEXTS))
    with pytest.raises(InputError, match="'id' is int64, not text"):
        form.cut(str(source), 1000, Ask(column="id"))
    nulls = write_parquet(tmp_path / "n", ["a", None])  # type: ignore[list-item]
    with pytest.raises(InputError, match="row 2: 'text' is null"):
        read(form, nulls, 1000, Ask())
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(InputError, match="no parquet file that can be read"):
        form.cut(str(source), 1000, Ask())


def test_a_folder_of_data_files_is_a_dataset_and_its_splits_are_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets", "0.1")
    form = registry.find("documents", "huggingface")
    folder = tmp_path / "repo"
    folder.mkdir()
    write_jsonl(folder / "train", TEXTS)
    write_jsonl(folder / "test", TEXTS[:5])
    assert read(form, str(folder), 1, Ask()) == TEXTS
    assert read(form, str(folder), 1, Ask(split="test")) == TEXTS[:5]
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        form.cut(str(folder), 1, Ask(split="tests"))
