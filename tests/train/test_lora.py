"""Adapters against the formula that peft documents, computed another way: beside the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from scalekit import registry
from scalekit.counting import count_adapter_flops_per_token, count_adapters, count_maps
from scalekit.errors import InputError
from scalekit.models._cpu import step
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.sweep.spec import shape_of
from scalekit.train.device import choose_device
from scalekit.train.gradients import gradients_of
from scalekit.train.lora import Lora
from scalekit.train.spread import Spread, recompute_activations
from scalekit.train.team import SOLO

ALL = ("q", "k", "v", "out", "gate", "up", "down")
MLPS = ("swiglu", "relu2", "gelu")
FEWER_KEYS = {"mlp": "swiglu", "n_kv_heads": 1}


@pytest.fixture
def built(planned) -> Callable[..., LanguageModel]:
    def build(**model: Any) -> LanguageModel:
        config = planned(model=model).config["model"]
        return build_seeded(registry.find("models", "gpt"), config, seed=0)

    return build


@pytest.fixture(params=[1, 16], ids=["through the rank", "by the weight"])
def least_rank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both ways to an adapter's gradient: models as small as here would take one of them alone."""
    monkeypatch.setattr("scalekit.models.base._LEAST_RANK", request.param)
    return request.param


both_ways = pytest.mark.usefixtures("least_rank")


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(64, (3, 17), generator=generator)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def shaken(lora: Lora) -> Lora:
    """Adapters as after some training: B is zero at first and hides mistakes."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in lora.adapters:
            p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p))
    return lora


class BesideWeights:
    """The same model as peft computes it: x W0^T + (alpha / rank) (x A^T) B^T, by autograd."""

    def __init__(self, lora: Lora, monkeypatch: pytest.MonkeyPatch) -> None:
        self.adapters = [p.detach().clone().requires_grad_() for p in lora.adapters]
        lora.merge()
        self.parts: dict[int, list[tuple[slice, Tensor, Tensor, Tensor]]] = {}
        for i, one in enumerate(lora.maps):
            frozen = lora.get_buffer(f"frozen_{i}")
            a, b = self.adapters[2 * i : 2 * i + 2]
            one.adapters.clear()
            self.parts.setdefault(id(one.weight), []).append((one.rows, frozen, a, b))
        self.scaling, self.model = lora.scaling, lora.base
        monkeypatch.setattr("torch.nn.functional.linear", self.linear)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        pieces = []
        done = 0
        for rows, frozen, a, b in self.parts.get(id(weight), []):
            if rows.start > done:
                pieces.append(x @ weight.detach()[done : rows.start].mT)
            pieces.append(x @ frozen.mT + self.scaling * ((x @ a.mT) @ b.mT))
            done = rows.stop
        if done < len(weight):
            pieces.append(x @ weight.detach()[done:].mT)
        return torch.cat(pieces, dim=-1)


@both_ways
@pytest.mark.parametrize("targets", [("q", "v"), ("k", "up"), ALL], ids=str)
@pytest.mark.parametrize("model", [FEWER_KEYS, {"mlp": "gelu", "tied": True}], ids=str)
def test_loss_and_gradients_are_those_of_adapters_beside_the_weights(
    built, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], targets: tuple[str, ...]
) -> None:
    lora = shaken(Lora(built(**model).double(), targets, rank=3, alpha=6.0, seed=1))
    tokens, right = batch()
    loss = lora.gradients(tokens, right, nullcontext())
    gradients = [p.grad for p in lora.adapters]
    beside = BesideWeights(lora, monkeypatch)
    logits = beside.model(tokens)
    expected = cross_entropy(logits.flatten(0, 1), right.flatten())
    expected.backward()
    # Double precision all the way: two orders of the same sums.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, other in zip(gradients, beside.adapters, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(mine, other.grad, rtol=1e-9, atol=1e-13)


def products(model: Callable[[Tensor], Tensor], *, attends: bool = False) -> float:
    """Count the FLOPs a token of a step's products with weights, and of attention's on demand."""
    tokens, right = batch()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        cross_entropy(model(tokens).mT, right).backward()
    found, ops = counter.get_flop_counts()["Global"], torch.ops.aten
    return (found[ops.mm] + attends * found[ops.bmm]) / tokens.numel()


def test_flops_are_those_of_products_beside_the_weights(
    built, planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a layer: the first one has nothing below it that learns, so its share is smaller."""
    measured, counted = [], []
    for n_layers in (1, 2):
        model = {**FEWER_KEYS, "n_layers": n_layers}
        shape = shape_of(planned(model=model).config["model"])
        assert shape.context == batch()[0].shape[1]
        lora = shaken(Lora(built(**model), ALL, rank=3, alpha=6.0, seed=1))
        with monkeypatch.context() as patch:
            measured.append(products(BesideWeights(lora, patch).model, attends=True))
        counted.append(count_adapter_flops_per_token(shape, ALL, rank=3)["deepseek"])
    assert measured[1] - measured[0] == counted[1] - counted[0]


