"""Coordinate checks: what learning does to activations, as width and depth grow.

Source: Yang et al. 2022, arXiv:2203.03466, appendix D.1; Dey et al. 2025, arXiv:2505.01618, for the
depth. A parametrization that transfers a learning rate changes activations by as much in wide and
deep models as in narrow and shallow ones. Measured is the root mean square of the change after five
steps, of the stream behind the last layer and of the logits.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch

from scalekit import registry
from scalekit.counting import count_maps
from scalekit.models.base import build_seeded
from scalekit.models.gpt import GPT
from scalekit.sweep.spec import TrainSpec
from scalekit.train.lora import Lora
from scalekit.train.optimizer import build_optimizer, set_lr

CONTEXT, VOCAB, ROWS, STEPS, LR = 16, 32, 8, 5, 0.01
BASE = {"base_width": 64, "base_depth": 2}
ADAPTERS: dict[str, Any] = {"rank": 4, "alpha": 8.0, "seed": 1}
of_every_optimizer = pytest.mark.parametrize("optimizer", registry.names("train.optimizers"))


@cache
def markov() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a random Markov chain, so that there is something to learn; with their targets."""
    generator = torch.Generator().manual_seed(7)
    odds = torch.randn(VOCAB, VOCAB, generator=generator).mul(2).softmax(-1)
    rows = torch.randint(VOCAB, (ROWS, CONTEXT + 1), generator=generator)
    for t in range(CONTEXT):
        rows[:, t + 1] = torch.multinomial(odds[rows[:, t]], 1, generator=generator)[:, 0]
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def activations(model: GPT) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    last = model.blocks[-1]
    hook = last.register_forward_hook(lambda _, __, out: found.update(stream=out.clone()))
    with torch.no_grad():
        found["logits"] = model(markov()[0])
    hook.remove()
    return found


@cache
def changes(
    name: str, optimizer: str, width: int, depth: int, *, adapters: bool = False
) -> dict[str, float]:
    heads = width // 16
    config = {
        "d_model": width, "n_layers": depth, "head_dim": 16, "n_heads": heads, "n_kv_heads": heads,
        "d_ff": 8 * (width // 3), "vocab": VOCAB, "context": CONTEXT, "mlp": "swiglu",
        "tied": False, "qk_norm": True, "parametrization": name, **BASE,
    }  # fmt: skip
    model = build_seeded(registry.find("models", "gpt"), config, seed=0)
    assert isinstance(model, GPT)
    before = activations(model)
    learner = Lora(model, tuple(count_maps(model.shape)), **ADAPTERS) if adapters else model
    chosen = build_optimizer(learner, TrainSpec.model_validate({"lr": LR, "optimizer": optimizer}))
    set_lr(chosen, LR)
    for _ in range(STEPS):
        learner.gradients(*markov(), nullcontext())
        chosen.step()
    if isinstance(learner, Lora):
        learner.merge()
    after = activations(model)
    return {key: float((after[key] - before[key]).square().mean().sqrt()) for key in before}


def spread(
    name: str, optimizer: str, shapes: list[tuple[int, int]], *, adapters: bool = False
) -> dict[str, float]:
    """Return the largest change over the smallest, for each activation."""
    found = [changes(name, optimizer, *shape, adapters=adapters) for shape in shapes]
    columns = {key: [row[key] for row in found] for key in found[0]}
    return {key: max(column) / min(column) for key, column in columns.items()}


WIDER, DEEPER = [(64, 2), (128, 2), (256, 2)], [(64, 2), (64, 4), (64, 8)]
FAR_DEEPER = [(64, 2), (64, 8), (64, 32)]
FAR_WIDER = {
    "adamw": [(128, 2), (256, 2), (512, 2), (1024, 2)],
    "muon": [(128, 2), (256, 2), (512, 2)],  # the cube of the width: 1024 takes a minute
}


@of_every_optimizer
@pytest.mark.parametrize(
    ("name", "shapes"), [("mup", WIDER), ("completep", WIDER), ("completep", DEEPER)]
)
def test_activations_change_alike_at_every_size(
    name: str, optimizer: str, shapes: list[tuple[int, int]]
) -> None:
    # Half as much again: the draw of the weights alone moves a change by a tenth.
    assert max(spread(name, optimizer, shapes).values()) < 1.5


@of_every_optimizer
def test_the_standard_parametrization_changes_wide_models_more(optimizer: str) -> None:
    assert max(spread("standard", optimizer, WIDER).values()) > 2


@pytest.mark.parametrize(
    ("name", "shapes"), [("mup", WIDER), ("completep", WIDER), ("completep", DEEPER)]
)
def test_adapters_change_activations_alike_at_every_size(
    name: str, shapes: list[tuple[int, int]]
) -> None:
    # The logits of the narrowest change by a quarter more, and of the deepest by a tenth less.
    assert max(spread(name, "adamw", shapes, adapters=True).values()) < 1.5


def test_adapters_of_the_standard_parametrization_change_wide_models_more() -> None:
    assert max(spread("standard", "adamw", WIDER, adapters=True).values()) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mup", "completep"])
def test_adapters_change_activations_alike_over_a_wide_range_of_widths(name: str) -> None:
    assert max(spread(name, "adamw", FAR_WIDER["adamw"], adapters=True).values()) < 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mup", "completep"])
@of_every_optimizer
def test_activations_change_alike_over_a_wide_range_of_widths(name: str, optimizer: str) -> None:
    assert max(spread(name, optimizer, FAR_WIDER[optimizer]).values()) < 2


@of_every_optimizer
def test_activations_change_alike_over_a_wide_range_of_depths(optimizer: str) -> None:
    assert max(spread("completep", optimizer, FAR_DEEPER).values()) < 2
    assert spread("mup", optimizer, FAR_DEEPER)["stream"] > 3


@pytest.mark.slow
def test_the_standard_parametrization_fails_the_check_by_far() -> None:
    assert spread("standard", "adamw", FAR_WIDER["adamw"])["stream"] > 10
