"""The rows that a step gets: the same with and without a thread, errors and the end included."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from scalekit.datasets._arrays import ArrayRows
from scalekit.datasets.base import Order
from scalekit.errors import InputError
from scalekit.train.feed import Feed

ROWS = ArrayRows([np.arange(101)], context=4)


def taken(ahead: int, steps: range) -> list[list[int]]:
    with Feed(ROWS, Order(ROWS.n_rows, 0), 3, steps, ahead=ahead) as feed:
        return [feed.next()[:, 0].tolist() for _ in steps]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_steps_get_the_same_rows_however_far_ahead_they_are_made(ahead: int) -> None:
    assert taken(ahead, range(1, 21)) == taken(0, range(1, 21))
    assert taken(ahead, range(8, 21)) == taken(0, range(1, 21))[7:]


def test_no_thread_is_left_when_a_run_ends_early() -> None:
    before = threading.active_count()
    with Feed(ROWS, Order(ROWS.n_rows, 0), 3, range(1, 1000), ahead=2) as feed:
        feed.next()
    assert threading.active_count() == before


class Damaged:
    """Rows of which the third batch cannot be read."""

    n_rows = 100

    def __init__(self) -> None:
        self.left = 2

    def take(self, indices: np.ndarray) -> np.ndarray:
        if self.left == 0:
            raise InputError("a shard is gone")
        self.left -= 1
        return ROWS.take(indices % 20)


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_reaches_the_step_whose_rows_it_is(ahead: int) -> None:
    with Feed(Damaged(), Order(100, 0), 3, range(1, 10), ahead=ahead) as feed:
        feed.next()
        feed.next()
        with pytest.raises(InputError, match="a shard is gone"):
            feed.next()


class Slow:
    """Rows that take their time."""

    n_rows = 100

    def take(self, indices: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return ROWS.take(indices % 20)


def test_waiting_is_counted_once_and_started_again() -> None:
    with Feed(Slow(), Order(100, 0), 3, range(1, 10), ahead=0) as feed:
        feed.next()
        feed.next()
        assert feed.take_waited() >= 0.04  # sleep never returns early
        assert feed.take_waited() == 0.0
