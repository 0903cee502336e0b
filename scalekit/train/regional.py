"""Compiled steps, a region at a time: one layer is compiled, and all layers run what came of it.

Compiling a whole model takes as long again for every layer. Layers are alike and get their weights
as arguments, so the code of one serves all of them, and models of any depth. Evaluation stays as it
is: tasks have rows of many lengths, and each would be compiled anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.signals import unheard_by_children
from scalekit.train.forward import Forward, change_forward

_COMPILERS = ("torch._dynamo", "torch._inductor")


def compile_layers(model: LanguageModel, backend: str = "inductor") -> None:
    """Let a model's layers run compiled code where they learn.

    Args:
        model: Changed in place; no parameter gets another name.
        backend: Of torch's compiler.

    Raises:
        InputError: The model has no layers that are alike. Later, from the first step: there is no
            compiler here, or it refuses.
    """
    layers = model.layers()
    if not layers or len({type(layer) for layer in layers}) > 1:
        raise InputError(
            "resources.compile: this model has no layers that are alike; leave compile out"
        )
    # What an earlier run of this process compiled would count towards the most that is kept.
    torch.compiler.reset()
    change_forward(layers, lambda plain: _where_it_learns(plain, backend))


def _where_it_learns(plain: Forward, backend: str) -> Forward:
    code = torch.compile(plain, backend=backend, dynamic=False, fullgraph=True)

    def forward(layer: nn.Module, *inputs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(layer, *inputs)
        try:
            with unheard_by_children():  # the first call of its kind starts compilers
                return code(layer, *map(_without_complex, inputs))
        except Exception as error:
            # Named by their place: importing them would load the compiler where none is asked for.
            if not type(error).__module__.startswith(_COMPILERS):
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"resources.compile: layers cannot be compiled here, {reason:.200}; leave compile "
                "out"
            ) from error

    return forward


def _without_complex(value: Any) -> Any:
    """Return complex numbers as pairs of real ones: the compiler makes no code for them."""
    is_complex = isinstance(value, Tensor) and value.is_complex()
    return torch.view_as_real(value) if is_complex else value
