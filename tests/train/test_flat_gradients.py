"""The optimizer beside torch's own, gradients in one tensor, and what a step must not load."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from scalekit.models.base import LanguageModel, ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizer import build_optimizer, clip_gradients, set_lr

PROBE = """
import sys
from contextlib import nullcontext
import torch
from scalekit import registry
from scalekit.counting import Shape
from scalekit.models.base import build_seeded
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizer import build_optimizer, clip_gradients

model = build_seeded(registry.find("models", "gpt"), vars(Shape(8, 1, 2, 4, 2, 16, 11, 4)), 0)
tokens = torch.zeros(2, 4, dtype=torch.int64)
for name in registry.names("train.optimizers"):
    optimizer = build_optimizer(model, TrainSpec(optimizer=name))
    model.gradients(tokens, tokens, nullcontext())
    clip_gradients(list(model.parameters()), 1.0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


class Plain(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(5, 4))
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens @ self.matrix.T * self.gain

    def groups(self) -> list[ParamGroup]:
        return [
            ParamGroup("matrix", [self.matrix], 0.5, decays=True),
            ParamGroup("gain", [self.gain], 1.0, decays=False),
        ]


def set_gradients(model: nn.Module, seed: int, *, flat: bool) -> None:
    params = list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(sum(p.numel() for p in params), generator=generator)
    for p, part in zip(params, numbers.split([p.numel() for p in params]), strict=True):
        p.grad = part.view_as(p) if flat else part.view_as(p).clone()


@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_gradients_in_one_tensor_are_clipped_like_separate_ones(limit: float) -> None:
    one, many = Plain(), Plain()
    set_gradients(one, 1, flat=True)
    set_gradients(many, 1, flat=False)
    norm = clip_gradients(list(one.parameters()), limit)
    # One sum instead of a sum of sums.
    torch.testing.assert_close(norm, clip_gradients(list(many.parameters()), limit))
    for p, q in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_part_of_one_tensor_is_clipped_by_its_own_norm() -> None:
    model = Plain()
    set_gradients(model, 1, flat=True)
    assert model.matrix.grad is not None
    expected = model.matrix.grad.norm()
    torch.testing.assert_close(clip_gradients([model.matrix], 1e6), expected)


def test_steps_are_those_of_torchs_own_adamw() -> None:
    train = TrainSpec.model_validate({"lr": 0.01, "weight_decay": 0.3, "eps": 1e-3})
    ours, theirs = Plain(), Plain()
    optimizer = build_optimizer(ours, train)
    peer = torch.optim.AdamW(
        [
            {"params": group.params, "weight_decay": 0.3 if group.decays else 0.0}
            for group in theirs.groups()
        ],
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=True,
    )
    for step in range(1, 6):
        set_lr(optimizer, train.lr / step)
        for group, own in zip(peer.param_groups, theirs.groups(), strict=True):
            group["lr"] = train.lr / step * own.lr_scale
        for model, each in ((ours, optimizer), (theirs, peer)):
            set_gradients(model, step, flat=model is ours)
            each.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_run_does_not_load_torchs_compiler() -> None:
    # In a process of its own: other tests may have loaded it.
    subprocess.run([sys.executable, "-c", PROBE], check=True)


def test_a_state_loaded_between_steps_is_the_one_that_is_used() -> None:
    train = TrainSpec.model_validate({"lr": 0.01})
    model = Plain()
    optimizer = build_optimizer(model, train)
    for step in (1, 2):
        set_gradients(model, step, flat=True)
        optimizer.step()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ends = []
    for _ in range(2):
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        for step in (3, 4, 5):
            set_gradients(model, step, flat=True)
            optimizer.step()
        ends.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
