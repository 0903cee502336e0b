"""The contract of `models/`: counted to the number, causal, seeded, and refusing what cannot be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekit import registry
from scalekit.counting import MLPS, count_params
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel, Model, build_seeded, count_module_params
from scalekit.sweep.spec import shape_of

MODELS = [registry.find("models", name) for name in registry.names("models")]
of_every_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)


def config(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "head_dim": 4,
        "d_ff": 24,
        "vocab": 11,
        "context": 8,
        "mlp": "swiglu",
        "tied": False,
        "qk_norm": True,
        "rope_theta": 10000.0,
        "parametrization": "standard",
        "base_width": None,
        "base_depth": None,
    }
    return {**base, **changes}


def tokens(n_rows: int = 3, context: int = 8, vocab: int = 11, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab, (n_rows, context), generator=torch.Generator().manual_seed(seed))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    n_kv_heads = draw(st.integers(1, 3))
    return config(
        d_model=draw(st.integers(1, 20)),
        n_layers=draw(st.integers(1, 3)),
        n_kv_heads=n_kv_heads,
        n_heads=n_kv_heads * draw(st.integers(1, 3)),
        head_dim=2 * draw(st.integers(1, 4)),
        d_ff=draw(st.integers(1, 30)),
        vocab=draw(st.integers(2, 30)),
        mlp=draw(st.sampled_from(MLPS)),
        tied=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        parametrization=draw(st.sampled_from(["standard", "mup", "completep"])),
        base_width=draw(st.integers(1, 20)),
        base_depth=draw(st.integers(1, 3)),
    )


@of_every_model
@settings(max_examples=60, deadline=None)
@given(chosen=configs())
def test_a_module_has_the_parameters_that_counting_says(
    model: Model, chosen: dict[str, Any]
) -> None:
    module = build_seeded(model, chosen, seed=0)
    counted = count_params(shape_of(chosen))
    assert count_module_params(module) == counted["total"]


@of_every_model
@settings(max_examples=30, deadline=None)
@given(chosen=configs())
def test_every_combination_gives_logits_a_loss_and_a_gradient_everywhere(
    model: Model, chosen: dict[str, Any]
) -> None:
    module = build_seeded(model, chosen, seed=0)
    inputs = tokens(vocab=chosen["vocab"])
    logits = module(inputs)
    assert logits.shape == (*inputs.shape, chosen["vocab"])
    module.loss(inputs, inputs.flip(1)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@of_every_model
def test_groups_hold_every_parameter_once_and_only_matrices_decay(model: Model) -> None:
    module = build_seeded(model, config(), seed=0)
    held = Counter(id(p) for group in module.groups() for p in group.params)
    assert held == Counter(id(p) for p in module.parameters())
    for group in module.groups():
        assert all((p.ndim >= 2) == group.decays for p in group.params)


@of_every_model
def test_the_loss_is_the_mean_negative_log_probability_of_the_targets(model: Model) -> None:
    module = build_seeded(model, config(), seed=0)
    inputs, targets = tokens(seed=1), tokens(seed=2)
    logs = torch.log_softmax(module(inputs).double(), dim=-1)
    expected = -logs.detach().gather(2, targets[..., None])[..., 0]
    each = module.loss(inputs, targets, reduction="none")
    # float32 logits of order one: seven digits.
    torch.testing.assert_close(each.double(), expected, rtol=1e-5, atol=1e-5)
    assert module.loss(inputs, targets).item() == pytest.approx(float(expected.mean()), rel=1e-5)


@of_every_model
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_a_token_does_not_see_the_ones_after_it(model: Model, n_kv_heads: int) -> None:
    module = build_seeded(model, config(n_kv_heads=n_kv_heads), seed=0)
    inputs = tokens()
    changed = inputs.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = module(inputs), module(changed)
    # Equal but for the order in which a blocked kernel adds.
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-4)


@of_every_model
def test_position_matters_though_tokens_repeat(model: Model) -> None:
    module = build_seeded(model, config(), seed=0)
    swapped = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    assert not torch.allclose(module(swapped[0])[:, -1], module(swapped[1])[:, -1], atol=1e-6)


@of_every_model
def test_the_seed_alone_decides_the_initial_numbers(model: Model) -> None:
    def numbers(seed: int) -> torch.Tensor:
        parameters = build_seeded(model, config(), seed).parameters()
        return torch.cat([p.detach().flatten() for p in parameters])

    assert torch.equal(numbers(3), numbers(3))
    assert not torch.equal(numbers(3), numbers(4))


@of_every_model
def test_the_untrained_loss_is_near_that_of_a_uniform_guess(model: Model) -> None:
    module = build_seeded(model, config(d_model=64, n_heads=4, head_dim=16, vocab=256), seed=0)
    inputs, targets = tokens(16, vocab=256, seed=1), tokens(16, vocab=256, seed=2)
    uniform = torch.tensor(256.0).log()
    # Logits of unit variance add about a half; ten times that would be a broken initialisation.
    assert module.loss(inputs, targets).item() == pytest.approx(float(uniform), abs=1.0)


def factors(module: LanguageModel) -> list[tuple[float, float, float]]:
    return [(g.lr_scale, g.decay_scale, g.eps_scale) for g in module.groups()]


@of_every_model
@pytest.mark.parametrize("name", ["mup", "completep"])
def test_a_parametrization_at_its_base_shape_is_standard(model: Model, name: str) -> None:
    plain = build_seeded(model, config(), seed=0)
    base = {"base_width": 16, "base_depth": 2}
    same = build_seeded(model, config(parametrization=name, **base), seed=0)
    assert torch.equal(plain(tokens()), same(tokens()))
    assert factors(plain) == factors(same) == [(1.0, 1.0, 1.0)] * 3


@of_every_model
def test_the_factors_of_learning_are_the_published_ones(model: Model) -> None:
    # Four times as wide and twice as deep as where the rate was tuned.
    shape = {"d_model": 16, "n_layers": 2, "base_width": 4, "base_depth": 1}
    mup = build_seeded(model, config(parametrization="mup", **shape), seed=0)
    assert factors(mup) == [(1 / 4, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)]
    complete = build_seeded(model, config(parametrization="completep", **shape), seed=0)
    assert factors(complete) == [(1 / 4, 4.0, 1 / 8), (1.0, 1.0, 1 / 8), (1.0, 1.0, 1 / 8)]


@of_every_model
@pytest.mark.parametrize("mlp", MLPS)
def test_the_matrices_of_a_stack_are_those_that_it_was_fused_from(model: Model, mlp: str) -> None:
    module = build_seeded(model, config(mlp=mlp, n_kv_heads=2), seed=0)
    (hidden,) = [group for group in module.groups() if group.fused is not None]
    assert hidden.name == "hidden"
    assert hidden.fused is not None
    up = (24, 24) if mlp == "swiglu" else (24,)
    # Queries, keys and values of 4, 2 and 2 heads of 4; out; up; down.
    assert hidden.fused == [(16, 8, 8), (16,), up, (16,)] * 2
    assert [sum(rows) for rows in hidden.fused] == [len(p) for p in hidden.params]


@of_every_model
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 4, "n_kv_heads": 3}, "model.n_kv_heads: 3"),
        ({"head_dim": 5}, "model.head_dim: 5"),
        ({"parametrization": "mup"}, "model.base_width"),
        ({"parametrization": "completep", "base_depth": 2}, "model.base_width"),
        ({"parametrization": "completep", "base_width": 8}, "model.base_depth"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_name(
    model: Model, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        model.build(config(**changes))


def reference_gpt(module: LanguageModel, chosen: dict[str, Any], inputs: torch.Tensor):
    """The same model written out in float64 with real rotations and an explicit mask."""
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    H, G, d = chosen["n_heads"], chosen["n_kv_heads"], chosen["head_dim"]

    def norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    def turn(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for t in range(x.shape[1]):
            for i in range(d // 2):
                angle = torch.tensor(t * chosen["rope_theta"] ** (-2 * i / d), dtype=torch.float64)
                a, b = x[:, t, :, 2 * i], x[:, t, :, 2 * i + 1]
                out[:, t, :, 2 * i] = a * angle.cos() - b * angle.sin()
                out[:, t, :, 2 * i + 1] = a * angle.sin() + b * angle.cos()
        return out

    x = w["embedding"][inputs]
    B, T = inputs.shape
    branch = 1.0
    if chosen["parametrization"] == "completep":
        branch = chosen["base_depth"] / chosen["n_layers"]
    for layer in range(chosen["n_layers"]):
        at = f"blocks.{layer}."
        h = norm(x, w[at + "attention_gain"])
        heads = (h @ w[at + "attention.qkv"].T).view(B, T, H + 2 * G, d)
        q, k, v = heads[:, :, :H], heads[:, :, H : H + G], heads[:, :, H + G :]
        if chosen["qk_norm"]:
            q, k = norm(q, w[at + "attention.q_gain"]), norm(k, w[at + "attention.k_gain"])
        q, k = turn(q), turn(k)
        k, v = k.repeat_interleave(H // G, 2), v.repeat_interleave(H // G, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / d**0.5
        mask = torch.ones(T, T, dtype=torch.bool).tril()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, T, H * d)
        x = x + branch * mixed @ w[at + "attention.out"].T
        h = norm(x, w[at + "mlp_gain"]) @ w[at + "mlp.up"].T
        if chosen["mlp"] == "swiglu":
            h = torch.nn.functional.silu(h[..., : chosen["d_ff"]]) * h[..., chosen["d_ff"] :]
        elif chosen["mlp"] == "relu2":
            h = h.clamp(min=0) ** 2
        else:
            h = 0.5 * h * (1 + torch.erf(h / 2**0.5))
        x = x + branch * h @ w[at + "mlp.down"].T
    scale = 1.0
    if chosen["parametrization"] != "standard":
        scale = chosen["base_width"] / chosen["d_model"]
    head = w["embedding"] if chosen["tied"] else w["head"]
    return scale * norm(x, w["gain"]) @ head.T


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize(
    ("n_kv_heads", "tied", "parametrization"),
    [(4, False, "standard"), (2, True, "mup"), (1, False, "completep")],
)
def test_gpt_computes_what_a_plain_float64_transformer_computes(
    mlp: str, qk_norm: bool, n_kv_heads: int, tied: bool, parametrization: str
) -> None:
    chosen = config(mlp=mlp, qk_norm=qk_norm, n_kv_heads=n_kv_heads, tied=tied)
    chosen |= {"parametrization": parametrization, "base_width": 8, "base_depth": 1}
    module = build_seeded(registry.find("models", "gpt"), chosen, seed=0)
    with torch.no_grad():  # gains away from one, so that a misplaced gain shows
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = tokens()
    expected = reference_gpt(module, chosen, inputs)
    # float32 against float64 over two layers of order-one numbers.
    torch.testing.assert_close(module(inputs).double(), expected, rtol=1e-4, atol=1e-4)
