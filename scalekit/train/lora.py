"""Low-rank adapters on a model's linear maps, of which alone the run learns.

A map's weight is W0 + (alpha / rank) B A with W0 as it was, A (rank, in) drawn and B (out, rank)
zero at first, so that a run begins where its parent ended (Hu et al. 2021, arXiv:2106.09685,
section 4.1). Scale and start are those of peft: A is uniform within 1 / sqrt(in), which is
Kaiming's bound for a slope of sqrt(5).

Adapters are added into the weights before each pass, and their gradients follow from those of the
weights: dB = s dW A^T, dA = s B^T dW. So every way that the model has of computing itself serves,
kernels included. Gradients are computed of weights with adapters alone, by autograd and by the
kernels: what adapters save is the other weights' share of the backward pass, and the optimizer's
state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from scalekit.errors import InputError
from scalekit.models.base import LanguageModel, LinearMap, ParamGroup


class Lora(LanguageModel):
    """A model with adapters.

    Args:
        base: The model; its weights are the W0.
        targets: Names of the maps that have adapters.
        rank: Of every adapter.
        alpha: Adapters are scaled by alpha / rank.
        seed: Of the A, the same on every device.

    Raises:
        InputError: The model has none of these maps.
    """

    learns_by_hand = True

    def __init__(
        self, base: LanguageModel, targets: Sequence[str], *, rank: int, alpha: float, seed: int
    ) -> None:
        super().__init__()
        self.base, self.scaling = base.requires_grad_(requires_grad=False), alpha / rank
        self.maps: list[LinearMap] = [m for m in base.linear_maps() if m.name in targets]
        if not self.maps:
            raise InputError(
                f"start.targets: this model has none of {', '.join(targets)}; choose others, or "
                "start.method full"
            )
        generator = torch.Generator().manual_seed(seed)
        # In pairs of A and B, map by map.
        self.adapters = nn.ParameterList()
        for number, one in enumerate(self.maps):
            one.weight.requires_grad_()
            self.register_buffer(f"frozen_{number}", one.weight.detach()[one.rows].clone())
            n_out, n_in = one.weight[one.rows].shape
            bound = 1.0 / math.sqrt(n_in)
            a = torch.empty(rank, n_in).uniform_(-bound, bound, generator=generator)
            self.adapters.append(nn.Parameter(a.to(one.weight)))
            self.adapters.append(nn.Parameter(one.weight.new_zeros(n_out, rank)))
        for weight in {id(one.weight): one.weight for one in self.maps}.values():
            # In a backward pass that anyone starts, as often as the parts of a batch need one.
            weight.register_post_accumulate_grad_hook(self._pass_on)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T)."""
        self.merge()
        return self.base(tokens)

    def loss(self, tokens: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy in nats: its mean, or with reduction `none` (B, T) of it."""
        self.merge()
        return self.base.loss(tokens, targets, reduction=reduction)

    def gradients(
        self,
        tokens: Tensor,
        targets: Tensor,
        autocast: AbstractContextManager[object],
        **options: Any,
    ) -> Tensor:
        """Set the adapters' gradients to those of the mean loss, and return the loss."""
        self.merge()
        self.adapters.zero_grad(set_to_none=True)
        loss = self.base.gradients(tokens, targets, autocast, **options)
        for one in self.maps:
            # Kernels set gradients and call no hooks.
            if one.weight.grad is not None:
                self._pass_on(one.weight)
        return loss

    @torch.no_grad()
    def _pass_on(self, weight: Tensor) -> None:
        """Add a weight's gradient to those of its adapters, and forget it."""
        for one, a, b in self._parts():
            if one.weight is weight:
                assert weight.grad is not None
                change = weight.grad[one.rows]
                for p, gradient in ((a, b.mT @ change), (b, change @ a.mT)):
                    gradient.mul_(self.scaling)
                    p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        weight.grad = None

    @torch.no_grad()
    def merge(self) -> LanguageModel:
        """Put the adapters into the weights of the model below, and return it."""
        for number, (one, a, b) in enumerate(self._parts()):
            weight = one.weight.detach()[one.rows]
            torch.addmm(self.get_buffer(f"frozen_{number}"), b, a, alpha=self.scaling, out=weight)
        return self.base

    def layers(self) -> list[nn.Module]:
        """Return those of the model below."""
        return self.base.layers()

    def recomputable(self) -> Mapping[str, list[nn.Module]]:
        """Return, by name, what of the model below may be computed again."""
        return self.base.recomputable()

    def computed_by(self) -> str:
        """Say by what means gradients are computed, for the record: results differ in rounding."""
        return self.base.computed_by()

    def groups(self) -> list[ParamGroup]:
        """Return the adapters, as matrices that decay; nothing else learns."""
        return [ParamGroup("adapters", list(self.adapters), 1.0, decays=True)]

    def _parts(self) -> Iterator[tuple[LinearMap, Tensor, Tensor]]:
        pairs = zip(self.adapters[::2], self.adapters[1::2], strict=True)
        for one, (a, b) in zip(self.maps, pairs, strict=True):
            yield one, a, b
