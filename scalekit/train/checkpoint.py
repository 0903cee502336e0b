"""Checkpoints: written whole, the last two kept, read back without running anyone's code."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalekit.errors import InputError, SystemTroubleError
from scalekit.results.store import write_whole

SCHEMA = "scalekit.checkpoint/1"
_KEPT = 2
_NAME = re.compile(r"step-(\d+)(\.pt)?")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    folder: Path
    run_id: str

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; drop those before the last but one and what a kill left half written.

        Raises:
            SystemTroubleError: The disk refuses; the last checkpoint that it took is whole.
        """
        buffer = io.BytesIO()
        facts = {"schema": SCHEMA, "run": self.run_id, "step": step}
        torch.save({**facts, **without_bases(state)}, buffer)
        path = self.path(step)
        write_whole(path, buffer.getvalue())
        self.drop_old()
        return path

    def shards(self, step: int) -> Path:
        """Return the folder of a checkpoint that is written in parts."""
        return self.folder / f"step-{step:09d}"

    def drop_old(self) -> None:
        """Remove the checkpoints before the last but one and what a kill left half written.

        Raises:
            SystemTroubleError: The disk refuses.
        """
        try:
            for old in (*self.newest_first()[_KEPT:], *self.folder.glob(".step-*.tmp")):
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise SystemTroubleError(
                f"{self.folder}: an old checkpoint cannot be removed, {error.strerror}; free the "
                "folder and run again"
            ) from error

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.folder / f"step-{step:09d}.pt"

    def load(self, device: torch.device, report: Callable[[str], None]) -> Mapping[str, Any] | None:
        """Return the newest checkpoint that can be read, or None when there is none.

        A damaged one is reported and passed over: the one before it gives the same run. Of one
        that was written in parts only the facts are returned, and the folder as `shards`.

        Raises:
            InputError: None can be read, or the newest readable one belongs to another run or to
                another program.
        """
        reason = ""
        for path in self.newest_first():
            try:
                state = _read_parts(path) if path.is_dir() else read_tensors(path, device)
            except Exception as error:  # torch raises whatever the damaged bytes make of it
                reason = str(error).partition("\n")[0]
                report(f"{path}: damaged, {reason}; trying the one before")
                continue
            if not isinstance(state, dict) or state.get("schema") != SCHEMA:
                raise InputError(
                    f"{path}: not a checkpoint of this version of scalekit; move it away to start "
                    "this run from its beginning"
                )
            if state.get("run") != self.run_id:
                raise InputError(
                    f"{path}: belongs to run {state.get('run')!r}, not to {self.run_id!r}; move it "
                    "away to start this run from its beginning"
                )
            return state
        if reason:
            raise InputError(
                f"{self.folder}: every checkpoint is damaged or foreign, {reason}; move the folder "
                "away to start this run from its beginning"
            )
        return None

    def newest_first(self) -> list[Path]:
        """List the checkpoints."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)

    def remove(self) -> None:
        """Delete them all: a finished run needs none."""
        shutil.rmtree(self.folder, ignore_errors=True)


def without_bases(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested state in which no tensor is a part of a larger one.

    With a part of a tensor torch saves all of it: the weights of a whole stack for each replica's.
    """
    return {key: _alone(value) for key, value in state.items()}


def _alone(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_bases(value)
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.detach().clone()
    return value


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's path.

    >>> step_of(Path("step-000000040.pt"))
    40
    """
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def _read_parts(path: Path) -> dict[str, Any]:
    """Read the facts of a checkpoint in parts, all of them as they were written."""
    from scalekit.train.sharded_checkpoint import read_facts  # it loads half of torch.distributed

    return {**read_facts(path), "shards": path}


def read_tensors(path: Path, device: torch.device) -> Any:
    """Read a file of torch whose every byte is as it was written: torch alone lets a flip pass.

    Raises:
        Exception: Of whatever kind the damaged bytes make of it; OSError where there are none.
    """
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(f"the checksum of {bad} does not match")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it all the same.
        raise ValueError("it holds more than tensors, which could run anyone's code") from error
