"""What an importer must offer: tell its own files surely, and read them to named columns.

A member binds `IMPORTER`. It says what a file states and nothing more: which column is the loss,
how parameters are counted and which checkpoint stands for a run is settled by the reader of the
columns, `results.collect`, from what the user asked for. This file imports no member.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from scalekit.errors import InputError

HEAD_BYTES = 1 << 16
"""How much of a file an importer may look at to recognise it."""

_GZIP = b"\x1f\x8b"
_PACKED = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}


@dataclass(frozen=True)
class Source:
    """One file that someone's training left behind.

    Attributes:
        path: Where it is.
        run: What its run is called where the file does not say.
    """

    path: Path
    run: str = ""

    @property
    def name(self) -> str:
        """The file's name before it was packed: `runs.csv` of `runs.csv.gz`."""
        is_packed = self.path.suffix.lower() == ".gz"
        return self.path.stem if is_packed else self.path.name

    @property
    def suffix(self) -> str:
        """The suffix that says the format, in lower case: `.csv` of `runs.csv.gz`."""
        return Path(self.name).suffix.lower()

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes, unpacked; empty where nothing can be read."""
        try:
            with self.open() as file:
                return file.read(HEAD_BYTES)
        except InputError:
            return b""

    @cached_property
    def head_text(self) -> str:
        """The head as text, with a mark for what is not UTF-8."""
        return self.head.decode("utf-8-sig", errors="replace")

    @property
    def packing(self) -> str:
        """The name of a packing that is not undone here, or nothing."""
        return next((name for mark, name in _PACKED.items() if self.head.startswith(mark)), "")

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading, gzip undone.

        Raises:
            InputError: The file cannot be read, is a pipe, or its gzip is damaged.
        """
        try:
            # A pipe without a writer would be waited for, and a file is read more than once.
            if not stat.S_ISREG(mode := self.path.stat().st_mode) and not stat.S_ISDIR(mode):
                raise InputError(
                    f"{self.path}: a pipe or a device, found no file; write it to a file and name "
                    "that"
                )
            with self.path.open("rb") as raw:
                mark = raw.read(len(_GZIP))
                raw.seek(0)
                if mark == _GZIP:
                    with gzip.open(raw) as file:
                        yield file  # type: ignore[misc]  # a GzipFile reads as any binary file
                else:
                    yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self.path}: damaged gzip, {error}; copy the file again") from error
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read, {error.strerror}; name a file"
            ) from error


@dataclass(frozen=True)
class Imported:
    """What files say, as columns of one length.

    Attributes:
        columns: By name, each (n,): an array of floats, or cells (words, numbers, None where the
            file has none).
        loss_units: The columns that are a loss, with the unit, or nothing where it is not known.
        flops_kind: How `flops` is counted, where there is such a column and the format says it.
        about: What a reader must know of a column, in words, by its name.
        remarks: What was done with the files and leaves nothing to doubt, in sentences.
        notes: What a reader must doubt or see to, in sentences: numbers left out, damage forgiven.
        is_history: Whether rows are checkpoints, several a run, instead of runs.
    """

    columns: Mapping[str, Any]
    loss_units: Mapping[str, str] = field(default_factory=dict)
    flops_kind: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    notes: Sequence[str] = ()
    is_history: bool = False


@dataclass(frozen=True)
class Importer:
    """A reader of one format.

    Attributes:
        name: The public name, equal to the file's.
        about: A few words for people.
        recognise: Whether a file is of this format, from its name and head alone.
        read: Reads the files of one run or of one table; the second argument names columns whose
            cells stay text, whatever they look like. Raises `InputError` where they are not
            what they seemed.
        run_folder: The folder whose files make one run together, where one file is not one run.
        beside: Names of files that it reads along with those it recognises.
        is_general: A plain table, taken only where no log's importer recognises the file.
    """

    name: str
    about: str
    recognise: Callable[[Source], bool]
    read: Callable[[Sequence[Source], Collection[str]], Imported]
    run_folder: Callable[[Path], Path] | None = None
    beside: Collection[str] = ()
    is_general: bool = False
