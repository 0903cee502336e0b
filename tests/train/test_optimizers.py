"""The contract of `train/optimizers/`, and Muon beside torch's own and its definition."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scalekit import registry
from scalekit.models.base import LanguageModel, ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizer import build_optimizer, set_lr
from scalekit.train.optimizers import muon
from scalekit.train.optimizers.base import Optimizer
from scalekit.train.optimizers.muon import orthogonalise

NAMES = registry.names("train.optimizers")
of_every_optimizer = pytest.mark.parametrize("name", NAMES)

SHAPES = [(6, 6), (4, 9), (9, 4)]


class Parts(LanguageModel):
    """Hidden matrices of every shape, the last a stack of two; an end that decays; a gain."""

    def __init__(self, lr_scale: float = 1.0, decay_scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.ParameterList(torch.randn(shape) for shape in SHAPES)
        self.stack = nn.Parameter(torch.randn(7, 5))
        self.end = nn.Parameter(torch.randn(3, 4))
        self.gain = nn.Parameter(torch.randn(4))
        self.scales = lr_scale, decay_scale

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def groups(self) -> list[ParamGroup]:
        hidden: list[nn.Parameter] = [*self.hidden, self.stack]
        fused = [*((len(p),) for p in self.hidden), (3, 4)]
        lr_scale, decay_scale = self.scales
        return [
            ParamGroup(
                "hidden", hidden, lr_scale, decays=True, decay_scale=decay_scale, fused=fused
            ),
            ParamGroup("ends", [self.end], 1.0, decays=True),
            ParamGroup("gains", [self.gain], 1.0, decays=False),
            ParamGroup("none", [], 1.0, decays=False),
        ]


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate({"lr": 0.01, "weight_decay": 0.3, **changes})


def step(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def test_the_choices_of_a_sweep_file_are_the_members() -> None:
    assert set(get_args(TrainSpec.model_fields["optimizer"].annotation)) == set(NAMES)


@of_every_optimizer
def test_every_parameter_moves_against_its_gradient(name: str) -> None:
    model = Parts()
    optimizer = build_optimizer(model, spec(optimizer=name, weight_decay=0.0))
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, seed=1)
    for key, p in model.named_parameters():
        assert p.grad is not None
        assert float(((p.detach() - before[key]) * p.grad).sum()) < 0, key


@of_every_optimizer
def test_without_a_gradient_only_what_decays_shrinks_by_rate_times_decay(name: str) -> None:
    model = Parts()
    optimizer = build_optimizer(model, spec(optimizer=name))
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    set_lr(optimizer, 0.5)
    optimizer.step()
    for key, p in model.named_parameters():
        kept = 1.0 if key == "gain" else 1 - 0.5 * 0.3
        # One float32 product.
        torch.testing.assert_close(p.detach(), kept * before[key], rtol=1e-6, atol=0)


@of_every_optimizer
def test_rate_and_decay_that_are_scaled_against_each_other_shrink_alike(name: str) -> None:
    sizes = []
    for scale in (1.0, 0.25):
        model = Parts(lr_scale=scale, decay_scale=1 / scale)
        optimizer = build_optimizer(model, spec(optimizer=name))
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        set_lr(optimizer, 0.5)
        optimizer.step()
        sizes.append(model.stack.detach().norm())
    torch.testing.assert_close(*sizes, rtol=1e-6, atol=0)


@of_every_optimizer
def test_a_state_that_is_written_and_read_gives_the_same_steps(name: str, tmp_path) -> None:
    train = spec(optimizer=name)
    one, two = Parts(), Parts()
    first, second = build_optimizer(one, train), build_optimizer(two, train)
    for seed in (1, 2):
        step(one, first, seed)
    torch.save((one.state_dict(), first.state_dict()), tmp_path / "state.pt")
    numbers, state = torch.load(tmp_path / "state.pt", weights_only=True)
    two.load_state_dict(numbers)
    second.load_state_dict(state)
    for seed in (3, 4, 5):
        step(one, first, seed)
        step(two, second, seed)
    assert all(map(torch.equal, one.parameters(), two.parameters()))


@of_every_optimizer
def test_a_state_is_not_that_of_a_fresh_optimizer(name: str) -> None:
    one, two = Parts(), Parts()
    first = build_optimizer(one, spec(optimizer=name))
    step(one, first, 1)
    two.load_state_dict(one.state_dict())
    step(one, first, 2)
    step(two, build_optimizer(two, spec(optimizer=name)), 2)
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert not torch.equal(mine, other)


@of_every_optimizer
def test_a_state_of_another_optimizer_is_refused(name: str) -> None:
    other = next(n for n in NAMES if n != name)
    state = build_optimizer(Parts(), spec(optimizer=other)).state_dict()
    with pytest.raises(KeyError):
        build_optimizer(Parts(), spec(optimizer=name)).load_state_dict(state)


# --- Muon.


def torchs_own(model: Parts, train: TrainSpec) -> torch.optim.Muon:
    return torch.optim.Muon(
        list(model.hidden),
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )


def test_steps_are_those_of_torchs_own_muon_and_adamw() -> None:
    train = spec(optimizer="muon", muon_momentum=0.8)
    ours, theirs = Parts(), Parts()
    optimizer, muon = build_optimizer(ours, train), torchs_own(theirs, train)
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs.end], "weight_decay": train.weight_decay},
            {"params": [theirs.gain], "weight_decay": 0.0},
        ],
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=True,
    )
    for k in range(1, 6):
        lr = train.lr / k
        set_lr(optimizer, lr)
        for group in (*muon.param_groups, *adamw.param_groups):
            group["lr"] = lr
        step(ours, optimizer, seed=k)
        step(theirs, muon, seed=k)
        adamw.step()
        for mine, other in zip(ours.hidden, theirs.hidden, strict=True):
            # Equal to the bit where sums of nine products are; 1 % of an update where they are not.
            torch.testing.assert_close(mine, other, rtol=0, atol=2e-5)
        assert torch.equal(ours.end, theirs.end)
        assert torch.equal(ours.gain, theirs.gain)


@pytest.mark.parametrize("shape", [(64, 64), (64, 168), (168, 64)])
def test_a_matrix_is_orthogonalised_as_torchs_own_muon_does(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    peer = nn.Parameter(torch.zeros(shape))
    peer.grad = gradient.clone()
    muon = torch.optim.Muon(
        [peer], lr=1.0, weight_decay=0.0, momentum=0.0, adjust_lr_fn="match_rms_adamw"
    )
    muon.step()
    expected = peer.detach() / (-0.2 * max(shape) ** 0.5)
    missed = orthogonalise(gradient[None])[0].float() - expected
    # The same products rounded to eight bits, summed in another order: measured at most 0.2 %.
    assert float(missed.norm() / expected.norm()) < 0.01


def test_matrices_in_a_stack_are_orthogonalised_each_by_itself() -> None:
    model, train = Parts(), spec(optimizer="muon")
    parts = [p.detach().clone() for p in model.stack.split((3, 4))]
    peers = [nn.Parameter(p) for p in parts]
    peer = torch.optim.Muon(
        peers,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    step(model, build_optimizer(model, train), seed=1)
    assert model.stack.grad is not None
    for p, g in zip(peers, model.stack.grad.split((3, 4)), strict=True):
        p.grad = g.clone()
    peer.step()
    expected = torch.cat([p.detach() for p in peers])
    torch.testing.assert_close(model.stack.detach(), expected, rtol=0, atol=2e-5)


class Calls(TorchDispatchMode):
    """Counts the products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += "bmm" in str(func)
        return func(*args, **kwargs or {})