@pytest.mark.parametrize("rank", [3, 12])
def test_a_gradient_of_weights_is_computed_only_where_that_is_less(
    built, planned, least_rank: int, *, rank: int
) -> None:
    shape = shape_of(planned().config["model"])
    sizes = [size for name, size in count_maps(shape).items() if name in ("out", "up")]
    lora = Lora(built(), ("out", "up"), rank=rank, alpha=1.0, seed=1)
    maps = shape.n_layers * 2 * sum(o * i for o, i in count_maps(shape).values())
    # Nothing learns below the first adapter, so no gradient goes through it or further.
    first = 2 * shape.n_heads * 4 * shape.head_dim * shape.d_model
    passes = 2 * maps + 2 * 2 * shape.vocab * shape.d_model - first
    whole = sum(2 * o * i for o, i in sizes)
    through_rank = sum(2 * 2 * rank * (o + i) for o, i in sizes)
    more = products(lora) - passes
    if rank == 3 and least_rank < rank:
        assert more == shape.n_layers * through_rank < shape.n_layers * whole
    else:
        # And two products with B and A, which a batch of 48 tokens shares.
        shared = sum(2 * 2 * rank * o * i for o, i in sizes) / batch()[0].numel()
        assert more == pytest.approx(shape.n_layers * (whole + shared), rel=1e-12)


@both_ways
@pytest.mark.parametrize("at_once", [16, 2048])
@pytest.mark.parametrize("model", [FEWER_KEYS, {"mlp": "relu2"}], ids=str)
def test_the_kernels_give_the_gradients_of_autograd(
    built, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], at_once: int
) -> None:
    monkeypatch.setattr(step, "_TOKENS", at_once)
    single = shaken(Lora(built(**model), ALL, rank=3, alpha=6.0, seed=1))
    double = shaken(Lora(built(**model).double(), ALL, rank=3, alpha=6.0, seed=1))
    tokens, right = batch()
    losses = [lora.gradients(tokens, right, nullcontext()) for lora in (single, double)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)  # float32
    for mine, other in zip(single.adapters, double.adapters, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        # float32 against double, by the largest entry of each.
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=0, atol=1e-4 * scale)


@both_ways
def test_under_autocast_gradients_are_the_same_but_for_its_rounding(built) -> None:
    tokens, right = batch()
    lora = shaken(Lora(built(**FEWER_KEYS), ALL, rank=3, alpha=6.0, seed=1))
    found = []
    for dtype in ("bfloat16", "float32"):
        loss = lora.gradients(tokens, right, choose_device("cpu", dtype).autocast())
        found.append((loss.item(), [p.grad.clone() for p in lora.adapters if p.grad is not None]))
    (coarse, rough), (loss, exact) = found
    assert coarse == pytest.approx(loss, rel=0.02)
    for mine, other in zip(rough, exact, strict=True):
        assert mine.dtype == other.dtype == torch.float32
        # bfloat16 keeps 8 bits, and what went before is rounded as well.
        assert (mine - other).norm() <= 0.05 * other.norm()


@pytest.mark.parametrize("recompute", ["none", "blocks"])
def test_a_batch_in_parts_gives_the_gradients_of_all_at_once(built, recompute: str) -> None:
    tokens, right = batch()
    whole = shaken(Lora(built(**FEWER_KEYS).double(), ALL, rank=3, alpha=6.0, seed=1))
    loss = whole.gradients(tokens, right, nullcontext())
    parts = shaken(Lora(built(**FEWER_KEYS).double(), ALL, rank=3, alpha=6.0, seed=1))
    recompute_activations(parts, recompute)
    spread = Spread(SOLO, False, recompute, micro_rows=1, batch_rows=3, context=16)
    learn = gradients_of(parts, choose_device("cpu", "float32"), spread, lambda rows: None)
    for _ in range(2):  # what a step leaves behind is not added to the next
        assert learn(tokens, right).item() == pytest.approx(
            loss.item(), rel=1e-6
        )  # kept in float32
        for mine, other in zip(parts.adapters, whole.adapters, strict=True):
            assert mine.grad is not None
            assert other.grad is not None
            # Double precision all the way: two orders of the same sums.
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-13)
    assert all(p.grad is None for p in parts.base.parameters())


