"""AdamW: moments of each number's gradient, decoupled decay; torch's fused update.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalekit.models.base import ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizers.base import Method, Optimizer, settings

# The update that torch.optim.AdamW ends in; not in torch's stubs.
_update: Callable[..., None] = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Tensors:
    """What one update goes through, number by number: four lists of equal shapes.

    Attributes:
        params: What is updated.
        grads: Their gradients.
        first: Their first moments.
        second: Their second moments.
        steps: Of each, how many updates it has had with this one, a number in a tensor.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor | None]
    first: Sequence[Tensor]
    second: Sequence[Tensor]
    steps: Sequence[Tensor]


def update(
    tensors: Tensors, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float
) -> None:
    """Update parameters by their gradients, all of them in one call."""
    _update(
        tensors.params,
        tensors.grads,
        tensors.first,
        tensors.second,
        [],
        tensors.steps,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


class AdamW(Optimizer):
    """AdamW by torch's fused update, one call a group, with the state of `torch.optim.AdamW`.

    Args:
        groups: From `settings`.
        betas: Decay of the two moments.

    Attributes:
        moments: By group, the first moments of its parameters and the second ones.
        steps: How many updates there were, a number in a tensor.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        self.param_groups, self.betas = groups, betas
        self.moments = [
            [[torch.zeros_like(p, requires_grad=False) for p in group["params"]] for _ in range(2)]
            for group in groups
        ]
        first = groups[0]["params"][0]
        self.steps = torch.zeros((), dtype=torch.float32, device=first.device)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by its gradient."""
        self.steps += 1
        for group, (first, second) in zip(self.param_groups, self.moments, strict=True):
            params = group["params"]
            grads, steps = [p.grad for p in params], [self.steps] * len(params)
            update(
                Tensors(params, grads, first, second, steps),
                lr=group["lr"],
                betas=self.betas,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the step of every parameter, numbered through the groups."""
        numbered = enumerate(
            pair for first, second in self.moments for pair in zip(first, second, strict=True)
        )
        return {
            "state": {
                i: {"step": self.steps, "exp_avg": first, "exp_avg_sq": second}
                for i, (first, second) in numbered
            }
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError: It is of fewer parameters, or of another optimizer.
        """
        for i, mine in self.state_dict()["state"].items():
            for name, tensor in mine.items():
                tensor.copy_(state["state"][i][name])


def build(groups: Sequence[ParamGroup], train: TrainSpec) -> AdamW:
    """Build AdamW with one group per group that is given."""
    return AdamW([settings(g, train) for g in groups], betas=(train.beta1, train.beta2))


OPTIMIZER = Method("adamw", build)
