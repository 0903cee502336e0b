"""How much of some bytes is done: a bar on a terminal, a plain line now and then off it."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 30.0


class BytesBar:
    """Shows bytes done of all, speed and what remains on stderr; use as a context manager."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._began: tuple[float, int] | None = None
        self._shown_at = time.monotonic()

    def __enter__(self) -> BytesBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, total: int) -> None:
        """Show that so many bytes of all are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        if self._began is None:
            # What an earlier run had done says nothing about the speed of this one.
            self._began = now, done
        if now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            began_at, began_with = self._began
            speed = (done - began_with) / max(1e-9, now - began_at)
            print(
                f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:,.1f} MB/s",
                file=sys.stderr,
                flush=True,
            )
