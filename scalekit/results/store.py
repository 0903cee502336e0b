"""A sweep's folder: where each thing lies, and whole-file writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekit.errors import InputError, SystemTroubleError

PLAN_SCHEMA = "scalekit.plan/1"
_PLAN_KEYS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    **dict.fromkeys(("config", "plan", "resources"), dict),
    **dict.fromkeys(("config.model", "config.data", "config.train"), dict),
    **dict.fromkeys(("plan.params", "plan.flops"), dict),
    **dict.fromkeys(("plan.params_kind", "plan.flops_kind"), str),
    **dict.fromkeys(("plan.tokens", "plan.steps"), (int, float)),
}
"""What readers of a line count on, by dotted name; the parts before what is inside them."""


@dataclass(frozen=True)
class SweepFolder:
    """The layout of a sweep on disk (one writer each, append-only or replaced whole)."""

    root: Path

    @property
    def sweep_file(self) -> Path:
        """The resolved input, re-runnable."""
        return self.root / "sweep.yaml"

    @property
    def plan_file(self) -> Path:
        """One line per run."""
        return self.root / "plan.jsonl"

    @property
    def jobs(self) -> Path:
        """One file per submission."""
        return self.root / "jobs"

    @property
    def table_file(self) -> Path:
        """The collected table; derived."""
        return self.root / "data.csv"

    def record(self, run_id: str) -> Path:
        """One run's record."""
        return self.root / "runs" / f"{run_id}.jsonl"

    def superseded(self, run_id: str) -> Path:
        """A free place for a record that another one replaces; records are never deleted."""
        place = self.root / "runs" / "superseded"
        number = 1
        while (path := place / f"{run_id}.{number}.jsonl").exists():
            number += 1
        return path

    def log(self, run_id: str) -> Path:
        """What one run's process printed, for people."""
        return self.root / "logs" / f"{run_id}.log"

    def checkpoints(self, run_id: str) -> Path:
        """One run's checkpoints, only while needed."""
        return self.root / "checkpoints" / run_id

    def weights(self, run_id: str) -> Path:
        """One run's last weights, where it keeps them."""
        return self.root / "weights" / f"{run_id}.pt"

    def live(self, logger: str) -> Path:
        """Where a logger keeps what it shows of the runs."""
        return self.root / "live" / logger

    def plan_lines(self) -> Iterator[dict[str, Any]]:
        """Read the plan, a value a run.

        Raises:
            InputError: No plan here, or a line of it is not readable or not a plan's.
        """
        try:
            file = self.plan_file.open(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(
                f"{self.root}: no plan.jsonl, {error.strerror}; name the folder of a sweep"
            ) from error
        with file:
            yield from self._plan_values(file)

    def _plan_values(self, file: Iterable[str]) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(file, start=1):
            where, remedy = f"{self.plan_file}:{number}", "run the sweep command again, it rewrites"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not JSON; {remedy} the plan") from error
            found = value.get("schema") if isinstance(value, dict) else None
            if found != PLAN_SCHEMA:
                raise InputError(f"{where}: schema {found!r}, not {PLAN_SCHEMA!r}; {remedy} it")
            lacks = [
                key for key, kind in _PLAN_KEYS.items() if not isinstance(_at(value, key), kind)
            ]
            if lacks:
                raise InputError(f"{where}: no {lacks[0]!r} in it; {remedy} the plan")
            yield value


def _at(value: Any, key: str) -> Any:
    """Return what stands under a dotted name; None where nothing does."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def check_writable(folder: Path, todo: str, *, asked: Path | None = None) -> None:
    """Refuse a folder that cannot be made or written, without making it.

    Args:
        folder: Where something is to be written once it has been computed.
        todo: What the user can do instead.
        asked: What the user named, if that is a file in the folder.

    Raises:
        SystemTroubleError: It is no folder, lies in none, or may not be written.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise SystemTroubleError(f"{asked or folder}: {place} is not a folder; {todo}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SystemTroubleError(f"{asked or folder}: {place} is not writable for you; {todo}")


def check_not_source(path: Path, source: Path, todo: str) -> None:
    """Refuse to write over the very file that is to be read: nothing else may hold those runs.

    Raises:
        InputError: Both names are of one file.
    """
    if path.is_file() and source.is_file() and path.samefile(source):
        raise InputError(f"{path}: is the table itself, which would be written over; {todo}")


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file under a temporary name and put it in place, so that no reader sees half of it.

    Raises:
        SystemTroubleError: The disk refuses; the old file, if any, is untouched.
    """
    data = text.encode() if isinstance(text, str) else text
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise SystemTroubleError(
            f"{path}: cannot be written, {error.strerror}; free the folder and run again"
        ) from error
