"""Stopping on request: a signal becomes a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

from scalekit.signals import SIGNALS


class StopRequest:
    """Note the first signal of `SIGNALS`; only a second SIGINT ends the process as usual.

    A person who presses Ctrl-C twice means it. A scheduler repeats its signals: to every process of
    a job and once more when the grace time ends; that must not cut a save short, and what comes
    after is SIGKILL anyway.

    Use as a context manager. Outside the main thread Python allows no handlers, and nothing is
    noted.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: object) -> None:
        if self.signal is None:
            self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, self._before.pop(number))
