"""How many rows go at once: the most that memory holds, in even parts, by the plan's estimate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalekit.counting import Shape, memory_bytes
from scalekit.train.micro_batch import choose_rows, memory_for
from scalekit.train.spread import _part

SHAPE = Shape(256, 4, 4, 64, 4, 768, 1000, 128)
STATE, A_ROW = memory_bytes(SHAPE, batch_tokens=128)


def rows(memory: float | None, **how: Any) -> int:
    return choose_rows(SHAPE, 12, memory, **how)


def test_parts_are_as_large_as_memory_allows_and_even() -> None:
    assert rows(None) == 12
    assert rows(STATE + 12 * A_ROW) == 12
    # Eleven would fit, and twelve in two parts are six.
    assert rows(STATE + 11.5 * A_ROW) == 6
    assert rows(STATE + 5 * A_ROW) == 4
    # Nothing fits: a row is the least, and the run may still be smaller than its estimate.
    assert rows(0.0) == 1


def test_what_is_not_kept_and_what_lies_elsewhere_leaves_room_for_rows() -> None:
    memory = STATE + 3 * A_ROW
    order = [rows(memory), rows(memory, recompute="mlps"), rows(memory, recompute="blocks")]
    assert order == sorted(order)
    assert order[0] < order[1] < order[2]
    assert rows(STATE / 2 + 3 * A_ROW, n_shards=2) == rows(memory)


def test_what_a_process_may_take_is_asked_for_and_never_what_is_free_now() -> None:
    cpu = torch.device("cpu")
    assert memory_for(cpu, {}, 2) is None
    assert memory_for(cpu, {"memory_gb": 8.0, "nodes": 2}, 2) == pytest.approx(2e9, rel=1e-12)


@given(n_rows=st.integers(1, 50), n_parts=st.integers(1, 60))
def test_parts_hold_every_row_once_and_empty_ones_weigh_nothing(n_rows: int, n_parts: int) -> None:
    seen: list[int] = []
    for i in range(n_parts):
        part, weight = _part(n_rows, i, n_parts)
        there = list(range(n_rows))[part]
        assert there, "every part is learnt from, or a sharded model would wait for ever"
        assert weight in (0, len(there))
        seen += there if weight else []
    assert seen == list(range(n_rows))
