"""How far a group of jobs is: a bar on a terminal, a plain line now and then off it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINE_SECONDS = 30.0
BAR_SECONDS = 0.5


@dataclass(frozen=True)
class Count:
    """What a progress display shows; FLOPs measure how much of the work is done."""

    done: int
    running: int
    failed: int
    total: int
    flops_done: float
    flops_total: float


class Progress:
    """Shows counts, time and what remains on stderr, not more often than a person can read.

    What remains is the FLOPs that are left over the speed so far.
    """

    def __init__(self, count: Callable[[], Count], *, clock: Callable[[], float] = time.monotonic):
        self._count, self._clock = count, clock
        self._began = self._shown_at = clock()
        self._flops_at_start: float | None = None
        self._bar: Any = None
        self._task: Any = None
        self._on_terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if self._on_terminal:
            self._bar, self._task = _rich_bar()
            self._bar.start()
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self.show()
        if self._bar is not None:
            self._bar.stop()

    def tick(self) -> None:
        """Show where things are if the last time is long enough ago."""
        wait = BAR_SECONDS if self._on_terminal else LINE_SECONDS
        if self._clock() - self._shown_at >= wait:
            self.show()

    def show(self) -> None:
        """Show where things are."""
        self._shown_at = self._clock()
        count = self._count()
        text = self.sentence(count)
        if self._bar is None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        else:
            total = count.flops_total or 1.0
            self._bar.update(self._task, completed=count.flops_done / total, description=text)

    def sentence(self, count: Count) -> str:
        """Say in one line where things are."""
        elapsed = self._clock() - self._began
        if self._flops_at_start is None:
            self._flops_at_start = count.flops_done
        gained = count.flops_done - self._flops_at_start
        left = count.flops_total - count.flops_done
        parts = [f"{count.done}/{count.total} done", f"{count.running} running"]
        if count.failed:
            parts.append(f"{count.failed} failed or diverged")
        parts.append(f"{format_seconds(elapsed)} elapsed")
        if gained > 0 and left > 0:
            parts.append(f"about {format_seconds(left * elapsed / gained)} left")
        return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Write a duration in its two largest units.

    >>> format_seconds(7.2), format_seconds(754), format_seconds(9000)
    ('7s', '12m34s', '2h30m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 172800:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def _rich_bar() -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}% {task.description}"))
    bar = Bar(*columns, console=Console(stderr=True), transient=False)
    return bar, bar.add_task("", total=1.0)
