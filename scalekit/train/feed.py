"""Rows for the steps to come, made ahead where that does not slow the step, and what waiting cost.

Which rows a step takes is the order's business; nothing here can change it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from scalekit.datasets.base import RowOrder, Rows

_STOP_SECONDS = 0.1
"""How often the thread looks whether it is still wanted."""


class Feed:
    """The rows of one step after the other; use as a context manager.

    Args:
        rows: Where they come from.
        order: Which of them a step takes.
        batch: How many a step takes.
        steps: The steps, counted from one.
        ahead: How many steps a thread may be ahead; none makes each batch when it is asked for. A
            thread pays where the device computes while the processor is idle; on a processor it
            would take from the step what it gives.
        share: Takes this process's part of the rows that a step deals to all.
    """

    def __init__(
        self,
        rows: Rows,
        order: RowOrder,
        batch: int,
        steps: range,
        *,
        ahead: int,
        share: Callable[[np.ndarray], np.ndarray] = lambda dealt: dealt,
    ) -> None:
        self._made = (rows.take(share(order.rows(step, batch))) for step in steps)
        self._ahead = ahead
        self._queue: queue.Queue[np.ndarray | BaseException] = queue.Queue(max(1, ahead))
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._waited = 0.0

    def __enter__(self) -> Feed:
        if self._ahead:
            self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def next(self) -> np.ndarray:
        """Return the rows (B, T + 1) of the next step."""
        began = time.perf_counter()
        rows = self._queue.get() if self._thread is not None else next(self._made)
        self._waited += time.perf_counter() - began
        if isinstance(rows, BaseException):
            raise rows
        return rows

    def take_waited(self) -> float:
        """Return the seconds spent waiting for rows since the last time this was asked."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _fill(self) -> None:
        try:
            for rows in self._made:
                if not self._hand_over(rows):
                    return
        except BaseException as error:  # it belongs to the step that asks for these rows
            self._hand_over(error)

    def _hand_over(self, rows: np.ndarray | BaseException) -> bool:
        """Wait for room and say whether anyone is left to take the next ones."""
        while not self._is_over.is_set():
            try:
                self._queue.put(rows, timeout=_STOP_SECONDS)
            except queue.Full:
                continue
            return True
        return False
