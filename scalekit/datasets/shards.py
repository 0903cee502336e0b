"""Token files on disk, memory-mapped: `train*.bin` and `val*.bin` in the folder `data.path`.

Two formats are read. nanoGPT's is bare uint16. llm.c's starts with 256 int32, of which the first
three are a magic number, a version and the number of tokens; the magic says whether the tokens are
uint16 or uint32 (`dev/data/data_common.py` of karpathy/llm.c).

A folder of `scalekit data prepare` has a manifest beside them, which says what the files do not:
the vocabulary, the tokenizer and bytes per token.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.datasets._arrays import count_rows, limit_training, split_corpus
from scalekit.datasets._manifest import MANIFEST, SPLITS, Manifest, read_manifest
from scalekit.datasets._tokenizer import open_kept, open_named
from scalekit.datasets.base import Corpus, Dataset, Rows
from scalekit.errors import InputError
from scalekit.tokenizers.base import Coder

if TYPE_CHECKING:
    import numpy as np

HEADER_BYTES = 256 * 4
FORMATS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
"""Token type by magic number and version."""

_LLM_C_MAGICS = range(20240000, 20270000)
"""llm.c's magic numbers are dates; another one of them is a file that holds no training tokens."""

_PROBE_BYTES = 1 << 16
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Shard:
    """One token file.

    Attributes:
        path: Where it lies.
        dtype: Its token type.
        offset: Where the tokens start, in bytes.
        n_tokens: How many there are.
    """

    path: Path
    dtype: str
    offset: int
    n_tokens: int

    def map(self) -> np.ndarray:
        """Map the tokens (n_tokens,) without reading them."""
        import numpy as np

        return np.memmap(
            self.path,
            dtype=f"<{self.dtype[0]}{_size(self.dtype)}",
            mode="r",
            offset=self.offset,
            shape=(self.n_tokens,),
        )


