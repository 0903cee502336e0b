"""The calls of one shape of batch: which kernels and products follow which, on which buffers.

Each layer adds its calls forward, and those of its gradients to a second list that is run from its
end. What no parameter below learns from has no call.

Legend: B rows, T tokens a row, n = B T, D d_model, H query heads, G key-value heads, d head_dim,
F d_ff, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scalekit.models._cpu.adapters import adapter_calls
from scalekit.models._cpu.arguments import Argument, Call, Columns, as_c

if TYPE_CHECKING:
    from scalekit.models._cpu.step import CpuStep
    from scalekit.models.gpt import Block

_PART = 64
"""At most as many tokens as the kernels sum gradients of gains over (`PART` in tokens.cpp)."""

_LOGITS = 2**22
"""At most as many logits are alive at once: they would be the largest thing in memory."""
_SLACK = 64
"""More numbers than a vector has lanes: kernels may read that far behind an array."""


@dataclass(frozen=True)
class Batch:
    """What a list of calls is made for."""

    rows: int
    tokens: int
    threads: int
    learns: bool


class Calls:
    """The calls for one shape of batch."""

    def __init__(self, step: CpuStep, batch: Batch) -> None:
        self.step, self.batch, self.shape = step, batch, step.model.shape
        self.n = batch.rows * batch.tokens
        # Read anew at each call, unlike every other argument.
        self.adds, self.factor = ctypes.c_long(0), ctypes.c_double(0.0)
        self.calls: list[Call] = []
        self.back: list[Call] = []
        self.held: list[Tensor] = []
        self.buffers: dict[str, Tensor] = {}
        # Whether something that learns lies below what is being laid down, so that a gradient has
        # to go on through it.
        self.below = step.model.embedding.requires_grad
        self.dtype = step.model.embedding.dtype
        s = self.shape
        self.tokens = torch.empty(self.n, dtype=torch.int64)
        self.targets = torch.empty(self.n, dtype=torch.int64)
        self.losses = self._new(self.n)
        width = step.kernels.attention_width(s.head_dim)
        self.scratch = self._new(self._scratch_size())
        self.parts = self._new(
            max((self.n // _PART + 1) * s.d_model, batch.rows * s.n_kv_heads * 2 * width)
        )
        self.table = _rotation(step.rotation[: batch.tokens], width, self.dtype)
        self._lay_down()

    def run(self, tokens: Tensor, targets: Tensor, *, factor: float, adds: bool) -> Tensor:
        """Run down the list and return the losses (n,), which the next call overwrites.

        Args:
            tokens: Inputs (B, T).
            targets: The token after each (B, T).
            factor: What the sum of the losses is multiplied by before gradients are taken.
            adds: Whether gradients are added to those that are there.
        """
        self.tokens.copy_(tokens.reshape(-1))
        self.targets.copy_(targets.reshape(-1))
        if self.batch.learns:
            self.adds.value, self.factor.value = int(adds), factor
        for call in self.calls:
            call()
        return self.losses

    def _lay_down(self) -> None:
        model, shape, n, D = self.step.model, self.shape, self.n, self.shape.d_model
        blocks: list[Block] = list(model.blocks)  # pyright: ignore[reportAssignmentType]
        stream, added = self._new(n, D), None
        self._kernel("embed", self.tokens, model.embedding, stream, n, D)
        for block in blocks:
            stream, added = self._attention(block, stream, added)
            stream, added = self._mlp(block, stream, added)
        self._head(stream, added)
        if not self.batch.learns:
            return
        self.calls += reversed(self.back)
        if not model.embedding.requires_grad:
            return
        d_stream = self.shared("d_stream", n, D)
        d_embedding = self.grad(model.embedding)
        # Tied, the head's gradient stands there already.
        keeps = self.adds if model.head is not None else 1
        self._kernel("embed_backward", self.tokens, d_stream, d_embedding, keeps, n, D, shape.vocab)

    def _norm(
        self,
        stream: Tensor,
        added: Tensor | None,
        gain: nn.Parameter,
        *,
        is_first: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Add to the stream what the layer before said, and normalise: the stream, and that."""
        n, D = self.n, self.shape.d_model
        after = stream if added is None else self._kept("stream", n, D)
        normed, inverse = self._kept("normed", n, D), self._kept("inverse", n)
        self._kernel(
            "norm_forward", stream, added, gain, after, normed, inverse, n, D, self.step.norm_eps
        )
        self.below |= gain.requires_grad
        if self.below:
            self.back.append(
                self.made(
                    "norm_backward", self.shared("d_normed", n, D), after, inverse, gain,
                    self.shared("d_stream", n, D), int(not is_first), self.grad(gain),
                    self.adds, self.parts, n, D,
                )
            )  # fmt: skip
        return after, normed

    def _linear(
        self, x: Tensor, weight: nn.Parameter, out: Tensor, d_out: Tensor, dx: Tensor
    ) -> None:
        """Multiply x (n, in) by weight (out, in), whose gradient is set going backward."""
        n_out, n_in = weight.shape
        sizes = (self.scratch, self.n, n_in, n_out)
        self._kernel("linear_forward", x, weight, out, *sizes)
        if self.below:
            self.back.append(self.made("linear_backward", d_out, n_out, weight, dx, *sizes))
        if weight.requires_grad:
            d_weight = self.grad(weight)
            self.back.append(
                self.made("linear_weight", d_out, n_out, x, d_weight, self.adds, *sizes)
            )
        adapters = self.step.adapters.get(id(weight), ())
        for one in adapters:
            self.back += reversed(adapter_calls(self, one, x, d_out))
        self.below |= weight.requires_grad or bool(adapters)

    def _say(self, x: Tensor, weight: nn.Parameter, dx: Tensor) -> Tensor:
        """Multiply x (n, in) by the weight that writes to the stream; return what is added."""
        n, D, factor = self.n, self.shape.d_model, self.step.model.rules.branch
        said, d_stream = self.shared("said", n, D), self.shared("d_stream", n, D)
        if factor == 1.0:
            self._linear(x, weight, said, d_stream, dx)
            return said
        d_said = self.shared("d_said", n, D)
        self._linear(x, weight, said, d_said, dx)
        self.calls.append(partial(torch.mul, said, factor, out=said))
        self.back.append(partial(torch.mul, d_stream, factor, out=d_said))
        return said

    def _attention(
        self, block: Block, stream: Tensor, added: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        s, n, a = self.shape, self.n, block.attention
        gain = block.attention_gain
        stream, normed = self._norm(stream, added, gain)
        heads, width = (s.n_heads + 2 * s.n_kv_heads) * s.head_dim, s.n_heads * s.head_dim
        qkv, d_qkv = self._kept("qkv", n, heads), self.shared("d_qkv", n, heads)
        self._linear(normed, a.qkv, qkv, d_qkv, self.shared("d_normed", n, s.d_model))
        mixed, d_mixed = self._kept("mixed", n, width), self.shared("d_mixed", n, width)
        weights = self._kept("weights", self.batch.rows, s.n_heads, self.batch.tokens, 2)
        sizes = (self.batch.rows, self.batch.tokens, s.n_heads, s.n_kv_heads, s.head_dim)
        before = (qkv, a.q_gain, a.k_gain, self.table, mixed, weights)
        eps = self.step.norm_eps
        self._kernel("attention_forward", *before, self.scratch, *sizes, eps)
        gains = [g for g in (a.q_gain, a.k_gain) if g is not None]
        d_gains = [self.grad(g) for g in gains] or [None, None]
        self.below |= any(g.requires_grad for g in gains)
        if self.below:
            self.back.append(
                self.made(
                    "attention_backward", *before, d_mixed, d_qkv, *d_gains, self.adds, self.parts,
                    self.scratch,
                    *sizes, eps,
                )
            )  # fmt: skip
        return stream, self._say(mixed, a.out, d_mixed)

    def _mlp(self, block: Block, stream: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        s, n, m = self.shape, self.n, block.mlp
        gain = block.mlp_gain
        stream, normed = self._norm(stream, added, gain)
        fan_out = len(m.up)
        u, du = self._kept("u", n, fan_out), self.shared("du", n, fan_out)
        h, dh = self._kept("h", n, s.d_ff), self.shared("dh", n, s.d_ff)
        self._linear(normed, m.up, u, du, self.shared("d_normed", n, s.d_model))
        if s.mlp == "gelu":
            self.calls.append(partial(torch.ops.aten.gelu.out, u, out=h))
            back = partial(torch.ops.aten.gelu_backward.grad_input, dh, u, grad_input=du)
        else:
            self._kernel(f"{s.mlp}_forward", u, h, n, s.d_ff)
            back = self.made(f"{s.mlp}_backward", dh, u, du, n, s.d_ff)
        self.back += [back] if self.below else []
        return stream, self._say(h, m.down, dh)

    def _head(self, stream: Tensor, added: Tensor | None) -> None:
        """The last norm, the logits, their losses and gradients, all going forward."""
        model, s, n = self.step.model, self.shape, self.n
        _, normed = self._norm(stream, added, model.gain, is_first=True)
        d_normed, at_once = self.shared("d_normed", n, s.d_model), max(1, _LOGITS // s.vocab)
        for first in range(0, n, at_once):
            part = slice(first, first + at_once)
            self._predict(normed[part], d_normed[part], part)

    def _predict(self, x: Tensor, dx: Tensor, part: slice) -> None:
        """Logits of some tokens, their losses, and at once all the gradients they give."""
        model, vocab, n = self.step.model, self.shape.vocab, len(x)
        weight = model.embedding if model.head is None else model.head
        logits = self.shared("logits", min(self.n, max(1, _LOGITS // vocab)), vocab)[:n]
        sizes = (self.scratch, n, self.shape.d_model, vocab)
        self._kernel("linear_forward", x, weight, logits, *sizes)
        losses, scale = self.losses[part], model.rules.logits
        self._kernel(
            "cross_entropy", logits, self.targets[part], losses, n, vocab, scale, self.factor
        )
        if self.batch.learns and self.below:
            self._kernel("linear_backward", logits, vocab, weight, dx, *sizes)
        if self.batch.learns and weight.requires_grad:
            adds = self.adds if part.start == 0 else 1
            self._kernel("linear_weight", logits, vocab, x, self.grad(weight), adds, *sizes)

    def _scratch_size(self) -> int:
        """Return how many numbers of scratch memory the hungriest call needs."""
        kernels, s, threads = self.step.kernels, self.shape, self.batch.threads
        every = {*self.step.model.parameters(), *self.step.params}
        matrices = [p for p in every if p.ndim == 2]
        needs = [kernels.linear_scratch(p.shape[1], p.shape[0], threads) for p in matrices]
        return max(threads * kernels.attention_scratch(self.batch.tokens, s.head_dim), *needs)

    def _kernel(self, name: str, *arguments: Argument) -> None:
        self.calls.append(self.made(name, *arguments))

    def made(self, name: str, *arguments: Argument) -> Call:
        """Return a call of a kernel, which gets the number of threads behind these arguments."""
        # An address does not keep its tensor alive.
        self.held += [a for a in arguments if isinstance(a, Tensor)]
        self.held += [a.whole for a in arguments if isinstance(a, Columns)]
        return partial(
            getattr(self.step.kernels, name),
            *map(as_c, arguments),
            ctypes.c_long(self.batch.threads),
        )

    def grad(self, parameter: Tensor) -> Tensor:
        """Return where a parameter's gradient goes; that of a frozen gain is made all the same."""
        own = self.step.grads.get(id(parameter))
        return self.shared(f"unused {len(parameter)}", len(parameter)) if own is None else own

    def _new(self, *sizes: int) -> Tensor:
        numbers = math.prod(sizes)
        return torch.empty(numbers + _SLACK, dtype=self.dtype)[:numbers].view(sizes)

    def _kept(self, name: str, *sizes: int) -> Tensor:
        """Make a buffer that the backward pass reads; without one, layers share it."""
        return self._new(*sizes) if self.batch.learns else self.shared(name, *sizes)

    def shared(self, name: str, *sizes: int) -> Tensor:
        """Return the one buffer of this name."""
        if name not in self.buffers:
            self.buffers[name] = self._new(*sizes)
        return self.buffers[name]


def _rotation(angles: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Lay the angles (T, d/2) out as the attention kernels read them: (T, 2, P)."""
    table = torch.zeros(len(angles), 2, width, dtype=torch.float64)
    d = 2 * angles.shape[1]
    table[:, 0, :d] = angles.cos().repeat_interleave(2, dim=1)
    table[:, 1, :d] = angles.sin().repeat_interleave(2, dim=1)
    table[:, 1, 0:d:2] *= -1
    return table.to(dtype)
