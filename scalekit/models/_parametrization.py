"""How initial scale, learning rate and logits depend on width: standard or muP.

Source of `mup`: Yang et al. 2022, arXiv:2203.03466, table 8 (the form for Adam that also suits tied
embeddings). Head size is taken to stay fixed while width grows, so attention keeps its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.errors import InputError


@dataclass(frozen=True)
class Rules:
    """The factors of one model.

    Attributes:
        hidden_lr: Factor on the learning rate of matrices that map width to width.
        logits: Factor on the output logits.
        head_width: The fan-in from which the output head's initial variance is taken.
    """

    hidden_lr: float
    logits: float
    head_width: int


def rules_for(model: Mapping[str, Any]) -> Rules:
    """Return the factors of a resolved model config; at the base width mup equals standard.

    Raises:
        InputError: mup without a base width.
    """
    width = model["d_model"]
    if model.get("parametrization", "standard") == "standard":
        return Rules(hidden_lr=1.0, logits=1.0, head_width=width)
    base = model.get("base_width")
    if not base:
        raise InputError(
            "model.base_width: missing, parametrization is 'mup'; give the width at which the "
            "learning rate was tuned"
        )
    return Rules(hidden_lr=base / width, logits=base / width, head_width=base)