def read_shard(path: Path) -> Shard:
    """Read what a token file says of itself.

    Raises:
        InputError: The file is empty, torn, shorter than its header says, or of another kind.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise InputError(f"data.path: {path} cannot be read, {error.strerror}; mend it") from error
    magic, version, n_tokens = struct.unpack("<3i", start) if len(start) == 12 else (0, 0, 0)
    if magic not in _LLM_C_MAGICS:
        if size == 0 or size % 2:
            raise InputError(
                f"data.path: {path} has {size} bytes, which is no whole number of uint16 tokens; "
                "write the file again"
            )
        return Shard(path, "uint16", 0, size // 2)
    if (magic, version) not in FORMATS:
        known = ", ".join(f"{m} version {v}" for m, v in FORMATS)
        raise InputError(
            f"data.path: {path} has magic {magic} version {version}, which is no token file that "
            f"is known here; these are: {known}"
        )
    dtype = FORMATS[magic, version]
    needed = HEADER_BYTES + n_tokens * _size(dtype)
    if size != needed or n_tokens <= 0:
        raise InputError(
            f"data.path: {path} has {size:,} bytes, its header says {n_tokens:,} tokens, which are "
            f"{needed:,}; the file is torn, write it again"
        )
    return Shard(path, dtype, HEADER_BYTES, n_tokens)


def find_shards(data: Mapping[str, Any]) -> tuple[list[Shard], list[Shard]]:
    """Find the training and the held-out shards, in the order of their names.

    Raises:
        InputError: No path, no folder, or one of the splits is missing.
    """
    folder = _folder(data)
    manifest = read_manifest(folder)
    if manifest is not None:
        shards = check_shard_files(folder, manifest)
        splits = [said["split"] for said in manifest.shards]
        train, val = ([s for s, of in zip(shards, splits, strict=True) if of == x] for x in SPLITS)
        return train, val
    found = []
    for split in SPLITS:
        paths = sorted(folder.glob(f"{split}*.bin"))
        if not paths:
            raise InputError(f"data.path: {folder} holds no {split}*.bin; write the split there")
        found.append([read_shard(path) for path in paths])
    return found[0], found[1]


def _folder(data: Mapping[str, Any]) -> Path:
    if not data.get("path"):
        raise InputError("data.path: missing; name the folder that holds train*.bin and val*.bin")
    folder = Path(data["path"])
    if not folder.is_dir():
        raise InputError(f"data.path: {folder} is no folder; name one with train*.bin and val*.bin")
    return folder


def check_shard_files(folder: Path, manifest: Manifest) -> list[Shard]:
    """Find the shards that a manifest lists, in its order, by their headers and sizes.

    Raises:
        InputError: One is missing, torn or of another length, or one is there that is not listed.
    """
    listed = [said["file"] for said in manifest.shards]
    strange = sorted({p.name for x in SPLITS for p in folder.glob(f"{x}*.bin")} - set(listed))
    if strange:
        raise InputError(
            f"data.path: {folder / strange[0]} is not in {MANIFEST}; move it away, or remove the "
            "folder and prepare it again"
        )
    shards = [read_shard(folder / name) for name in listed]
    for shard, said in zip(shards, manifest.shards, strict=True):
        if shard.n_tokens != said["tokens"]:
            raise InputError(
                f"data.path: {shard.path} holds {shard.n_tokens:,} tokens, {MANIFEST} says "
                f"{said['tokens']:,}; remove the folder and prepare it again"
            )
    return shards


def _fingerprint(shards: list[Shard]) -> str:
    """Hash names, sizes and both ends of every file: cheap, and another text will not match."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.path.name} {shard.dtype} {shard.n_tokens}\n".encode())
        with shard.path.open("rb") as file:
            digest.update(file.read(_PROBE_BYTES))
            file.seek(max(0, shard.path.stat().st_size - _PROBE_BYTES))
            digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()[:16]


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the files hold, from their headers and sizes, and from the manifest where one is.

    Without a manifest the vocabulary is not known, so `model.vocab` has to be given.
    """
    train, val = find_shards(data)
    manifest = read_manifest(Path(data["path"]))
    known = {
        "vocab": None,
        "train_tokens": limit_training(sum(s.n_tokens for s in train), data),
        "val_tokens": sum(s.n_tokens for s in val),
        "bytes_per_token": None,
        "fingerprint": None,
    }
    if manifest is None:
        return known | {"fingerprint": _fingerprint(train + val)}
    return known | {
        "vocab": manifest.tokenizer["vocab"],
        # Of the held-out split: it turns the held-out loss into bits per byte.
        "bytes_per_token": manifest.splits["val"]["bytes_per_token"],
        "fingerprint": manifest.fingerprint,
        "tokenizer": manifest.tokenizer["identity"],
    }


def n_rows(data: Mapping[str, Any], context: int) -> tuple[int, int]:
    """Count the rows of both splits; each shard loses what is left behind its last one."""
    train, val = ([shard.n_tokens for shard in split] for split in find_shards(data))
    return count_rows(train, val, data, context)


def open_corpus(data: Mapping[str, Any], context: int, seed: int) -> Corpus:
    """Map both splits; the seed changes nothing, the tokens are what they are."""
    train, val = find_shards(data)
    known = {**facts(data), "entropy": None, "oracle_val_loss": None}
    corpus = split_corpus([s.map() for s in train], [s.map() for s in val], data, context, known)
    folder = Path(data["path"])
    manifest = read_manifest(folder)
    if manifest is None or manifest.tokenizer.get("token_bytes") is None:
        return corpus
    exact = _bytes_per_token(corpus.val, folder / manifest.tokenizer["token_bytes"])
    return replace(corpus, facts={**corpus.facts, "val_bytes_per_token": exact})


def _bytes_per_token(rows: Rows, path: Path) -> float:
    """Return the bytes of text that the targets of held-out rows stand for, over their number.

    Raises:
        InputError: The lengths of tokens cannot be read, or a row holds a token without one.
    """
    import numpy as np

    try:
        lengths = np.fromfile(path, dtype="<u4").astype(np.int64)
    except OSError as error:
        raise InputError(
            f"data.path: {path} cannot be read, {error.strerror}; remove the folder and prepare it "
            "again"
        ) from error
    assert rows.n_rows is not None
    n_bytes = n_tokens = 0
    for start in range(0, rows.n_rows, _ROWS_AT_ONCE):
        targets = rows.take(np.arange(start, min(rows.n_rows, start + _ROWS_AT_ONCE)))[:, 1:]
        if targets.max() >= len(lengths):
            raise InputError(
                f"data.path: {path.parents[1]} holds token {targets.max()}, {path.name} has "
                f"{len(lengths)}; remove the folder and prepare it again"
            )
        n_bytes += int(lengths[targets].sum())
        n_tokens += targets.size
    return n_bytes / n_tokens


def coder(data: Mapping[str, Any]) -> Coder | None:
    """Open the tokenizer that a prepared folder keeps; of others, the one `data.tokenizer` names.

    The word bytes is no name here: it stands in `data.tokenizer` too when nobody wrote one.
    """
    folder = _folder(data)
    manifest = read_manifest(folder)
    if manifest is not None:
        return open_kept(folder, manifest)
    return None if data["tokenizer"] == "bytes" else open_named(data["tokenizer"])


def _size(dtype: str) -> int:
    return {"uint16": 2, "uint32": 4}[dtype]


DATASET = Dataset("shards", facts, n_rows, open_corpus, coder)
