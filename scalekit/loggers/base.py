"""What a logger must offer: a place to send a run's numbers to while it goes.

A member of `loggers/` binds `LOGGER`, a `Logger`. Importing a member needs no package; opening it
does, by `import_module`, since a member has its package's name. A logger adds nothing to a record
and takes nothing from it: whoever calls one goes on without it when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Shown:
    """A run as loggers see it.

    Attributes:
        id: Its id.
        sweep: Its sweep's name.
        config: Its resolved config.
        folder: Where the logger may keep files; made by it where it is missing.
    """

    id: str
    sweep: str
    config: Mapping[str, Any]
    folder: Path


class Sink(Protocol):
    """An opened logger."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers by name at a step; after a resume a step may come again."""
        ...

    def close(self, status: str) -> None:
        """End the run: `done`, `diverged`, `failed`, or `stopped` where it will go on."""
        ...


@dataclass(frozen=True)
class Logger:
    """A member of the family.

    Attributes:
        name: The file name.
        package: What has to be installed, as on the index.
        open: Start showing a run, or go on with it.
    """

    name: str
    package: str
    open: Callable[[Shown], Sink]
