"""The mean of the weights so far, evaluated in their place: a cheaper stand-in for a cooldown.

Step s counts as s^g, so that the mean's age is one share of training however long that was: each
rung of a ladder is then averaged alike, and one mean serves all rungs, for it knows no end.

Source: Shamir and Zhang 2013, arXiv:1212.1824, for the running form; Karras et al. 2024,
arXiv:2312.02696, for its profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scalekit.sweep.spec import TrainSpec

# Not in torch's stubs.
_lerp: Callable[..., None] = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]


class Average:
    """A running mean of weights.

    Args:
        params: The weights, which are left where they are.
        share: The age of the mean over the steps so far, at most a half, where all count alike.
    """

    def __init__(self, params: Sequence[Tensor], share: float) -> None:
        self.params = list(params)
        self.power = 1.0 / share - 2.0
        self._mean = [param.detach().clone() for param in params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights into the mean as those after `step`, counted from one."""
        weight = 1.0 - (1.0 - 1.0 / step) ** (self.power + 1.0)
        _lerp(self._mean, self.params, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean in the weights' place; they come back to the bit."""
        before = [param.detach().clone() for param in self.params]
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for param, value in zip(self.params, values, strict=True):
            param.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, numbered in the weights' order."""
        return {"mean": dict(enumerate(self._mean))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: It is of fewer or more weights.
        """
        for mine, other in zip(self._mean, state["mean"].values(), strict=True):
            mine.copy_(other)


def build_average(model: nn.Module, train: TrainSpec) -> Average | None:
    """Build the mean of the weights of a model that learn, where a run asks for one."""
    learn = [p for p in model.parameters() if p.requires_grad]
    return Average(learn, train.average_frac) if train.average_frac else None
