"""Shapes of a sweep's own family whose params come near asked ones: sizes for a sweep to come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scalekit.errors import InputError
from scalekit.sweep.expand import resolver
from scalekit.sweep.keys import DEFAULTS, HORIZON, SPANS, ValueProblemError
from scalekit.sweep.point import RunProblemError
from scalekit.sweep.propose import follow, unit_of
from scalekit.sweep.sweep_spec import Axis, Option, SweepSpec

WIDTH, HEADS, DEPTH = "model.d_model", "model.n_heads", "model.n_layers"

_FINENESS = 1.02
"""Neighbours of a ladder, in its first key, above the sizes at which whole units are coarser."""

_LARGEST = 2**17
_OFF_RULE = 0.03
"""What a layer more or less than the rule is worth in ln params."""
_UNITS = (64, 32, 16, 8)


@dataclass(frozen=True)
class Shaped:
    """A shape: the keys that make it, its params by the sweep's own count, layers off the rule."""

    values: Mapping[str, Any]
    params: float
    off: int = 0

    def distance(self, params: float) -> float:
        """Return how far this is from a number of params, in log, and a little from the rule."""
        return abs(math.log(self.params / params)) + _OFF_RULE * abs(self.off)


@dataclass(frozen=True)
class Family:
    """How a sweep makes one size from another.

    Attributes:
        keys: Of the model, in the order in which they are chosen.
        words: The rule, as a sentence.
    """

    keys: tuple[str, ...]
    words: str
    axis: Axis | None = None
    aspect: float = 0.0
    unit: int = 1

    def ladder(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Walk the family by rising size in steps of some per cent: keys, and layers off its rule.

        Where width and depth go together the depth may also be a layer off, without which small
        models would have gaps of a factor two.
        """
        k, first = 0.0, self.keys[0]
        while True:
            k = max(math.floor(k) + 1, k * _FINENESS)
            value = int(k) * self.unit
            if value > _LARGEST:
                return
            others = {}
            if self.axis is not None:
                others = {key: follow(self.axis, first, key, value) for key in self.keys[1:]}
            elif len(self.keys) > 1:
                others = {DEPTH: max(1, round(value / self.aspect))}
            for off in (0, -1, 1) if DEPTH in others else (0,):
                if not off or others[DEPTH] + off > 0:
                    deeper = {DEPTH: others[DEPTH] + off} if off else {}
                    yield {first: value, **others, **deeper}, off


def family_of(spec: SweepSpec) -> Family:
    """Read from a sweep how its sizes differ, or take its one shape's proportions.

    Raises:
        InputError: The sweep says of no size how it is made.
    """
    axes = [axis for axis in (spec.isoflop and spec.isoflop.sizes, spec.zip, *spec.grid) if axis]
    for axis in axes:
        if {WIDTH, DEPTH} & set(axis.keys) and all(k.startswith("model.") for k in axis.keys):
            keys = _leading_first(axis)
            _refuse_apart(spec, axes, axis)
            words = f"{_named(keys)} as the template's sizes, log-linear between and beyond them"
            heads = spec.base.values.get("model.head_dim") if keys[0] == WIDTH else None
            unit = heads or unit_of(axis, keys[0])
            return Family(keys, words, Axis(keys, axis.options), unit=unit)
    base = spec.base.values
    if DEPTH in base and WIDTH in spec.derive:
        return Family((DEPTH,), "n_layers, from which the template derives d_model")
    if WIDTH in base:
        unit = base.get("model.head_dim") or next(
            u for u in _UNITS if not base[WIDTH] % u or u == 8
        )
        if DEPTH in spec.derive or DEPTH not in base:
            return Family((WIDTH,), "d_model, the rest as in the template", unit=unit)
        aspect = base[WIDTH] / base[DEPTH]
        words = f"d_model in steps of {unit}, at the template's {aspect:.3g} to a layer"
        return Family((WIDTH, DEPTH), words, aspect=aspect, unit=unit)
    raise InputError(
        f"{spec.path}: says no d_model from which sizes could be made; give base.model a d_model "
        "and n_layers, or isoflop.sizes"
    )


def _refuse_apart(spec: SweepSpec, axes: Sequence[Axis], sizes: Axis) -> None:
    """Refuse a grid of depths and widths: of many shapes with one size it names none.

    Raises:
        InputError: Another axis than `sizes` alone says how deep or wide a model is.
    """
    told = {*sizes.keys, *spec.base.values, *spec.derive}
    for axis in axes:
        if apart := [key for key in axis.keys if key in (WIDTH, DEPTH) and key not in told]:
            other, own = _named(apart), _named([k for k in sizes.keys if k in (WIDTH, DEPTH)])
            raise InputError(
                f"{spec.path}: combines every {own} with every {other}, which gives many shapes of "
                f"one size; walk them together in zip, or keep one {other} in base.model"
            )


def _leading_first(axis: Axis) -> tuple[str, ...]:
    """Put first what varies of width, heads and depth: widths are the finest of them."""
    sizing = [key for key in (WIDTH, HEADS, DEPTH) if key in axis.keys]
    varied = [key for key in sizing if len(set(axis.column(key))) > 1]
    first = (varied or sizing)[0]
    return (first, *(key for key in axis.keys if key != first))


def _named(keys: Sequence[str]) -> str:
    return " and ".join(key.removeprefix("model.") for key in keys)


def shapes_near(spec: SweepSpec, family: Family, params: Sequence[float]) -> list[Shaped]:
    """Choose of a family the shape nearest to each number of params, in log.

    Shapes that the sweep cannot have (heads do not divide, a vocabulary too small) are passed
    over; two numbers may share one shape.

    Returns:
        The shapes, by rising params.

    Raises:
        InputError: The family has no shape that goes together.
    """
    count = _counter(spec)
    ladder: list[Shaped] = []
    why = "it has none"
    for values, off in family.ladder():
        try:
            found = count(values)
        except (RunProblemError, ValueProblemError) as error:
            why = str(error)
            continue
        ladder.append(Shaped(values, found, off))
        if found > 2 * max(params):
            break
    if not ladder:
        raise InputError(f"{spec.path}: no shape of {family.words} can be built, {why}")
    chosen = {}
    for wanted in params:
        best = min(ladder, key=lambda shape: shape.distance(wanted))
        chosen[tuple(best.values.values())] = best
    return sorted(chosen.values(), key=lambda shape: shape.params)


def _counter(spec: SweepSpec) -> Any:
    """Return a function from the model's keys to params, by the sweep's own rules."""
    base = {k: v for k, v in spec.base.values.items() if k not in (*HORIZON, *SPANS)}
    # One step of one row: only params are wanted.
    row = base.get("model.context", DEFAULTS["model.context"])
    bare = replace(
        spec,
        base=Option({**base, "train.steps": 1, "train.batch_tokens": row}, spec.base.places),
        derive={k: e for k, e in spec.derive.items() if k.startswith("model.")},
    )
    resolve = resolver(bare)

    def count(values: Mapping[str, Any]) -> float:
        return float(resolve(values)["N"])

    return count
