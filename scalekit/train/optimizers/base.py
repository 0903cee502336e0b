"""What an optimizer must offer: groups whose learning rates may change, a step, and its state.

A member of `train/optimizers/` binds `OPTIMIZER`, a `Method`.

None of them is a `torch.optim.Optimizer`: making one loads torch's compiler, which takes one to two
seconds in every process, and gathers its lists of tensors anew at each step, which takes longer
than the update of a small model. Tests hold each to torch's own, number for number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.models.base import ParamGroup
from scalekit.sweep.spec import TrainSpec


class Optimizer(ABC):
    """Updates parameters by their gradients.

    Attributes:
        param_groups: As `settings` makes them; the values may be changed between steps.
    """

    param_groups: list[dict[str, Any]]

    @abstractmethod
    def step(self) -> None:
        """Update every parameter by its gradient."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the steps from here on, beside groups and gradients."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError: It is of fewer parameters, or of another optimizer.
        """


@dataclass(frozen=True)
class Method:
    """A member of the family.

    Attributes:
        name: The file name.
        build: Make an optimizer of groups that have parameters.
    """

    name: str
    build: Callable[[Sequence[ParamGroup], TrainSpec], Optimizer]


def settings(group: ParamGroup, train: TrainSpec) -> dict[str, Any]:
    """Return the entry of `param_groups` for a group, its own factors multiplied in."""
    return {
        "params": group.params,
        "lr": train.lr * group.lr_scale,
        "lr_scale": group.lr_scale,
        "weight_decay": train.weight_decay * group.decay_scale if group.decays else 0.0,
        "eps": train.eps * group.eps_scale,
    }
