"""Low-rank adapters on a model's linear maps, of which alone the run learns.

A map's weight is W0 + (alpha / rank) B A with W0 as it was, A (rank, in) drawn and B (out, rank)
zero at first, so that a run begins where its parent ended (Hu et al. 2021, arXiv:2106.09685,
section 4.1). Scale and start are those of peft: A is uniform within 1 / sqrt(in), which is
Kaiming's bound for a slope of sqrt(5).

Adapters are added into the weights before each pass, so every way that the model has of computing
itself serves, kernels included. Their gradients come from the maps (`LinearMap.adapters`): those of
the weights are not computed, and there is no optimizer's state for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from scalekit.errors import InputError
from scalekit.models.base import Adapter, LanguageModel, LinearMap, ParamGroup


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
            weight = one.weight.detach()[one.rows]
            self.register_buffer(f"frozen_{number}", weight.clone())
            n_out, n_in = weight.shape
            bound = 1.0 / math.sqrt(n_in)
            drawn = torch.empty(rank, n_in).uniform_(-bound, bound, generator=generator)
            a = nn.Parameter(drawn.to(weight))
            b = nn.Parameter(weight.new_zeros(n_out, rank))
            self.adapters += [a, b]
            one.adapters.append(Adapter(one.rows, a, b, self.scaling))

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
        return self.base.gradients(tokens, targets, autocast, **options)

    @torch.no_grad()
    def merge(self) -> LanguageModel:
        """Put the adapters into the weights of the model below, and return it."""
        pairs = zip(self.adapters[::2], self.adapters[1::2], strict=True)
        for number, (one, (a, b)) in enumerate(zip(self.maps, pairs, strict=True)):
            before = self.get_buffer(f"frozen_{number}")
            weight = one.weight.detach()[one.rows]
            torch.addmm(before, b, a, alpha=self.scaling, out=weight)
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
        """Return the adapters, as matrices that decay; nothing else learns.

        A sums over as many numbers as a hidden matrix and has its factors, B over a few: what a
        parametrization says of inputs and outputs by how they grow with width (Yang et al. 2022,
        arXiv:2203.03466, table 8; Hayou et al. 2024, arXiv:2402.12354, for adapters).
        """
        like = next((g for g in self.base.groups() if g.fused is not None), None)
        rate, decay, eps = (like.lr_scale, like.decay_scale, like.eps_scale) if like else (1, 1, 1)
        into, out = list(self.adapters[::2]), list(self.adapters[1::2])
        return [
            ParamGroup("adapters in", into, rate, decays=True, decay_scale=decay, eps_scale=eps),
            ParamGroup("adapters out", out, 1.0, decays=True, eps_scale=eps),
        ]
