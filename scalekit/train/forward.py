"""Another forward pass for some modules of a model, while all of them stay alike.

Not by modules around them, which would rename the parameters, and not by functions of each one's
own, which the compiler would tell apart: by a class over theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

Forward = Callable[..., Tensor]
"""From a module and its inputs to what it gives."""


def change_forward(modules: Iterable[nn.Module], change: Callable[[Forward], Forward]) -> None:
    """Let modules compute what `change` makes of their class's forward pass.

    Args:
        modules: Changed in place.
        change: Called once for each class among them.
    """
    changed: dict[type[nn.Module], Any] = {}
    for module in modules:
        kind = type(module)
        if kind not in changed:
            changed[kind] = type(kind.__name__, (kind,), {"forward": change(kind.forward)})
        module.__class__ = changed[kind]
