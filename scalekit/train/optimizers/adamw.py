"""AdamW: moments of each number's gradient, decoupled decay; torch's fused update.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from scalekit.models.base import ParamGroup
from scalekit.sweep.spec import TrainSpec
from scalekit.train.optimizers.base import Method, Optimizer, settings

# The update that torch.optim.AdamW ends in; not in torch's stubs.
_update: Callable[..., None] = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


class AdamW(Optimizer):
    """AdamW by torch's fused update, one call a group, with the state of `torch.optim.AdamW`.

    Args:
        groups: From `settings`.
        betas: Decay of the two moments.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        self.param_groups, self.betas = groups, betas
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
                eps=group["eps"],
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
            KeyError: It is of fewer parameters, or of another optimizer.
        """
        for i, mine in self.state_dict()["state"].items():
            for name, tensor in mine.items():
                tensor.copy_(state["state"][i][name])


def build(groups: Sequence[ParamGroup], train: TrainSpec) -> AdamW:
    """Build AdamW with one group per group that is given."""
    return AdamW([settings(g, train) for g in groups], betas=(train.beta1, train.beta2))


OPTIMIZER = Method("adamw", build)
