"""AdamW against its own definition: decay on matrices only, factors by group, clipping by norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scalekit.models.base import LanguageModel, ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizer import build_optimizer, clip_gradients, set_lr


class TwoParts(LanguageModel):
    """A matrix that learns at half the rate and a gain that does not decay."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4))
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens @ self.matrix * self.gain

    def groups(self) -> list[ParamGroup]:
        return [
            ParamGroup("matrix", [self.matrix], 0.5, decays=True),
            ParamGroup("gain", [self.gain], 1.0, decays=False),
        ]


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate({"lr": 0.01, "weight_decay": 0.3, **changes})


def test_three_steps_are_those_of_the_published_update() -> None:
    model, train = TwoParts(), spec()
    optimizer = build_optimizer(model, train)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for t in (1, 2, 3):
        set_lr(optimizer, train.lr / t)
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
            g = p.grad.double()
            lr, decay = (0.5 * train.lr / t, 0.3) if name == "matrix" else (train.lr / t, 0.0)
            first[name] = train.beta1 * first[name] + (1 - train.beta1) * g
            second[name] = train.beta2 * second[name] + (1 - train.beta2) * g**2
            m = first[name] / (1 - train.beta1**t)
            v = second[name] / (1 - train.beta2**t)
            expected[name] -= lr * decay * expected[name]
            expected[name] -= lr * m / (v.sqrt() + train.eps)
        optimizer.step()
    for name, p in model.named_parameters():
        # Three float32 updates of numbers of order one.
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_gradient_over_the_limit_is_scaled_to_it_and_keeps_its_direction() -> None:
    model = TwoParts()
    params = list(model.parameters())
    for p in params:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    before = [p.grad.clone() for p in params if p.grad is not None]
    norm = torch.cat([g.flatten() for g in before]).norm()
    assert float(clip_gradients(params, 0.25)) == pytest.approx(float(norm), rel=1e-6)
    for p, g in zip(params, before, strict=True):
        # The limit is divided by norm + 1e-6.
        torch.testing.assert_close(p.grad, g * 0.25 / norm, rtol=1e-5, atol=0)


def test_a_gradient_within_the_limit_is_left_alone() -> None:
    model = TwoParts()
    params = list(model.parameters())
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    clip_gradients(params, 1.0)
    assert all(torch.equal(p.grad, torch.full_like(p, 1e-3)) for p in params if p.grad is not None)
