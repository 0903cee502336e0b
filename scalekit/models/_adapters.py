"""Linear maps whose weights may have adapters, and the gradients of adapters alone.

Adapters are in the weight already when it is used, so that a pass costs what it costs without them.
What they learn follows from what goes into a map and the gradient of what comes out of it; the
gradient of the weight is never made, unless that takes fewer products.

Legend: n tokens, I numbers into a map, O out of it, r rank; x (n, I), y (n, O), weight (O, I).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scalekit.models.base import Adapter


class Maps(nn.Module):
    """A module with matrices, of which each may have adapters."""

    def __init__(self) -> None:
        super().__init__()
        # By the matrix. They are parameters of who put them here, not of this module.
        self.adapters: defaultdict[str, list[Adapter]] = defaultdict(list)

    def map(self, matrix: str, x: Tensor) -> Tensor:
        """Return x W^T, (..., O) from (..., I), so that the adapters of W learn from it."""
        weight, adapters = getattr(self, matrix), self.adapters.get(matrix)
        if not adapters or not torch.is_grad_enabled():
            return F.linear(x, weight)
        how = tuple((one.rows.start, one.rows.stop, one.scaling, one.is_thin) for one in adapters)
        pairs = [p for one in adapters for p in (one.a, one.b)]
        found = _Adapted.apply(x, weight, how, *pairs)
        assert isinstance(found, Tensor)
        return found


class _Adapted(torch.autograd.Function):
    """A product with a weight that holds its adapters."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor, how: tuple[Any, ...], *pairs: Tensor
    ) -> Tensor:
        y = F.linear(x, weight)
        ctx.how = how
        # In the numbers of the product, where autocast chose others than those of x.
        ctx.save_for_backward(x.to(y.dtype), weight, *pairs)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, *pairs = ctx.saved_tensors
        dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
        dy, x = dy.flatten(0, -2), x.flatten(0, -2)
        gradients: list[Tensor] = []
        for (start, stop, scaling, is_thin), a, b in zip(
            ctx.how, pairs[::2], pairs[1::2], strict=True
        ):
            part, a_now, b_now = dy[:, start:stop], a.to(x.dtype), b.to(x.dtype)
            if is_thin:
                da, db = (part @ b_now).mT @ x, part.mT @ (x @ a_now.mT)
            else:
                change = part.mT @ x
                da, db = b_now.mT @ change, change @ a_now.mT
            gradients += [(scaling * da).to(a.dtype), (scaling * db).to(b.dtype)]
        return dx, None, None, *gradients
