"""The optimizer of a run: built by name over the model's groups, its rate, gradient clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalekit import registry
from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizers.base import Optimizer


def build_optimizer(model: LanguageModel, train: TrainSpec) -> Optimizer:
    """Build the optimizer that `train` names, with the groups of the model that have parameters."""
    groups = [group for group in model.groups() if group.params]
    return registry.find("train.optimizers", train.optimizer).build(groups, train)


def set_lr(optimizer: Optimizer, lr: float) -> None:
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
        # A DTensor where the gradients are sharded over processes.
        norm = getattr(norm, "full_tensor", lambda: norm)()
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
