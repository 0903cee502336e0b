"""What a model must offer: a module with logits and a loss, and its parameters by how they learn.

A member of `models/` binds `MODEL`, a `Model`. Legend: B rows, T tokens a row, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scalekit.errors import InputError


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning-rate factor and whether they decay.

    Attributes:
        name: For messages and checkpoints.
        params: The parameters, in the order of the module.
        lr_scale: Factor on the run's learning rate, for updates of the size of Adam's.
        decays: Whether weight decay applies; it does to matrices, not to gains.
        decay_scale: Factor on the run's weight decay.
        eps_scale: Factor on the run's epsilon.
        fused: Of hidden matrices, for each parameter the rows of the matrices that it is a stack
            of. None for other groups: embeddings and heads are no maps from width to width.
    """

    name: str
    params: list[nn.Parameter]
    lr_scale: float
    decays: bool
    decay_scale: float = 1.0
    eps_scale: float = 1.0
    fused: list[tuple[int, ...]] | None = None


_LEAST_RANK = 16
"""Products of fewer columns take as long: they are computed in tiles as wide as this or wider."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Part of some rows of a weight: scaling times B A (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        rows: Of the weight.
        a: (r, I).
        b: (O, r), O the number of these rows.
        scaling: The factor.
    """

    rows: slice
    a: nn.Parameter
    b: nn.Parameter
    scaling: float

    @property
    def is_thin(self) -> bool:
        """Whether the way through r numbers a token takes less than the gradient of the weight."""
        (rank, n_in), n_out = self.a.shape, len(self.b)
        return 2 * max(rank, _LEAST_RANK) * (n_in + n_out) < n_in * n_out


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a layer: some rows of a parameter, which may hold several maps.

    Attributes:
        name: As in `counting.count_maps`.
        weight: The parameter, (rows, inputs).
        rows: Which of its rows.
        adapters: Of the parameter. Who adds one here adds it to the weight before each pass, and
            has the adapter's own gradients after it.
    """

    name: str
    weight: nn.Parameter
    rows: slice
    adapters: list[Adapter]


class LanguageModel(nn.Module, ABC):
    """A module that predicts the next token.

    Attributes:
        lies_in_parts: Whether its parameters are spread over several processes, so that no process
            may compute with them on its own.
    """

    lies_in_parts: bool = False

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T)."""

    @abstractmethod
    def groups(self) -> list[ParamGroup]:
        """Return every parameter exactly once, by how it learns."""

    def loss(self, tokens: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy in nats: its mean, or with reduction `none` (B, T) of it."""
        logits = self(tokens)
        flat = F.cross_entropy(
            logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction=reduction
        )
        return flat.view(targets.shape) if reduction == "none" else flat

    def gradients(
        self, tokens: Tensor, targets: Tensor, autocast: AbstractContextManager[object]
    ) -> Tensor:
        """Set the gradients of all that learns to those of the mean loss, and return the loss.

        What stood in the gradients before is gone. A member may know a faster way than autograd.

        Args:
            tokens: Inputs (B, T).
            targets: The token after each (B, T).
            autocast: The context in which the forward pass runs.
        """
        self.zero_grad(set_to_none=True)
        with autocast:
            loss = self.loss(tokens, targets)
        loss.backward()
        return loss.detach()

    def stacked_losses(
        self, params: Mapping[str, Tensor], tokens: Tensor, targets: Tensor
    ) -> Tensor:
        """Return what the losses of several models like this one are, computed as one.

        Its own numbers play no part.

        Args:
            params: By name, the parameters of all models, one behind the other: (R, ...).
            tokens: Inputs (R, B, T), rows of its own for each model.
            targets: The token after each (R, B, T).

        Returns:
            The cross-entropy in nats of every token, (R, B, T).

        Raises:
            InputError: This model has no such form.
        """
        raise InputError(
            f"resources.stack: {type(self).__name__} has no stacked form; leave stack out"
        )

    def layers(self) -> list[nn.Module]:
        """Return the modules that are alike and follow each other; none unless a member says.

        Each takes tensors and gives one. A complex one may come as pairs of real numbers instead,
        with one dimension more.
        """
        return []

    def recomputable(self) -> Mapping[str, list[nn.Module]]:
        """Return, by name, modules whose activations may be computed again in the backward pass."""
        return {}

    def linear_maps(self) -> list[LinearMap]:
        """Return the maps that adapters may be put on, layer by layer; none unless a member says.

        The order is the model's own and always the same.
        """
        return []

    def computed_by(self) -> str:
        """Say by what means gradients are computed, for the record: results differ in rounding."""
        return "torch"


@dataclass(frozen=True)
class Layout:
    """A model as another library reads it.

    Attributes:
        config: The values of `config.json`.
        tensors: The weights by that library's names, none sharing memory with another.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A member of the family.

    Attributes:
        name: The file name.
        build: Make an initialised module from a resolved model config; it draws from torch's
            global generator, so seed that first.
        to_llama: From a resolved model config and a state dict to the same in Llama's layout;
            raises an `InputError` where these settings have no place in it. None where none has.
    """

    name: str
    build: Callable[[Mapping[str, Any]], LanguageModel]
    to_llama: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Layout] | None = None


def count_module_params(module: nn.Module) -> int:
    """Count the trained numbers of a module, a shared tensor once."""
    return sum(p.numel() for p in module.parameters())


def build_seeded(model: Model, config: Mapping[str, Any], seed: int) -> LanguageModel:
    """Build a model whose initial numbers depend on `seed` alone."""
    torch.manual_seed(seed)
    return model.build(config)
