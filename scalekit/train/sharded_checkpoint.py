"""Checkpoints of a model that lies in parts: each process writes its own, any number reads them.

A folder `step-N` by torch.distributed.checkpoint, with `run.json` beside its files: what they are,
how far the run was, and a checksum of each. It is filled under a temporary name and put in place by
the first process when all parts are on the disk, so that one is whole or is not there.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import warnings
import zlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from scalekit.errors import SystemTroubleError
from scalekit.results.store import write_whole
from scalekit.train.team import Team

FACTS = "run.json"
_INDEX = ".metadata"
_READ_AT_ONCE = 2**24

_MAY_STAND_IN_AN_INDEX = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
}


def save_shards(
    path: Path, tensors: Mapping[str, Tensor], facts: dict[str, Any], team: Team
) -> None:
    """Write a checkpoint; every process of the team calls this with its parts.

    Args:
        path: The folder it becomes.
        tensors: By name; of those that lie in parts each process gives its own.
        facts: A JSON value about the whole.
        team: All of it calls this.

    Raises:
        SystemTroubleError: The disk of one of them refuses.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        if team.is_first:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        team.wait_for_all()
        with team.listening(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save(dict(tensors), storage_writer=FileSystemWriter(scratch))
        mine = {p.name: _checksum(p) for p in sorted(scratch.glob(f"__{team.rank}_*"))}
        files = {name: crc for part in _gather(mine, team) for name, crc in part.items()}
        if team.is_first:
            files[_INDEX] = _checksum(scratch / _INDEX)
            write_whole(scratch / FACTS, json.dumps({**facts, "files": files}))
            shutil.rmtree(path, ignore_errors=True)
            scratch.replace(path)
            _sync(path.parent)
    except (OSError, CheckpointException) as error:
        raise SystemTroubleError(
            f"{path}: cannot be written, {_first_reason(error)}; free the folder and run again"
        ) from error


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself, and look whether every file is as it was written.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: One was changed, or there is nothing to read.
    """
    facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
        raise ValueError(f"{FACTS} does not list the files")
    for name, checksum in facts["files"].items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a file of this folder")
        if _checksum(path / name) != checksum:
            raise ValueError(f"the checksum of {name} does not match")
    return facts


def load_shards(path: Path, tensors: Mapping[str, Tensor], team: Team) -> None:
    """Fill tensors from a checkpoint, whatever number of processes wrote it.

    Args:
        path: The folder.
        tensors: By name, filled where they are: whole ones, or each process's parts.
        team: All of it calls this.

    Raises:
        SystemTroubleError: It was whole and is not any more, or is of another model.
    """
    try:
        with team.listening(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(dict(tensors), storage_reader=_Reader(path), no_dist=team.size == 1)
    except (OSError, CheckpointException) as error:
        raise SystemTroubleError(
            f"{path}: cannot be read, {_first_reason(error)}; move it away to go on from the "
            "checkpoint before"
        ) from error


class _Reader(FileSystemReader):
    """A reader whose index cannot run anyone's code: it is a pickle, and pickles can."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> described.Metadata:
        raw = (Path(self.path) / _INDEX).read_bytes()
        index = _IndexUnpickler(io.BytesIO(raw)).load()
        if not isinstance(index, described.Metadata):
            raise pickle.UnpicklingError(f"{_INDEX} holds a {type(index).__name__}")
        if index.storage_meta is None:
            index.storage_meta = described.StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_number_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_ours = module == described.__name__ and hasattr(described, name)
        if is_number_type or is_ours or (module, name) in _MAY_STAND_IN_AN_INDEX:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"{_INDEX} asks for {module}.{name}, which no index needs")


def _member(kind: Any, name: str) -> Enum:
    """Return a member of an enumeration, which early releases of 3.11 write as a `getattr`."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(
            f"{_INDEX} asks for {name!r} of {kind!r}, which no index needs"
        )
    return kind[name]


def _gather(mine: dict[str, int], team: Team) -> list[dict[str, int]]:
    if team.size == 1:
        return [mine]
    import torch.distributed as dist

    said: list[Any] = [None] * team.size
    with team.listening():
        dist.all_gather_object(said, mine)
    return said


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_READ_AT_ONCE):
            crc = zlib.crc32(block, crc)
    return crc


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _first_reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
