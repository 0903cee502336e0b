"""Loss and gradients of `models/gpt.py` on a CPU, written out: kernels and matrix products.

The order of the calls and the buffers between them are laid down once for a batch's shape; a step
then runs down the list. Autograd, the allocator and a hundred small operators a layer are what this
saves. `gpt.py` stays the definition: tests hold the two together.

Legend: B rows, T tokens a row, d head_dim.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekit.models._adapters import Maps
from scalekit.models._cpu.calls import Batch, Calls

if TYPE_CHECKING:
    from scalekit.models.gpt import GPT

_TOKENS = 2048
"""Tokens learnt from at once: what they leave behind is then small enough for the cache of a small
model and the memory of a large one. The threads do not count, so that they change no rounding.
"""


class CpuStep:
    """The fast path of one model; holds its buffers.

    Args:
        model: On the CPU, of the kernels' number type.
        kernels: From `build.load`.
        rotation: Angles by which RoPE turns the pairs at each position, (T, d/2) in float64.
        norm_eps: What the norms add below the root.
    """

    def __init__(self, model: GPT, kernels: ctypes.CDLL, rotation: Tensor, norm_eps: float) -> None:
        self.model, self.kernels, self.rotation, self.norm_eps = model, kernels, rotation, norm_eps
        maps = [module for module in model.modules() if isinstance(module, Maps)]
        # Of matrices without any too, which may get some later.
        known = [module.adapters[name] for module in maps for name in module._parameters]
        self._adapted = [(some, tuple(some)) for some in known]
        # By the weight that they are part of.
        self.adapters = {
            id(getattr(module, matrix)): adapters
            for module in maps
            for matrix, adapters in module.adapters.items()
        }
        added = [p for some in self.adapters.values() for one in some for p in (one.a, one.b)]
        self.params = [p for p in model.parameters() if p.requires_grad] + added
        # One after the other in one tensor, so that their norm is one operation.
        # Tensors made in inference mode forget that they are parts, and a model may be evaluated
        # before it learns.
        with torch.inference_mode(mode=False):
            every = torch.zeros(sum(p.numel() for p in self.params), dtype=model.embedding.dtype)
            parts = zip(self.params, every.split([p.numel() for p in self.params]), strict=True)
            self.grads = {id(p): part.view_as(p) for p, part in parts}
        # Where each is named and where it lies: asking the module anew takes long for a small step.
        self._places = [
            (module._parameters, name, p, p.data_ptr(), p.requires_grad)
            for module in model.modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self._added = [(p, p.data_ptr()) for p in added]
        self._calls: dict[Batch, Calls] = {}

    def still_fits(self) -> bool:
        """Say whether the parameters are, lie and learn as when the calls were laid down."""
        return (
            all(
                named[name] is p and p.data_ptr() == address and p.requires_grad == learns
                for named, name, p, address, learns in self._places
            )
            and all(tuple(now) == then for now, then in self._adapted)
            and all(p.data_ptr() == address for p, address in self._added)
        )

    def gradients(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Set the gradients of what learns to those of the mean loss, and return that loss."""
        for p in self.params:
            p.grad = self.grads[id(p)]
        return self._run(tokens, targets, learns=True).mean()

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in nats of every token, (B, T)."""
        return self._run(tokens, targets, learns=False)

    def _run(self, tokens: Tensor, targets: Tensor, *, learns: bool) -> Tensor:
        """Go through the rows, some at a time, adding up gradients; return losses (B, T)."""
        rows, length = tokens.shape
        threads = torch.get_num_threads()
        n_parts = math.ceil(rows / max(1, _TOKENS // length))
        at_once = math.ceil(rows / n_parts)
        parts = []
        for first in range(0, rows, at_once):
            part = slice(first, first + at_once)
            batch = Batch(min(at_once, rows - first), length, threads, learns)
            calls = self._calls.get(batch)
            if calls is None:
                # Even inside inference mode: a later call must be able to write to the buffers.
                with torch.inference_mode(mode=False), torch.no_grad():
                    calls = self._calls[batch] = Calls(self, batch)
            losses = calls.run(
                tokens[part], targets[part], factor=1.0 / tokens.numel(), adds=first > 0
            )
            parts.append(losses.clone().view(-1, length))
        return torch.cat(parts) if len(parts) > 1 else parts[0]
