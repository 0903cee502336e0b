"""How much of a batch is learnt from at once: what memory holds, then the gradients add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scalekit.counting import Shape, memory_bytes
from scalekit.errors import InputError

GPU_SHARE = 0.9
"""Of a GPU's memory: the rest is the library's own, and what the estimate does not know."""


def memory_for(device: torch.device, resources: Mapping[str, Any], n_here: int) -> float | None:
    """Return the bytes that a process may take, or None where nothing limits them.

    It is what was asked for or what the GPU has, never what happens to be free: the size of a
    micro-batch changes the rounding of sums, and a resumed run must round alike.

    Args:
        device: Where it computes.
        resources: Of the run.
        n_here: Processes of the run on this node.
    """
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        return GPU_SHARE * whole / int(resources.get("pack") or 1)
    asked = resources.get("memory_gb")
    nodes = int(resources.get("nodes") or 1)
    return None if asked is None else float(asked) * 1e9 / nodes / n_here


def choose_rows(
    shape: Shape,
    rows: int,
    memory: float | None,
    *,
    n_shards: int = 1,
    recompute: str = "none",
    **adapters: Any,
) -> int:
    """Return the most rows at once, in even parts of `rows`, whose training fits into memory.

    Args:
        shape: The model's.
        rows: Rows of a step in this process.
        memory: Bytes, or None for no limit.
        n_shards: Over how many processes weights, gradients and moments are spread.
        recompute: Of `RECOMPUTES`: what is not kept for the backward pass.
        adapters: As `memory_bytes`: `targets` and `rank`, where they alone learn.
    """
    if memory is None:
        return rows
    state, _ = memory_bytes(shape, batch_tokens=0, **adapters)

    def needed(rows: int) -> float:
        return state / n_shards + _activations(shape, rows, recompute)

    n_parts = 1
    while n_parts < rows and needed(-(-rows // n_parts)) > memory:
        n_parts += 1
    return math.ceil(rows / n_parts)


def learn_within_memory(
    learn: Callable[[], Tensor],
    halve: Callable[[], None],
    too_much: Callable[[], InputError],
    *,
    may_halve: bool,
) -> Tensor:
    """Learn; where memory runs out, once again with half the rows.

    Args:
        learn: Learns and returns losses.
        halve: Makes it learn from half the rows at once, and writes that down.
        too_much: Says that memory does not hold what is left.
        may_halve: Whether there is a half.

    Raises:
        InputError: From `too_much`.
    """
    try:
        return learn()
    except torch.OutOfMemoryError as error:
        if not may_halve:
            raise too_much() from error
    # Outside the handler: its traceback would keep alive what did not fit.
    halve()
    torch.cuda.empty_cache()
    try:
        return learn()
    except torch.OutOfMemoryError as error:
        raise too_much() from error


def _activations(shape: Shape, rows: int, recompute: str) -> float:
    tokens = rows * shape.context
    _, all_kept = memory_bytes(shape, batch_tokens=tokens)
    if recompute == "none":
        return all_kept
    _, ends = memory_bytes(_with_layers(shape, 0), batch_tokens=tokens)
    a_layer = (all_kept - ends) / shape.n_layers
    if recompute == "blocks":
        # Each block's input, and all of one block while it is computed again.
        return ends + shape.n_layers * 4.0 * tokens * shape.d_model + a_layer
    mlp = 4.0 * tokens * shape.d_ff * (4 if shape.mlp == "swiglu" else 2)
    return ends + shape.n_layers * (a_layer - mlp) + mlp


def _with_layers(shape: Shape, n_layers: int) -> Shape:
    return Shape(**{**vars(shape), "n_layers": n_layers})
