"""A step asks its device for nothing: whoever asks a GPU for a number waits until it is idle.

Held on torch's device without numbers, `meta`, on which every question is an error.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scalekit import registry
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.sweep.spec import RunConfig
from scalekit.train.average import build_average
from scalekit.train.device import Device
from scalekit.train.gradients import gradients_of
from scalekit.train.loop import Learner
from scalekit.train.lora import Lora
from scalekit.train.optimizer import build_optimizer
from scalekit.train.spread import Spread, recompute_activations
from scalekit.train.stack import Stack
from scalekit.train.team import SOLO

NOWHERE = Device(torch.device("meta"), "float32")


def learner(planned, *, adapters: bool = False, micro_rows: int = 8, **train: Any) -> Learner:
    spec = planned(train=train)
    config = RunConfig.model_validate(spec.config)
    model: LanguageModel = build_seeded(registry.find("models", "gpt"), spec.config["model"], 0)
    model.to(NOWHERE.torch)
    if adapters:
        model = Lora(model, ("q", "up"), rank=2, alpha=2.0, seed=0)
    recompute_activations(model, "blocks" if micro_rows < 8 else "none")
    spread = Spread(SOLO, False, "none", micro_rows, 8, 16)
    gradients = gradients_of(model, NOWHERE, spread, lambda rows: None)
    return Learner(model, build_optimizer(model, config.train), NOWHERE, 1.0, gradients)


def rows(*sizes: int) -> Tensor:
    return torch.zeros(*sizes, dtype=torch.int64, device=NOWHERE.torch)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("adapters", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("micro_rows", [8, 3], ids=["at once", "in parts"])
def test_no_step_waits_for_its_device(
    planned, *, optimizer: str, adapters: bool, micro_rows: int
) -> None:
    averaged = {"schedule": "constant", "average_frac": 0.3}
    one = learner(
        planned, adapters=adapters, micro_rows=micro_rows, optimizer=optimizer, **averaged
    )
    config = RunConfig.model_validate(planned(train=averaged).config)
    average = build_average(one.model, config.train)
    assert average is not None
    loss, norm = one.learn(rows(8, 16), rows(8, 16), 1e-3)
    average.update(1)
    assert loss.device == norm.device == NOWHERE.torch


def test_no_step_of_a_stack_waits_for_its_device(planned) -> None:
    stack = Stack([learner(planned, seed=i) for i in range(3)], 3, lambda rows: None)
    losses, norms = stack.learn(rows(3, 8, 16), rows(3, 8, 16), [1e-3, 1e-3, 2e-3])
    assert losses.device == norms.device == NOWHERE.torch


def test_a_step_that_asked_would_be_seen(planned, monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner(planned)

    def ask(params: Any, limit: float) -> Tensor:
        norm = torch.zeros((), device=NOWHERE.torch)
        return norm if norm > limit else norm + 1

    monkeypatch.setattr("scalekit.train.loop.clip_gradients", ask)
    with pytest.raises((RuntimeError, NotImplementedError)):
        one.learn(rows(8, 16), rows(8, 16), 1e-3)
