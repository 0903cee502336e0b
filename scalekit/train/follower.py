"""The record in the hands of a process that does not write it, because another of its team does."""

from __future__ import annotations

from typing import Any

from scalekit.results.record import RecordWriter


class UnwrittenRecord(RecordWriter):
    """A record whose lines the first process of the team writes."""

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, t: str, **fields: Any) -> None:
        """Leave the line to the first."""

    def sync(self) -> None:
        """Leave it to the first."""
