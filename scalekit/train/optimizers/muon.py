"""Muon: hidden matrices move along their orthogonalised momentum; AdamW moves everything else.

Sources: Jordan et al. 2024, kellerjordan.github.io/posts/muon (the method, its coefficients); Liu
et al. 2025, arXiv:2502.16982 (decoupled decay, and an update as large as AdamW's, so that one
learning rate serves both). The numbers are those of `torch.optim.Muon` with `match_rms_adamw`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scalekit.models.base import ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizers.adamw import AdamW
from scalekit.train.optimizers.adamw import build as build_adamw
from scalekit.train.optimizers.base import Method, Optimizer, settings

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
_RMS = 0.2
"""The root mean square of AdamW's updates, as Liu et al. found it in practice."""

_ON_A_GPU = 1 << 25
"""Numbers of matrices that are orthogonalised at once, or one matrix: what takes a GPU's time by
itself needs no company, and its copies would take memory.
"""
_AT_ONCE = {"cpu": 1}
"""The same on other devices."""

# Not in torch's stubs.
_lerp_: Callable[..., None] = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
_lerp: Callable[..., Sequence[Tensor]] = torch._foreach_lerp  # pyright: ignore[reportPrivateImportUsage]
_add_: Callable[..., None] = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
_mul_: Callable[..., None] = torch._foreach_mul_  # pyright: ignore[reportPrivateImportUsage]


class Muon(Optimizer):
    """Muon for hidden matrices beside AdamW for the other groups.

    Args:
        hidden: From `settings`, with `fused` of the same groups.
        rest: AdamW over the other groups, or None where there are none.
        momentum: Decay of the mean gradient; Nesterov's look ahead is always taken.
    """

    def __init__(
        self, hidden: list[dict[str, Any]], rest: AdamW | None, *, momentum: float
    ) -> None:
        self.hidden, self.rest, self.momentum = hidden, rest, momentum
        self.param_groups = [*hidden, *(rest.param_groups if rest else [])]
        self._means = [
            [torch.zeros_like(p, requires_grad=False) for p in group["params"]] for group in hidden
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by its gradient."""
        for group, means in zip(self.hidden, self._means, strict=True):
            lr, params = group["lr"], group["params"]
            grads = [p.grad for p in params]
            _lerp_(means, grads, 1 - self.momentum)
            ahead = _lerp(grads, means, self.momentum)
            _mul_(params, 1 - lr * group["weight_decay"])
            parts, along = (_split(whole, group["fused"]) for whole in (params, ahead))
            for places in _alike(parts):
                some = [parts[i] for i in places]
                size = _RMS * math.sqrt(max(some[0].shape))
                found = orthogonalise(torch.stack([along[i] for i in places]))
                _add_(some, found.type_as(some[0]).contiguous().unbind(), alpha=-lr * size)
        if self.rest is not None:
            self.rest.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the mean gradients, numbered through the groups, and the state of AdamW."""
        means = [mean for group in self._means for mean in group]
        return {
            "state": {i: {"momentum_buffer": mean} for i, mean in enumerate(means)},
            "rest": self.rest.state_dict() if self.rest else {},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError: It is of fewer parameters, or of another optimizer.
        """
        for i, mine in self.state_dict()["state"].items():
            mine["momentum_buffer"].copy_(state["state"][i]["momentum_buffer"])
        if self.rest is not None:
            self.rest.load_state_dict(state["rest"])


def _split(tensors: Sequence[Tensor], rows: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cut tensors into the matrices that lie in them one upon the other."""
    return [part for p, r in zip(tensors, rows, strict=True) for part in p.split(r)]


def _alike(parts: Sequence[Tensor]) -> list[list[int]]:
    """Group the places of matrices of one shape, so many as are worth one call.

    A small model's step on a GPU is otherwise a thousand calls of which each is over before the
    next has come. A processor is busy with one, and its sums then do not depend on the company.
    """
    found: dict[torch.Size, list[int]] = {}
    for place, part in enumerate(parts):
        found.setdefault(part.shape, []).append(place)
    room = _AT_ONCE.get(parts[0].device.type, _ON_A_GPU)
    at_once = {s: max(1, room // s.numel()) for s in found}
    return [
        places[first : first + at_once[shape]]
        for shape, places in found.items()
        for first in range(0, len(places), at_once[shape])
    ]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring singular values of matrices (k, n, m) near one, and keep their singular vectors.

    Five steps of a quintic that is steep at zero and never settles: singular values end between
    about 0.7 and 1.2. Every product is rounded to bfloat16, as in `torch.optim.Muon`. On a CPU it
    is computed in float32 first: bfloat16's own products were 7 to 20 times slower there (64 to
    256 rows, AVX-512 without its bfloat16 part), and only the order of adding differs.
    """
    assert matrices.ndim == 3
    a, b, c = _QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).to(torch.bfloat16, copy=True)
    x /= torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM)
    if x.device.type == "cpu":
        x = x.float()
    for _ in range(_ITERATIONS):
        gram = _rounded(torch.bmm(x, x.mT))
        quartic = _rounded(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
        x = _rounded(torch.baddbmm(x, quartic, x, beta=a))
    return x.mT if is_tall else x


def _rounded(x: Tensor) -> Tensor:
    """Round to what bfloat16 can hold, in the format that it has."""
    return x if x.dtype == torch.bfloat16 else x.bfloat16().to(x.dtype)


def build(groups: Sequence[ParamGroup], train: TrainSpec) -> Muon:
    """Build Muon over the hidden matrices among the groups, and AdamW over the others."""
    hidden = [
        {**settings(_spectral(group), train), "fused": group.fused}
        for group in groups
        if group.fused is not None
    ]
    others = [group for group in groups if group.fused is None]
    rest = build_adamw(others, train) if others else None
    return Muon(hidden, rest, momentum=train.muon_momentum)


def _spectral(group: ParamGroup) -> ParamGroup:
    """Turn the factors on rate and decay from those for AdamW into those for Muon.

    A group's factors hold what a matrix does to activations as width grows, for updates of low rank
    and entries of a given size, whose spectral norm grows like the width. Muon's have that size too
    but full rank, and their norm grows like the root (Yang et al. 2023, arXiv:2310.17813).
    """
    return replace(
        group, lr_scale=math.sqrt(group.lr_scale), decay_scale=math.sqrt(group.decay_scale)
    )


OPTIMIZER = Method("muon", build)
