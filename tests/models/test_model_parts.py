"""Every parameter of every model learns, and is counted where `counting` says it is."""

from __future__ import annotations

from itertools import product

import pytest
from test_models import config, of_every_model, tokens

from scalekit import registry
from scalekit.counting import MLPS, count_params
from scalekit.models.base import Model, build_seeded, count_module_params
from scalekit.sweep.spec import shape_of

VARIANTS = [
    {"mlp": mlp, "tied": tied, "qk_norm": qk_norm, "n_kv_heads": n_kv_heads, **width}
    for mlp, tied, qk_norm, n_kv_heads, width in product(
        MLPS,
        [True, False],
        [True, False],
        [4, 2],
        [{}, {"parametrization": "completep", "base_width": 8, "base_depth": 1}],
    )
]


@of_every_model
def test_every_parameter_of_every_variant_has_a_gradient_that_is_not_zero(model: Model) -> None:
    for variant in VARIANTS:
        module = build_seeded(model, config(**variant), seed=0)
        module.loss(tokens(seed=1), tokens(seed=2)).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, (variant, name)
            # Of a matrix every row, so that no head, channel or fused part is left out; tokens
            # that do not occur and hidden units that relu2 cuts off for all of them get none.
            if parameter.ndim == 2 and name != "embedding" and variant["mlp"] != "relu2":
                assert parameter.grad.abs().sum(1).min() > 0, (variant, name)
            assert parameter.grad.abs().sum() > 0, (variant, name)


@pytest.mark.parametrize("tied", [True, False])
def test_gpts_parts_are_counted_as_they_are_named(tied: bool) -> None:
    chosen = config(tied=tied)
    module = build_seeded(registry.find("models", "gpt"), chosen, seed=0)
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    counted = count_params(shape_of(chosen))
    table = sizes["embedding"]
    assert counted["total"] == count_module_params(module) == sum(sizes.values())
    assert counted["non_embedding"] == sum(sizes.values()) - table - sizes.get("head", 0)
    # A tied head is the embedding, and the head is what a product is computed with.
    assert counted["non_embedding_head"] == counted["non_embedding"] + table
