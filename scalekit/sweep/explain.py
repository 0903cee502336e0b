"""Where each setting of a run came from: the file and line, a derived rule, or a default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.sweep.keys import DEFAULTS
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.sweep_spec import BUDGET, Option, SweepSpec


@dataclass(frozen=True)
class Origin:
    """One setting of a run, its value, and who said so."""

    key: str
    value: Any
    origin: str


def explain_run(spec: SweepSpec, run: RunSpec) -> tuple[Origin, ...]:
    """Say of every setting of a run where its value came from, in the order of the keys."""
    swept = {key: (place, value) for key, place, value in _swept(spec, run)}
    origins = []
    for key in (BUDGET, *DEFAULTS):
        value = run.plan["budget"] if key == BUDGET else setting(run.config, key)
        if key in spec.derive:
            rule = spec.derive[key]
            origin = f"derived, {rule.text} ({rule.place})"
        elif key in swept:
            place, said = swept[key]
            origin, value = f"swept, {place}", _unresolved(value, said)
        elif key in spec.base.values:
            origin = f"base, {spec.base.places.get(key, 'from the data')}"
            value = _unresolved(value, spec.base.values[key])
        elif key in DEFAULTS and _listed(value) == _listed(DEFAULTS[key]):
            origin = "default"
        else:
            origin = "follows from the other settings"
        if key != BUDGET or value is not None:
            origins.append(Origin(key, value, origin))
    return tuple(origins)


def _unresolved(value: Any, said: Any) -> Any:
    """Return what was said of a setting where it was resolved in another, which leaves it None."""
    return said if value is None else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _swept(spec: SweepSpec, run: RunSpec) -> Iterator[tuple[str, Any, Any]]:
    """Find the options of this run by their values: a run is one option of every axis, or a case.

    A key that `derive` changes has lost the value it was swept with, so it is not compared.
    """
    chosen = [next((o for o in axis.options if _fits(spec, o, run)), None) for axis in spec.axes]
    if not chosen or None in chosen:
        chosen = [next((case for case in spec.cases if _fits(spec, case, run)), None)]
    for option in chosen:
        if option is not None:
            for key, place in option.places.items():
                yield key, place, option.values[key]


def _fits(spec: SweepSpec, option: Option, run: RunSpec) -> bool:
    for key, value in option.values.items():
        has = run.plan["budget"] if key == BUDGET else setting(run.config, key)
        # A key that says the horizon or the MLP in other words is resolved away: it has no value.
        if key not in spec.derive and has is not None and not _is_same(run, key, has, value):
            return False
    return True


def _is_same(run: RunSpec, key: str, has: Any, value: Any) -> bool:
    if key == "train.tokens":  # resolved to whole steps
        return abs(has - value) <= run.config["train"]["batch_tokens"] / 2
    return has == value


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Return what a run's config holds under a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
