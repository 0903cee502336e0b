"""Several models as one batched model have each model's own losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_models import config

from scalekit import registry
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel, build_seeded

CASES: dict[str, dict[str, Any]] = {
    "swiglu, untied": {"mlp": "swiglu"},
    "relu2, tied, grouped queries": {"mlp": "relu2", "tied": True, "n_kv_heads": 2},
    "gelu, no query norm, completep": {
        "mlp": "gelu",
        "qk_norm": False,
        "parametrization": "completep",
        "base_width": 8,
        "base_depth": 1,
    },
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_stacked_models_have_the_losses_and_gradients_of_each_alone(
    changes: dict[str, Any],
) -> None:
    models = [build_seeded(registry.find("models", "gpt"), config(**changes), s) for s in range(3)]
    for model in models:
        # Gains away from one, and numbers in which another order of sums does not show.
        model.double()
        model.rotation = model.rotation.to(torch.complex128)
        for p in model.parameters():
            p.data += 0.1 * torch.randn_like(p)
    rows = torch.randint(11, (3, 4, 9), generator=torch.Generator().manual_seed(0))
    inputs, targets = rows[..., :-1].contiguous(), rows[..., 1:].contiguous()
    named = [dict(model.named_parameters()) for model in models]
    stacked = {
        name: torch.stack([one[name].detach() for one in named]).requires_grad_()
        for name in named[0]
    }
    losses = models[0].stacked_losses(stacked, inputs, targets)
    losses.mean((1, 2)).sum().backward()
    for r, model in enumerate(models):
        alone = model.loss(inputs[r], targets[r], reduction="none")
        alone.mean().backward()
        # Rounding of float64, summed over a few dozen terms.
        torch.testing.assert_close(losses[r], alone, rtol=1e-10, atol=1e-12)
        for name, p in named[r].items():
            found = stacked[name].grad
            assert found is not None
            torch.testing.assert_close(found[r], p.grad, rtol=1e-9, atol=1e-12)


def test_a_model_without_a_stacked_form_says_what_to_do() -> None:
    class Plain(LanguageModel):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens

        def groups(self) -> list[Any]:
            return []

    nothing = torch.zeros(1, 1, 1)
    with pytest.raises(InputError, match="Plain has no stacked form; leave stack out"):
        Plain().stacked_losses({}, nothing, nothing)
