"""How initial scale, learning rate, decay and logits depend on shape: standard, muP, CompleteP.

Sources: `mup` is Yang et al. 2022, arXiv:2203.03466, table 8 (the form for Adam that also suits
tied embeddings). `completep` is Dey et al. 2025, arXiv:2505.01618, with alpha = 1, as their own
nanoGPT does it: it adds the depth, the decay and the epsilon. Head size is taken to stay fixed
while width grows, so attention keeps its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.errors import InputError

_NEEDS = {"standard": (), "mup": ("base_width",), "completep": ("base_width", "base_depth")}


@dataclass(frozen=True)
class Rules:
    """The factors of one model.

    Attributes:
        hidden_lr: Factor on the learning rate of matrices that map width to width.
        hidden_decay: Factor on their weight decay.
        eps: Factor on the optimizer's epsilon, for all parameters.
        logits: Factor on the output logits.
        branch: Factor on what attention and MLP add to the stream.
        head_width: The fan-in from which the output head's initial variance is taken.
        quiet_depth: The layers from which the initial scale of what writes to the stream is taken.
    """

    hidden_lr: float
    hidden_decay: float
    eps: float
    logits: float
    branch: float
    head_width: int
    quiet_depth: int


def rules_for(model: Mapping[str, Any]) -> Rules:
    """Return the factors of a resolved model config; at the base shape all equal standard.

    Raises:
        InputError: A base width or depth is missing.
    """
    name = model.get("parametrization", "standard")
    base = {key: model.get(key) for key in _NEEDS[name]}
    for key, value in base.items():
        if not value:
            what = {"base_width": "width", "base_depth": "depth"}[key]
            raise InputError(
                f"model.{key}: missing, parametrization is {name!r}; give the {what} at which the "
                "learning rate was tuned"
            )
    base_width = base.get("base_width") or model["d_model"]
    base_depth = base.get("base_depth") or model["n_layers"]
    narrow, shallow = base_width / model["d_model"], base_depth / model["n_layers"]
    is_complete = name == "completep"
    return Rules(
        hidden_lr=narrow,
        hidden_decay=1 / narrow if is_complete else 1.0,
        eps=narrow * shallow if is_complete else 1.0,
        logits=narrow,
        branch=shallow,
        head_width=base_width,
        quiet_depth=base_depth,
    )
