"""A run's id: a hash of what would change its result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from scalekit.sweep.keys import DEFAULTS
from scalekit.sweep.spec import NOT_SCIENCE

DIGITS = 10


def _is_science(name: str) -> bool:
    return not any(name == left or name.startswith(left + ".") for left in NOT_SCIENCE)


_SCIENCE = {name: value for name, value in sorted(DEFAULTS.items()) if _is_science(name)}


def science(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that enter the id: science, and other than their default."""
    return {name: flat[name] for name, value in _SCIENCE.items() if flat[name] != value}


def run_id(flat: Mapping[str, Any]) -> str:
    """Hash a resolved configuration, given by dotted keys."""
    # Sorted by name already; the models have given every setting its one type.
    text = json.dumps(science(flat), separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration by dotted keys.

    >>> flatten_config({"train": {"lr": 0.1}})
    {'train.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten_config(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