def test_adapters_of_a_frozen_model_that_was_evaluated_before_learn(built) -> None:
    tokens, right = batch()
    base = built().requires_grad_(requires_grad=False)
    with torch.no_grad():
        base.loss(tokens, right)
    lora = Lora(base, ALL, rank=3, alpha=6.0, seed=1)
    lora.gradients(tokens, right, nullcontext())
    assert all(b.grad is not None and b.grad.any() for b in lora.adapters[1::2])


def test_a_run_begins_exactly_where_its_parent_ended(built) -> None:
    tokens, right = batch()
    base = built()
    before = base.loss(tokens, right, reduction="none")
    lora = Lora(base, ALL, rank=4, alpha=8.0, seed=0)
    assert torch.equal(lora.loss(tokens, right, reduction="none"), before)
    assert torch.equal(shaken(lora).loss(tokens, right, reduction="none"), before) is False


def test_adapters_begin_as_in_peft(built) -> None:
    lora = Lora(built(d_model=32, n_heads=4), ALL, rank=16, alpha=8.0, seed=3)
    assert lora.scaling == 8.0 / 16
    for one, (a, b) in zip(
        lora.maps, zip(lora.adapters[::2], lora.adapters[1::2], strict=True), strict=True
    ):
        n_out, n_in = one.weight[one.rows].shape
        assert (tuple(a.shape), tuple(b.shape)) == ((16, n_in), (n_out, 16))
        assert not b.any()
        # nn.init.kaiming_uniform_(A, a=sqrt(5)), from the same place of the generator.
        twin = torch.empty(16, n_in)
        nn.init.kaiming_uniform_(twin, a=math.sqrt(5))
        assert a.abs().max() <= 1 / math.sqrt(n_in)
        # Uniform: the standard deviation is the bound over sqrt(3); 512 draws, 4 standard errors.
        spread = 1 / math.sqrt(3 * n_in)
        assert a.std().item() == pytest.approx(spread, rel=0.12)
        assert twin.std().item() == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("targets", [("q", "v"), ("gate", "up", "down"), ALL], ids=str)
def test_what_learns_is_counted_to_the_number(built, planned, mlp: str, targets: Any) -> None:
    shape = shape_of(planned(model={"mlp": mlp, "n_kv_heads": 1}).config["model"])
    targets = [name for name in targets if name in count_maps(shape)]
    lora = Lora(built(mlp=mlp, n_kv_heads=1), targets, rank=5, alpha=8.0, seed=0)
    learns = [p for group in lora.groups() for p in group.params]
    assert {*learns} == {*lora.adapters}
    assert sum(p.numel() for p in learns) == count_adapters(shape, targets, rank=5)


@pytest.mark.parametrize("mlp", MLPS)
def test_the_maps_of_a_layer_are_all_its_matrices(built, planned, mlp: str) -> None:
    model = built(mlp=mlp, n_kv_heads=1)
    shape = shape_of(planned(model={"mlp": mlp, "n_kv_heads": 1}).config["model"])
    maps = model.linear_maps()
    sizes = [tuple(one.weight[one.rows].shape) for one in maps]
    assert sizes == list(count_maps(shape).values()) * 2
    matrices = next(g for g in model.groups() if g.name == "hidden").params
    assert sum(a * b for a, b in sizes) == sum(p.numel() for p in matrices)


def test_nothing_but_adapters_changes(built) -> None:
    lora = Lora(built(), ("q", "v"), rank=2, alpha=2.0, seed=0)
    before = {name: value.clone() for name, value in lora.base.state_dict().items()}
    tokens, right = batch()
    for _ in range(3):
        lora.gradients(tokens, right, nullcontext())
        with torch.no_grad():
            for p in lora.adapters:
                p.sub_(0.1 * p.grad)
    changed = {n for n, v in lora.merge().state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"blocks.0.attention.qkv", "blocks.1.attention.qkv"}
    # Of the fused matrix (16 queries, 16 keys, 16 values) the keys stay.
    qkv = lora.base.state_dict()["blocks.0.attention.qkv"]
    assert torch.equal(qkv[16:32], before["blocks.0.attention.qkv"][16:32])


def test_a_model_without_such_maps_is_refused(built) -> None:
    with pytest.raises(InputError, match=r"start.targets: this model has none of gate"):
        Lora(built(mlp="gelu"), ("gate",), rank=2, alpha=2.0, seed=0)
