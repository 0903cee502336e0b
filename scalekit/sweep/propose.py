"""Which sizes beside its own a sweep could train: what a plan proposes for a valley."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from scalekit.errors import InputError
from scalekit.sweep.expand import expand
from scalekit.sweep.sweep_spec import Axis, Option, SweepSpec

_MOST_TRIALS = 200


def available_sizes(spec: SweepSpec) -> dict[float, str]:
    """List params that other values of `isoflop.sizes` would give, each with those values in words.

    Trials go through `expand`, so that what `derive` makes of a size, what heads divide and what
    `where` keeps all hold. Empty for sweeps without isoFLOP sizes.
    """
    if spec.isoflop is None or not _is_whole(spec.isoflop.sizes):
        return {}
    taken = [option.values for option in spec.isoflop.sizes.options]
    found = {}
    for values in _candidates(spec.isoflop.sizes):
        if values not in taken:
            try:
                run = expand(_only_at(spec, Option(values, {}))).runs[0]
            except InputError:
                continue  # heads do not divide, or `where` does not want it
            params = float(run.plan["params"][run.plan["params_kind"]])
            found[params] = " with ".join(
                f"{k.removeprefix('model.')} {v}" for k, v in values.items()
            )
    return found


def _is_whole(sizes: Axis) -> bool:
    return all(is_whole(sizes, key) for key in sizes.keys)


def is_whole(sizes: Axis, key: str) -> bool:
    """Whether a key holds whole numbers; true and false, which Python takes for such, are none."""
    return all(type(value) is int for value in sizes.column(key))


def _only_at(spec: SweepSpec, size: Option) -> SweepSpec:
    """Return the sweep with one run: this size, at the first option of every other axis."""
    assert spec.isoflop is not None
    budgets = spec.isoflop.budgets
    largest = max(budgets.options, key=lambda option: max(option.values.values()))
    return replace(
        spec,
        grid=tuple(_one(axis, axis.options[0]) for axis in spec.grid),
        zip=_one(spec.zip, spec.zip.options[0]) if spec.zip else None,
        cases=(),
        isoflop=replace(
            spec.isoflop,
            budgets=_one(budgets, largest),
            sizes=_one(spec.isoflop.sizes, size),
            # So wide because only params are wanted: a budget missed by whole steps must not drop
            # the trial.
            tolerance=0.5,
        ),
    )


def _one(axis: Axis, option: Option) -> Axis:
    return replace(axis, options=(option,))


def _candidates(sizes: Axis) -> Iterator[dict[str, int]]:
    """Walk the first key in even steps; the other keys follow along the line of the sizes."""
    first, *others = sizes.keys
    unit = unit_of(sizes, first)
    for k in range(1, min(_MOST_TRIALS, 8 * max(sizes.column(first)) // unit) + 1):
        value = k * unit
        yield {first: value} | {key: follow(sizes, first, key, value) for key in others}


def unit_of(sizes: Axis, key: str) -> int:
    """Return the step of a key: a layer, or for widths a power of two, 8 and an eighth at least."""
    if key.endswith(("n_layers", "n_heads", "n_kv_heads")):
        return 1
    return 2 ** int(math.log2(max(8, min(sizes.column(key)) / 8)))


def follow(sizes: Axis, first: str, key: str, value: int) -> Any:
    """Read another key at `value` of the first, log-linear between and beyond the sizes.

    One that does not hold whole numbers, or the same everywhere, has the nearest size's value.
    """
    pairs = zip(sizes.column(first), sizes.column(key), strict=True)
    known = sorted(pairs, key=lambda pair: pair[0])
    if not is_whole(sizes, key) or len(set(sizes.column(key))) == 1:
        return min(known, key=lambda pair: abs(math.log(pair[0] / value)))[1]
    unit = unit_of(sizes, key)
    lines = [
        (x0, y0, math.log(y1 / y0) / math.log(x1 / x0))
        for (x0, y0), (x1, y1) in pairwise(known)
        if x1 > x0
    ]
    if not lines:
        return known[0][1]
    x0, y0, slope = next((line for line in reversed(lines) if line[0] <= value), lines[0])
    return unit * max(1, round(y0 * (value / x0) ** slope / unit))
