"""A model whose losses are written down, so that a rule about losses can be asked exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from scalekit.models.base import LanguageModel, Model, ParamGroup


class Scripted(LanguageModel):
    """The loss of the k-th training step is the k-th of `losses`; an exception there is raised."""

    calls: torch.Tensor

    def __init__(self, losses: Sequence[float | Exception], held_out: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._losses, self._held_out = losses, held_out

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def groups(self) -> list[ParamGroup]:
        return [ParamGroup("weight", [self.weight], 1.0, decays=True)]

    def loss(
        self, tokens: torch.Tensor, targets: torch.Tensor, *, reduction: str = "mean"
    ) -> torch.Tensor:
        if reduction == "none":
            return torch.full(targets.shape, self._held_out)
        self.calls += 1
        value = self._losses[int(self.calls) - 1]
        if isinstance(value, Exception):
            raise value
        return self.weight.sum() * 0.0 + value


def script(
    patch: pytest.MonkeyPatch, losses: Sequence[float | Exception], held_out: float = 2.0
) -> None:
    """Put such a model in the place of `gpt`."""

    def build(config: Mapping[str, Any]) -> Scripted:
        return Scripted(losses, held_out)

    patch.setattr("scalekit.models.gpt.MODEL", Model("gpt", build))
