"""AdamW over a model's parameter groups: decoupled decay on matrices, clipping by global norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import TrainSpec

# The update that torch.optim.AdamW ends in; not in torch's stubs.
_update: Callable[..., None] = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


class AdamW:
    """AdamW by torch's fused update, one call a group, with the state of `torch.optim.AdamW`.

    A `torch.optim.Optimizer` loads torch's compiler when it is made, which takes one to two seconds
    in every process, and gathers its lists of tensors anew at each step, which takes longer than
    the update of a small model.

    Args:
        groups: Each with `params`, `lr`, `lr_scale` and `weight_decay`, which stay in
            `param_groups`, where they may be changed between steps.
        betas: Decay of the two moments.
        eps: Added to the root of the second.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float
    ) -> None:
        self.param_groups, self.betas, self.eps = groups, betas, eps
        self._moments = [
            [[torch.zeros_like(p, requires_grad=False) for p in group["params"]] for _ in range(2)]
            for group in groups
        ]
        first = groups[0]["params"][0]
        self._step = torch.zeros((), dtype=torch.float32, device=first.device)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by its gradient."""
        self._step += 1
        for group, moments in zip(self.param_groups, self._moments, strict=True):
            params = group["params"]
            _update(
                params,
                [p.grad for p in params],
                *moments,
                [],
                [self._step] * len(params),
                lr=group["lr"],
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the step of every parameter, numbered through the groups."""
        numbered = enumerate(
            pair for first, second in self._moments for pair in zip(first, second, strict=True)
        )
        return {
            "state": {
                i: {"step": self._step, "exp_avg": first, "exp_avg_sq": second}
                for i, (first, second) in numbered
            }
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError: It is of fewer parameters.
        """
        for i, mine in self.state_dict()["state"].items():
            for name, tensor in mine.items():
                tensor.copy_(state["state"][i][name])


def build_optimizer(model: LanguageModel, train: TrainSpec) -> AdamW:
    """Build AdamW with one group per group of the model that has parameters."""
    groups = [
        {
            "params": group.params,
            "lr": train.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
            "weight_decay": train.weight_decay if group.decays else 0.0,
        }
        for group in model.groups()
        if group.params
    ]
    return AdamW(groups, betas=(train.beta1, train.beta2), eps=train.eps)


def set_lr(optimizer: AdamW, lr: float) -> None:
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
        # Of gradients that lie in parts on several processes it is a DTensor.
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
