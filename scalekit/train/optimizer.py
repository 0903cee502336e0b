"""AdamW over a model's parameter groups: decoupled decay on matrices, clipping by global norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import TrainSpec

# What torch.optim itself calls; not in torch's stubs.
_add: Callable[..., Any] = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
_update: Callable[..., Any] = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW with the same state, its lists of tensors gathered once on a CPU.

    Gathering them anew takes torch longer than the update of a small model.
    """

    _lists: list[tuple[dict[str, Any], list[list[Tensor]]]] | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        if self._lists is None:
            super().step(closure)
            self._lists = self._gather()
            return
        for group, (params, *moments, steps) in self._lists:
            _add(steps, 1)
            _update(
                params,
                [p.grad for p in params],
                *moments,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the tensors of the one before are let go."""
        super().load_state_dict(state_dict)
        self._lists = None

    def _gather(self) -> list[tuple[dict[str, Any], list[list[Tensor]]]] | None:
        """Return each group with its parameters, both moments and steps, if that can be kept."""
        params = [p for group in self.param_groups for p in group["params"]]
        if any(p.grad is None or p.device.type != "cpu" for p in params):
            return None
        names = ("exp_avg", "exp_avg_sq", "step")
        return [
            (
                group,
                [group["params"], *([self.state[p][n] for p in group["params"]] for n in names)],
            )
            for group in self.param_groups
        ]


def build_optimizer(model: LanguageModel, train: TrainSpec) -> torch.optim.Optimizer:
    """Build AdamW with one torch group per group of the model, fused into one kernel a group.

    Each torch group keeps its factor under `lr_scale`, which `set_lr` applies.
    """
    groups = [
        {
            "params": group.params,
            "lr_scale": group.lr_scale,
            "weight_decay": train.weight_decay if group.decays else 0.0,
        }
        for group in model.groups()
        if group.params
    ]
    return AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, each by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradients(params: list[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients down to the global norm `limit` and return the norm before.

    On a CPU the scaling is skipped when the norm is within the limit, which costs nothing to ask;
    on a GPU asking would wait for the device, so there the factor is always applied.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    whole = _whole(gradients)
    if whole is not None:
        norm = torch.linalg.vector_norm(whole)
    else:
        norm = nn.utils.get_total_norm(gradients)
    if norm.device.type == "cpu" and norm <= limit:
        return norm
    if whole is not None:
        whole.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
    else:
        nn.utils.clip_grads_with_norm_(params, limit, norm)
    return norm


def _whole(gradients: list[Tensor]) -> Tensor | None:
    """Return the tensor that these are all of, cut up, if there is one."""
    whole = gradients[0]._base if gradients else None
    if whole is None or any(g._base is not whole for g in gradients):
        return None
    return whole if sum(g.numel() for g in gradients) == whole.numel() else None
