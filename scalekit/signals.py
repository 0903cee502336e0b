"""The signals by which a scheduler or a person asks a process to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""What a scheduler, submitit and a person send."""


@contextmanager
def stop_requests(signals: Iterable[signal.Signals] = SIGNALS) -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop, in the order in which they come."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # Python allows handlers in the main thread only
        return
    before = {n: signal.signal(n, lambda number, _: seen.append(number)) for n in signals}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Keep such signals from the processes that are started inside; this one hears them afterwards.

    They come to a run with all that it started. A compiler that ends of one looks like a compiler
    that refuses, and what a run then does instead outlives the request. SIGKILL still reaches all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