def test_matrices_of_one_shape_are_moved_together_on_a_gpu_as_each_by_itself(monkeypatch) -> None:
    ends, products = [], []
    for at_once in (1, 10**6):
        monkeypatch.setitem(muon._AT_ONCE, "cpu", at_once)
        torch.manual_seed(0)
        model = Parts()
        model.hidden.extend(nn.Parameter(torch.randn(shape)) for shape in SHAPES * 3)
        optimizer = build_optimizer(model, spec(optimizer="muon"))
        step(model, optimizer, seed=1)
        with Calls() as calls:
            step(model, optimizer, seed=2)
        ends.append([p.detach() for p in model.parameters()])
        products.append(calls.products)
    # Fifteen a matrix: three shapes four times and two parts, against five shapes.
    assert products == [15 * 14, 15 * 5]
    # Batches may be added up in another order before they are rounded to eight bits.
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 8), (64, 64), (16, 96)])
def test_singular_values_end_near_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, spread, v = torch.linalg.svd(normal, full_matrices=False)
    matrix = u @ torch.logspace(0, -1, len(spread)).diag() @ v
    kept = u.T @ orthogonalise(matrix[None])[0].float() @ v.T
    values = kept.diagonal()
    # Jordan et al. state 0.7 to 1.2 for what five steps leave of values that are not far smaller
    # than the largest; a tenth of that for bfloat16.
    assert (values > 0.63).all()
    assert (values < 1.32).all()
    # Eight bits of each of some tens of products.
    assert (kept - values.diag()).abs().max() < 0.1


def test_an_update_has_the_size_of_adamws() -> None:
    model = Parts()
    optimizer = build_optimizer(model, spec(optimizer="muon", weight_decay=0.0))
    before = [p.detach().clone() for p in model.hidden]
    set_lr(optimizer, 1.0)
    step(model, optimizer, seed=1)
    for p, start in zip(model.hidden, before, strict=True):
        rms = (p.detach() - start).square().mean().sqrt()
        # 0.2 times singular values between 0.7 and 1.2.
        assert 0.2 * 0.65 < float(rms) < 0.2 * 1.25


def test_half_the_exponent_of_a_width_factor_reaches_hidden_matrices() -> None:
    optimizer = build_optimizer(Parts(lr_scale=1 / 16), spec(optimizer="muon"))
    set_lr(optimizer, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 1.0, 1.0]
