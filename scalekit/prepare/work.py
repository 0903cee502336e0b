"""One part: its documents read, encoded and written as a shard a split, with what they came to.

A shard is put in its place whole, then the part's report beside it: a part without a report is done
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.datasets._manifest import SPLITS
from scalekit.datasets.shards import FORMATS, HEADER_BYTES
from scalekit.errors import InputError, SystemTroubleError
from scalekit.prepare.recipe import Part, Recipe, end_token
from scalekit.prepare.texts import (
    are_among,
    batches_of,
    is_held_out,
    number_of,
    read_held_out,
)
from scalekit.results.store import write_whole
from scalekit.tokenizers.base import Coder

if TYPE_CHECKING:
    import numpy as np

REPORTS = "parts"
"""The folder of the parts' reports, inside the one that is being prepared."""

_MOST_TOKENS = (1 << 31) - 1
"""llm.c's header counts tokens in an int32."""


@dataclass(frozen=True)
class Bench:
    """What every part is worked on with.

    Attributes:
        coder: The tokenizer, opened.
        end: The token that ends a document, or None.
        lengths: Bytes of text that each token (vocab,) stands for, none for `end`; or None.
        held_out: Numbers of the documents that the sources to hold out have, rising.
    """

    folder: Path
    recipe: Recipe
    coder: Coder
    end: int | None
    lengths: np.ndarray | None
    held_out: np.ndarray

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, coder: Coder) -> Bench:
        """Lay out what an opened tokenizer is used with; what is held out was noted before."""
        import numpy as np

        end, known = end_token(coder, recipe), coder.token_bytes()
        lengths = None if known is None else np.array(known, dtype=np.int64)
        if lengths is not None and end is not None:
            lengths[end] = 0
        return cls(folder, recipe, coder, end, lengths, read_held_out(held_out_path(folder)))


def dtype_of(vocab: int) -> str:
    """Return the smallest token type of a shard that holds a vocabulary."""
    return "uint16" if vocab <= 1 << 16 else "uint32"


def shard_name(split: str, number: int) -> str:
    """Return a shard's file name; names sort as their numbers do."""
    return f"{split}_{number:06d}.bin"


def report_path(folder: Path, number: int) -> Path:
    """Return where a part's report lies."""
    return folder / REPORTS / f"{number:06d}.json"


def held_out_path(folder: Path) -> Path:
    """Return where it is noted which documents are held out by their source."""
    return folder / REPORTS / "held_out.u64"


def read_report(bench: Bench, part: Part) -> dict[str, Any] | None:
    """Return a part's report if it is done and its shards are there in full; else None.

    A part that an older version had done is not where it has not looked for what is held out.
    """
    folder = bench.folder
    try:
        report = json.loads(report_path(folder, part.number).read_text(encoding="utf-8"))
        if bench.held_out.size and "also_held_out" not in report:
            return None
        for shard in report["shards"]:
            if (folder / shard["file"]).stat().st_size != shard["file_bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report


def work(part: Part, bench: Bench) -> dict[str, Any]:
    """Encode a part, put its shards in place and return its report.

    Raises:
        InputError: A document cannot be read, or the tokenizer fails at it.
        SystemTroubleError: The disk refuses.
    """
    share, n_known = bench.recipe.val_share, 0
    try:
        with contextlib.ExitStack() as stack:
            shards = {s: _Shard(bench, s, part.number) for s in SPLITS}
            for shard in shards.values():
                stack.enter_context(shard)
            for every in batches_of(part, bench.recipe):
                numbers = [number_of(text) for text in every]
                known = are_among(numbers, bench.held_out) if part.split is None else ()
                n_known += sum(known)
                left = [k for k in range(len(every)) if not (known and known[k])]
                texts = [every[k] for k in left]
                for k, tokens in zip(left, _encode(texts, bench, part), strict=True):
                    split = part.split or SPLITS[is_held_out(numbers[k], share)]
                    shards[split].add(every[k], tokens)
            done = [shard.finish() for shard in shards.values()]
    except OSError as error:
        raise SystemTroubleError(
            f"{bench.folder}: cannot be written, {error.strerror}; free some space and run the "
            "same command again, it continues"
        ) from error
    report = {"part": part.number, "shards": [d for d in done if d["documents"]]}
    report["also_held_out"] = n_known
    report["empty_documents"] = sum(shard.empty for shard in shards.values())
    write_whole(report_path(bench.folder, part.number), json.dumps(report) + "\n")
    return report


def _encode(texts: Sequence[str], bench: Bench, part: Part) -> Sequence[Sequence[int]]:
    try:
        return bench.coder.encode(texts)
    # A tokenizer's library is Rust: what it fails at arrives as any exception, or as a panic.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise InputError(
            f"{part.pieces[0].source}: the tokenizer fails near there, {type(error).__name__}: "
            f"{error}; try another tokenizer or leave the file out"
        ) from error


@dataclass
class _Shard:
    """A shard being written under a temporary name, until `finish` puts it in its place."""

    bench: Bench
    split: str
    number: int
    n_tokens: int = 0
    n_bytes: int = 0
    n_documents: int = 0
    empty: int = 0
    is_exact: bool = True
    _file: BufferedRandom | None = field(default=None, repr=False)

    def __enter__(self) -> _Shard:
        self._path = self.bench.folder / shard_name(self.split, self.number)
        self._scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._dtype = dtype_of(self.bench.coder.vocab)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            self._file.close()
            self._scratch.unlink(missing_ok=True)

    def add(self, text: str, tokens: Sequence[int]) -> None:
        """Add a document; one without tokens is only counted."""
        import numpy as np

        if not len(tokens):
            self.empty += 1
            return
        if self._file is None:
            self._file = self._scratch.open("w+b")
            self._file.write(bytes(HEADER_BYTES))
        is_bytes = isinstance(tokens, bytes)
        array = np.frombuffer(tokens, np.uint8) if is_bytes else np.asarray(tokens, np.int64)
        assert 0 <= array.min() <= array.max() < self.bench.coder.vocab
        kind = np.dtype(self._dtype).newbyteorder("<")
        self._file.write(array.astype(kind).tobytes())
        self.n_tokens += len(array)
        if self.bench.end is not None:
            self._file.write(self.bench.end.to_bytes(kind.itemsize, "little"))
            self.n_tokens += 1
        n_bytes = len(text.encode())
        lengths = self.bench.lengths
        self.is_exact &= lengths is not None and int(lengths[array].sum()) == n_bytes
        self.n_bytes += n_bytes
        self.n_documents += 1

    def finish(self) -> dict[str, Any]:
        """Put the shard in its place and say what it holds."""
        said = {
            "file": self._path.name,
            "split": self.split,
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "token_bytes_add_up": self.is_exact,
        }
        if self._file is None:
            if self._path.exists():  # an older version's, of documents that are left out now
                self._path.unlink()
            return said
        if self.n_tokens > _MOST_TOKENS:
            raise InputError(
                f"{self._path}: {self.n_tokens:,} tokens, a shard holds {_MOST_TOKENS:,}; lower "
                "--part-bytes"
            )
        magic, version = next(key for key, dtype in FORMATS.items() if dtype == self._dtype)
        self._file.seek(0)
        self._file.write(struct.pack("<3i", magic, version, self.n_tokens))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.seek(0)
        said["sha256"] = hashlib.file_digest(self._file, "sha256").hexdigest()
        said["file_bytes"] = self._file.tell()
        self._file.close()
        self._file = None
        self._scratch.replace(self._path)
        return said
