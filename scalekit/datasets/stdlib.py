"""The text of the running Python's standard library: bytes, without tests, each file once.

Real text that every machine with Python has, about eleven million bytes of it. It differs between
Python versions: `fingerprint` says which text a run saw.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scalekit.datasets._arrays import count_rows, limit_training, split_corpus
from scalekit.datasets._tokenizer import open_named
from scalekit.datasets.base import Corpus, Dataset
from scalekit.errors import InputError
from scalekit.tokenizers.base import Coder

VOCAB = 256
VAL_SHARE = 0.05
"""Share of files held out; a file is drawn by the hash of its content, so no seed moves it."""

_NOT_TEXT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _files(folder: Path) -> Iterator[Path]:
    """List the library's own sources; what a build writes for its machine is left out."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            is_built = entry.name.startswith("config-")
            if entry.name not in _NOT_TEXT and not is_built and not entry.is_symlink():
                yield from _files(entry)
        elif entry.suffix == ".py" and not entry.name.startswith("_sysconfigdata"):
            yield entry


@cache
def _contents(folder: Path) -> dict[str, bytes]:
    """Read every different file, by the hash of its content, in the order of the hashes."""
    found: dict[str, bytes] = {}
    for path in _files(folder):
        text = path.read_bytes()
        found[hashlib.sha256(text).hexdigest()] = text
    if not found:
        raise InputError(
            f"{folder}: no Python sources; this Python ships its library in another form, choose "
            "another data.source"
        )
    return dict(sorted(found.items()))


def is_held_out(digest: str) -> bool:
    """Say whether the file with this content hash belongs to the held-out split."""
    return int(digest[:8], 16) < VAL_SHARE * 16**8


def _split(contents: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    train = b"".join(text for digest, text in contents.items() if not is_held_out(digest))
    val = b"".join(text for digest, text in contents.items() if is_held_out(digest))
    return train, val


def _n_bytes(contents: Mapping[str, bytes]) -> tuple[int, int]:
    train = sum(len(text) for digest, text in contents.items() if not is_held_out(digest))
    return train, sum(map(len, contents.values())) - train


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Say what there is, from the files' contents.

    Raises:
        InputError: A tokenizer that this text does not have.
    """
    if data.get("tokenizer", "bytes") != "bytes":
        raise InputError(
            f"data.tokenizer: {data['tokenizer']!r} is not available for 'stdlib'; use bytes"
        )
    contents = _contents(_library())
    train, val = _n_bytes(contents)
    return {
        "vocab": VOCAB,
        "train_tokens": limit_training(train, data),
        "val_tokens": val,
        "bytes_per_token": 1.0,
        "fingerprint": hashlib.sha256("".join(contents).encode()).hexdigest()[:16],
    }


def n_rows(data: Mapping[str, Any], context: int) -> tuple[int, int]:
    """Count the rows of both splits."""
    train, val = _n_bytes(_contents(_library()))
    return count_rows([train], [val], data, context)


def open_corpus(data: Mapping[str, Any], context: int, seed: int) -> Corpus:
    """Open both splits; the seed changes nothing, the text is what it is."""
    import numpy as np

    train, val = (np.frombuffer(text, dtype=np.uint8) for text in _split(_contents(_library())))
    known = {
        **facts(data),
        "entropy": None,
        "oracle_val_loss": None,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    return split_corpus([train], [val], data, context, known)


def coder(data: Mapping[str, Any]) -> Coder:
    """Open the tokenizer of bytes."""
    return open_named("bytes")


DATASET = Dataset("stdlib", facts, n_rows, open_corpus, coder)
