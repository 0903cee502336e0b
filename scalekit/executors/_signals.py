"""The signals by which a scheduler or a person asks a process to stop, collected and not obeyed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop, in the order in which they come."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # Python allows handlers in the main thread only
        return
    before = {n: signal.signal(n, lambda number, _: seen.append(number)) for n in _NUMBERS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
