"""The standard library's text: no file in both splits, none twice, the same split everywhere."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from scalekit.datasets import stdlib
from scalekit.errors import InputError

DATA = {
    "source": "stdlib",
    "tokenizer": "bytes",
    "unique_tokens": None,
    "max_epochs": 1.0,
    "val_tokens": 131072,
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of our own making in place of the running Python's."""
    for i in range(60):
        folder = tmp_path / f"package{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{i}.py").write_text(f"value = {i}\n" * 50)
    monkeypatch.setattr(stdlib, "_library", lambda: tmp_path)
    return tmp_path


def test_no_file_is_in_both_splits_and_none_is_lost(library: Path) -> None:
    contents = stdlib._contents(library)
    train, val = stdlib._split(contents)
    # Every file of this library repeats one line, so a line belongs to one file.
    lines = set(train.splitlines()), set(val.splitlines())
    assert not lines[0] & lines[1]
    assert len(lines[0] | lines[1]) == 60
    assert len(train) + len(val) == sum(p.stat().st_size for p in library.rglob("*.py"))


def test_an_exact_copy_counts_once(library: Path) -> None:
    before = stdlib.facts(DATA)
    stdlib._contents.cache_clear()
    (library / "copy.py").write_bytes((library / "package0" / "module0.py").read_bytes())
    assert stdlib.facts(DATA) == before


def test_where_a_file_lies_changes_neither_split_nor_fingerprint(library: Path) -> None:
    before = stdlib.facts(DATA)
    stdlib._contents.cache_clear()
    (library / "package0" / "module3.py").rename(library / "elsewhere.py")
    assert stdlib.facts(DATA) == before


def test_another_text_has_another_fingerprint(library: Path) -> None:
    before = stdlib.facts(DATA)["fingerprint"]
    stdlib._contents.cache_clear()
    (library / "new.py").write_text("something = 'else'\n")
    assert stdlib.facts(DATA)["fingerprint"] != before


@pytest.mark.parametrize(
    "name", ["test/a.py", "json/tests/a.py", "site-packages/a.py", "_sysconfigdata_x.py", "a.txt"]
)
def test_tests_and_what_is_not_the_library_stay_out(library: Path, name: str) -> None:
    before = stdlib.facts(DATA)
    stdlib._contents.cache_clear()
    (library / name).parent.mkdir(parents=True, exist_ok=True)
    (library / name).write_text("other = 1\n")
    assert stdlib.facts(DATA) == before


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Python sources"):
        stdlib._contents(tmp_path)


def test_the_running_library_is_real_text_of_the_size_that_is_said() -> None:
    said = stdlib.facts(DATA)
    corpus = stdlib.open_corpus(DATA, 256, 0)
    texts = {
        hashlib.sha256(p.read_bytes()).digest(): p.stat().st_size
        for p in stdlib._files(Path(sysconfig.get_path("stdlib")))
    }
    assert said["train_tokens"] + said["val_tokens"] == sum(texts.values())
    # A held-out share of five in a hundred files; sizes vary, so the bytes scatter around it.
    assert 0.02 < said["val_tokens"] / said["train_tokens"] < 0.12
    assert corpus.train.n_rows == (said["train_tokens"] - 1) // 256
    held_out = corpus.val.take(np.arange(512)).astype(np.uint8).tobytes()
    assert b"import " in held_out
    assert b"return " in held_out


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.tokenizer: 'gpt2'"):
        stdlib.facts({**DATA, "tokenizer": "gpt2"})
