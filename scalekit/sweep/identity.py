"""A run's configuration section by section, and its id: a hash of what would change the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from scalekit.sweep.keys import DEFAULTS
from scalekit.sweep.spec import NOT_SCIENCE
from scalekit.sweep.sweep_spec import nest

DIGITS = 10

SECTION_KEYS: dict[str, tuple[str, ...]] = {
    section: tuple(name for name in DEFAULTS if name.startswith(f"{section}."))
    for section in dict.fromkeys(name.partition(".")[0] for name in DEFAULTS)
}
"""The dotted keys of each section."""

_VALUES = {section: itemgetter(*names) for section, names in SECTION_KEYS.items()}
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def is_science(name: str) -> bool:
    """Whether a setting changes a run's result, so that it enters the id."""
    return not any(name == left or name.startswith(f"{left}.") for left in NOT_SCIENCE)


def section_values(point: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return a run's resolved settings as one tuple a section, in the order of `SECTION_KEYS`."""
    return {section: values(point) for section, values in _VALUES.items()}


def build_config(values: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return the nested configuration; runs with an equal section share it."""
    return {section: _nested(section, row) for section, row in values.items()}


def run_id(values: Mapping[str, tuple[Any, ...]]) -> str:
    """Hash the canonical form: science other than its default, by sorted dotted key, as JSON."""
    parts = [_canonical(section, values[section]) for section in _SORTED]
    text = "{" + ",".join([part for part in parts if part]) + "}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def config_id(config: Mapping[str, Any]) -> str:
    """Return the id of a resolved nested configuration, as in a record or a plan's line."""
    return run_id(section_values(dict(_flat(config))))


_SORTED = sorted(SECTION_KEYS)
_FIELDS = {s: tuple(k.removeprefix(f"{s}.") for k in keys) for s, keys in SECTION_KEYS.items()}
_SCIENCE = {
    section: [
        (f"{_encode(name)}:", keys.index(name), DEFAULTS[name])
        for name in sorted(keys)
        if is_science(name)
    ]
    for section, keys in SECTION_KEYS.items()
}


# The caches hold a section's work for all runs that share it: most of a sweep's rows differ in
# one section only.
@lru_cache(maxsize=65536, typed=True)
def _nested(section: str, row: tuple[Any, ...]) -> dict[str, Any]:
    # As it will be read back from JSON, so that a plan's configuration equals its record's.
    as_read = [list(value) if isinstance(value, tuple) else value for value in row]
    return nest(dict(zip(_FIELDS[section], as_read, strict=True)))


@lru_cache(maxsize=65536, typed=True)
def _canonical(section: str, row: tuple[Any, ...]) -> str:
    return ",".join(
        [key + _scalar(row[i]) for key, i, default in _SCIENCE[section] if row[i] != default]
    )


def _scalar(value: Any) -> str:
    """Write a setting as JSON; the encoder itself is slow to start for a single number."""
    return repr(value) if type(value) in (int, float) else _encode(value)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, tuple(value) if isinstance(value, list) else value
