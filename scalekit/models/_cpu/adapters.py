"""The calls that give the gradients of a weight's adapters.

Legend: n tokens, I numbers into the map, O out of it, r rank.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekit.models._cpu.arguments import Call, Columns
from scalekit.models.base import Adapter

if TYPE_CHECKING:
    from scalekit.models._cpu.calls import Calls


def adapter_calls(calls: Calls, one: Adapter, x: Tensor, d_out: Tensor) -> list[Call]:
    """Return the calls in their order.

    Args:
        calls: What they become part of.
        one: The adapter, of some rows of the weight.
        x: What goes into the weight (n, I).
        d_out: The gradient of what comes out of all its rows.
    """
    n, (rank, n_in), n_out = calls.n, one.a.shape, len(one.b)
    dy, width = Columns(d_out, one.rows.start), d_out.shape[1]
    da, db, scratch, adds = calls.grad(one.a), calls.grad(one.b), calls.scratch, calls.adds
    if not one.is_thin:
        whole = calls.shared(f"whole {n_out} {n_in}", n_out, n_in)

        def hand_on() -> None:
            beta = float(adds.value)
            torch.addmm(da, one.b.mT, whole, beta=beta, alpha=one.scaling, out=da)
            torch.addmm(db, whole, one.a.mT, beta=beta, alpha=one.scaling, out=db)

        return [
            calls.made("linear_weight", dy, width, x, whole, 0, scratch, n, n_in, n_out),
            torch.no_grad()(hand_on),
        ]
    inner, d_inner = (calls.shared(f"{name} {rank}", n, rank) for name in ("inner", "d_inner"))
    return [
        calls.made("linear_forward", x, one.a, inner, scratch, n, n_in, rank),
        partial(torch.mul, inner, one.scaling, out=inner),
        calls.made("linear_weight", dy, width, inner, db, adds, scratch, n, rank, n_out),
        calls.made("linear_backward", dy, width, one.b, d_inner, scratch, n, rank, n_out),
        partial(torch.mul, d_inner, one.scaling, out=d_inner),
        calls.made("linear_weight", d_inner, rank, x, da, adds, scratch, n, n_in, rank),
    ]
