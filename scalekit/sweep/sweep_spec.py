"""SweepSpec: a sweep file after reading, merging and validation; and its way back to YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from scalekit.config.problems import Place
from scalekit.sweep.expressions import Expression
from scalekit.sweep.sections import CountSpec, ExecutorSpec, Profile, TimeSpec

BUDGET = "budget"
"""The name under which a point of the sweep holds its planned FLOPs."""


@dataclass(frozen=True)
class Option:
    """Settings that go together, by dotted key, and where each was written."""

    values: Mapping[str, Any]
    places: Mapping[str, Place]


@dataclass(frozen=True)
class Axis:
    """One direction of a sweep: the options that are multiplied with those of the other axes."""

    keys: tuple[str, ...]
    options: tuple[Option, ...]

    def column(self, key: str) -> list[Any]:
        """List the values of one key along the axis."""
        return [option.values[key] for option in self.options]


@dataclass(frozen=True)
class Isoflop:
    """Budgets, the sizes trained at each, and how far a run may miss its budget."""

    budgets: Axis
    sizes: Axis
    tolerance: float


@dataclass(frozen=True)
class Where:
    """A rule that runs must fulfil to be kept."""

    keep: Expression
    because: str


@dataclass(frozen=True)
class Resources:
    """What runs need for which `when` holds, or all runs where it is None."""

    when: Expression | None
    needs: Mapping[str, Any]


@dataclass(frozen=True)
class SweepSpec:
    """What the user wrote, merged and validated; `expand` turns it into runs.

    Attributes:
        path: The sweep file.
        place: Where the file begins, for what has no other place.
        base: What all runs share; only keys that were written.
        grid: One axis a key.
        zip: One axis of several keys, or None.
        cases: Single runs beside the product of the axes.
        derive: Expressions by the dotted key that they set.
        profile: The site, or None.
        ladder: The rungs at which a trunk is measured, or None.
    """

    path: Path
    place: Place
    name: str
    description: str
    count: CountSpec
    base: Option
    grid: tuple[Axis, ...]
    zip: Axis | None
    cases: tuple[Option, ...]
    isoflop: Isoflop | None
    derive: Mapping[str, Expression]
    where: tuple[Where, ...]
    resources: tuple[Resources, ...]
    time: TimeSpec
    executor: ExecutorSpec
    profile: Profile | None
    ladder: Axis | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What is multiplied: zip, grid, budgets, sizes, rungs."""
        inner = (self.isoflop.budgets, self.isoflop.sizes) if self.isoflop else ()
        rungs = (self.ladder,) if self.ladder else ()
        return (*((self.zip,) if self.zip else ()), *self.grid, *inner, *rungs)

    @property
    def n_points(self) -> int:
        """How many runs there are before any is dropped."""
        return self._product() + len(self.cases)

    def _product(self) -> int:
        axes = self.axes
        if not axes and self.cases:
            return 0  # the base alone is a run only where nothing else is asked for
        total = 1
        for axis in axes:
            total *= len(axis.options)
        return total

    def points(self) -> Iterator[tuple[Option, ...]]:
        """Walk the options of every run, the last axis fastest, then the cases."""
        if self._product():
            yield from product(*(axis.options for axis in self.axes))
        for case in self.cases:
            yield (case,)

    def resolved_yaml(self) -> str:
        """Write the sweep as one file that needs no other and gives the same runs."""
        import yaml

        lists = {axis.keys[0]: axis.column(axis.keys[0]) for axis in self.grid}
        data: dict[str, Any] = {"scalekit": 1, "name": self.name}
        if self.description:
            data["description"] = self.description
        data["count"] = self.count.model_dump()
        data["base"] = nest(self.base.values)
        data["grid"] = lists
        data["zip"] = {k: self.zip.column(k) for k in self.zip.keys} if self.zip else {}
        data["cases"] = [dict(case.values) for case in self.cases]
        if self.isoflop:
            sizes = self.isoflop.sizes
            data["isoflop"] = {
                "budgets": self.isoflop.budgets.column(BUDGET),
                "sizes": {key: sizes.column(key) for key in sizes.keys},
                "tolerance": self.isoflop.tolerance,
            }
        data["ladder"] = {k: self.ladder.column(k) for k in self.ladder.keys} if self.ladder else {}
        data["derive"] = {key: derived.text for key, derived in self.derive.items()}
        data["where"] = [{"keep": w.keep.text, "because": w.because} for w in self.where]
        data["resources"] = [
            {**({"when": r.when.text} if r.when else {}), **_given(r.needs)} for r in self.resources
        ]
        data["time"] = self.time.model_dump()
        data["executor"] = _given(self.executor.model_dump())
        if self.profile:
            data["profile"] = _given(self.profile.model_dump())
        kept = {key: value for key, value in data.items() if value not in ({}, [], None)}
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
        return "# Written by scalekit: the sweep with everything it extends merged in.\n" + text


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested mappings.

    >>> nest({"model.n_layers": 2, "train.lr": 0.1, "train.seed": 0})
    {'model': {'n_layers': 2}, 'train': {'lr': 0.1, 'seed': 0}}
    """
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        if "." not in name:
            nested[name] = value
            continue
        *sections, last = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
