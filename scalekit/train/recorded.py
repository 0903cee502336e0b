"""A step's gradients, recorded once as a CUDA graph and replayed after that.

A small model's kernels are done sooner than Python starts the next ones. A recording starts them
all at once. It reads and writes the very memory that it was made with: batches are copied to where
it reads, gradients are found where it writes, and weights must lie where they lay.

Clipping and the update stay outside: a few kernels for all parameters together, whose learning rate
changes with every step.

Source: NVIDIA's and torch's notes on CUDA graphs (capture of a whole network); the order of
warming up on a stream of its own, forgetting gradients and recording is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scalekit.errors import InputError

WARM_STEPS = 3
"""Steps that choose kernels, lay out memory and compile, before one is recorded."""

Learn = Callable[[Tensor, Tensor], Tensor]


class Recorded:
    """Gradients of batches of one shape, from a recording.

    Args:
        learn: From inputs and targets to losses; leaves gradients in `params`, or adds them up in
            memory of its own. It asks the device for nothing and gives memory to nobody.
        first: The same for the steps before a recording, which may notice that memory runs out.
        params: What it reads, and what has gradients after it.
    """

    def __init__(self, learn: Learn, first: Learn, params: Sequence[Tensor]) -> None:
        self.learn, self.first, self.params = learn, first, list(params)
        self._stream: Any = torch.cuda.Stream()
        self._made_for: object = None
        self._warmed = 0

    def __call__(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Set the gradients for a batch and return the losses, which the next call leaves alone."""
        # Somebody may have moved the weights: a stack that lost a run does.
        now = (tokens.shape, [p.data_ptr() for p in self.params])
        if now != self._made_for:
            if self._warmed < WARM_STEPS:
                self._warmed += 1
                return self._aside(tokens, targets)
            self._record(tokens, targets)
            self._made_for = now
        self._tokens.copy_(tokens)
        self._targets.copy_(targets)
        self._graph.replay()
        for p, gradient in zip(self.params, self._gradients, strict=True):
            p.grad = gradient
        return self._losses.clone()

    def _aside(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Learn on the stream that will be recorded."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            losses = self.first(tokens, targets)
        here.wait_stream(self._stream)
        return losses

    def _record(self, tokens: Tensor, targets: Tensor) -> None:
        self._tokens, self._targets = tokens.clone(), targets.clone()
        for p in self.params:
            # Made anew while recording, they lie where the recording keeps its memory.
            p.grad = None
        self._graph: Any = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._losses = self.learn(self._tokens, self._targets)
        except RuntimeError as error:  # out of memory too
            # Ending a recording that broke is an error of its own, which hides why it broke.
            reason = " ".join(str(error.__context__ or error).split())
            raise InputError(
                f"resources.cuda_graph: a step cannot be recorded here, {reason:.200}; leave "
                "cuda_graph out"
            ) from error
        self._gradients = [p.grad for p in self.params]
