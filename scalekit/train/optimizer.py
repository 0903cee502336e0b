"""AdamW over a model's parameter groups: decoupled decay on matrices, clipping by global norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import TrainSpec


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
    return torch.optim.AdamW(
        groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=True
    )


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
    norm = nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu" or norm > limit:
        nn.utils.clip_grads_with_norm_(params, limit, norm)
    return norm
