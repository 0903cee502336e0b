"""Token files: both formats read, every way in which one can be damaged refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalekit.datasets import shards
from scalekit.errors import InputError


def write_llm_c(path: Path, tokens: np.ndarray, *, magic: int, version: int) -> None:
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    base = {"source": "shards", "path": str(folder), "unique_tokens": None, "val_tokens": 64}
    return {**base, "max_epochs": 1.0, **changes}


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, np.uint16), (20240801, 7, np.uint32)]
)
def test_a_file_with_llm_c_header_reads_back(
    tmp_path: Path, magic: int, version: int, dtype: type
) -> None:
    tokens = np.arange(60000, 60000 + 1000).astype(dtype)
    write_llm_c(tmp_path / "a.bin", tokens, magic=magic, version=version)
    shard = shards.read_shard(tmp_path / "a.bin")
    assert np.array_equal(shard.map(), tokens)


def test_a_bare_uint16_file_reads_back(tmp_path: Path) -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    tokens.tofile(tmp_path / "a.bin")
    assert np.array_equal(shards.read_shard(tmp_path / "a.bin").map(), tokens)


@pytest.mark.parametrize("n_bytes", [0, 1, 2001])
def test_a_bare_file_that_is_no_whole_number_of_tokens_is_refused(
    tmp_path: Path, n_bytes: int
) -> None:
    (tmp_path / "a.bin").write_bytes(b"\1" * n_bytes)
    with pytest.raises(InputError, match=rf"a\.bin has {n_bytes} bytes"):
        shards.read_shard(tmp_path / "a.bin")


@pytest.mark.parametrize("cut", [-1, -500, 4])
def test_a_file_of_another_length_than_its_header_says_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.bin"
    write_llm_c(path, np.arange(1000, dtype=np.uint16), magic=20240520, version=1)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] if cut < 0 else whole + b"\0" * cut)
    with pytest.raises(InputError, match="its header says 1,000 tokens"):
        shards.read_shard(path)


@pytest.mark.parametrize(("magic", "version"), [(20240522, 1), (20240520, 2), (20240801, 1)])
def test_a_header_of_another_kind_is_refused(tmp_path: Path, magic: int, version: int) -> None:
    write_llm_c(tmp_path / "a.bin", np.arange(10, dtype=np.uint16), magic=magic, version=version)
    with pytest.raises(InputError, match=f"magic {magic} version {version}"):
        shards.read_shard(tmp_path / "a.bin")


def test_a_missing_split_or_folder_is_refused_by_name(tmp_path: Path) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(InputError, match=r"holds no val\*\.bin"):
        shards.facts(data(tmp_path))
    with pytest.raises(InputError, match="is no folder"):
        shards.facts(data(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"data\.path: missing"):
        shards.facts(data(tmp_path, path=None))


def test_shards_of_both_formats_make_one_split_in_the_order_of_their_names(tmp_path: Path) -> None:
    np.arange(0, 101, dtype=np.uint16).tofile(tmp_path / "train_000.bin")
    write_llm_c(
        tmp_path / "train_001.bin",
        np.arange(70000, 70101, dtype=np.uint32),
        magic=20240801,
        version=7,
    )
    np.arange(200, dtype=np.uint16).tofile(tmp_path / "val.bin")
    corpus = shards.open_corpus(data(tmp_path), 10, 0)
    assert corpus.train.n_rows == 20
    assert corpus.train.take(np.array([9, 10, 19]))[:, 0].tolist() == [90, 70000, 70090]
    assert corpus.facts["train_tokens"] == 202


def test_the_fingerprint_follows_the_text_and_not_the_folder(tmp_path: Path) -> None:
    def written(name: str, first: int) -> str:
        folder = tmp_path / name
        folder.mkdir()
        np.arange(first, first + 500, dtype=np.uint16).tofile(folder / "train.bin")
        np.arange(500, dtype=np.uint16).tofile(folder / "val.bin")
        return shards.facts(data(folder))["fingerprint"]

    assert written("a", 0) == written("b", 0)
    assert written("c", 1) != written("d", 0)


def test_mapping_a_large_file_reads_only_the_rows_that_are_taken(tmp_path: Path) -> None:
    for name in ("train.bin", "val.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 << 30)  # sparse: eight GB that no disk has to hold
    corpus = shards.open_corpus(data(tmp_path, val_tokens=4096), 1024, 0)
    assert corpus.train.n_rows == ((8 << 30) // 2 - 1) // 1024
    last = np.array([corpus.train.n_rows - 1])
    assert (corpus.train.take(last) == 0).all()


def test_unique_tokens_are_whole_rows_however_many_files_hold_them(tmp_path: Path) -> None:
    for number in range(4):
        first = 1000 * number
        np.arange(first, first + 100, dtype=np.uint16).tofile(tmp_path / f"train_{number}.bin")
    np.arange(200, dtype=np.uint16).tofile(tmp_path / "val.bin")
    corpus = shards.open_corpus(data(tmp_path, unique_tokens=320), 32, seed=0)
    # Three rows a file; the four tokens that are left at each end are made up for by the next.
    assert corpus.train.n_rows == 10
    assert corpus.train.take(np.arange(10))[:, 0].tolist()[-2:] == [2064, 3000]
