"""What the residuals say against a fit: runs far off, kinds of runs, repeats that agree better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalekit.fit.judge import Solution
from scalekit.fit.noise import Noise
from scalekit.fit.objective import MEDIAN_OF_NORMAL
from scalekit.fit.other_data import COLUMNS
from scalekit.laws.base import Array
from scalekit.quantities import count_words
from scalekit.results.table import RunTable

FAR = 6.0
"""Spreads off a law beyond which a run is named; a normal law puts one in half a billion there."""

_LEAST = 0.01
"""A smaller share of the loss is no other kind of run, however little the others scatter."""

_RARE = 4.0
"""Standard errors of a test of one column among many; by chance one column in 30,000."""

_BY_CHANCE = -3.09
"""Normal quantile of 0.1 %, for how small the scatter of few repeats may turn out."""

_MISFIT = 1.3
"""The noise of a fit is read at another place of its scatter than that of repeats."""

_APART = 2.0
"""Half-widths of an interval; between objectives noise leaves a third of that."""

_SHOWN = 3
_FEWEST_EACH = 3
_KNOWN = {*COLUMNS, "run", "trunk", "status", "flags", "code"}
"""Columns that others speak of, or whose words name single runs."""


def misfits(solution: Solution, parts: Noise, table: RunTable) -> list[str]:
    """Say in sentences where the runs contradict the law that was fitted to them.

    Args:
        solution: The fit.
        parts: Its noise by source.
        table: What the runs were taken from, for what its columns of words say of them.
    """
    if not solution.law.is_of_final_loss or solution.runs.is_serial:
        return []
    return [*_far(solution), *_kinds(solution, table), *_repeats(parts)]


def objectives_apart(
    beside: Mapping[str, Mapping[str, Any]], share: Mapping[str, float]
) -> list[str]:
    """Say where another objective puts the exponent of N* far outside its interval.

    Args:
        beside: By objective, with its `exponent_params`.
        share: The fit's own exponent: value, low, high.
    """
    if not beside or share.get("low") is None or share["low"] == share["high"]:
        return []
    value, low, high = share["value"], share["low"], share["high"]

    def reach(one: float) -> float:
        return abs(one - value) / max(high - value if one > value else value - low, 1e-12)

    name, other = max(
        ((name, entry["exponent_params"]) for name, entry in beside.items()),
        key=lambda pair: reach(pair[1]),
    )
    if reach(other) < _APART:
        return []
    return [
        f"the exponent of N* is {other:.3f} under --objective {name}, and {low:.3f} to {high:.3f} "
        "here: no interval holds that choice, so find the runs that the two weigh differently"
    ]


def _far(solution: Solution) -> list[str]:
    """Name the runs that no noise explains: influence alone would name those that hold against."""
    size = np.abs(solution.residual)
    # A fit may pass through as many runs as it has parameters, which say nothing of the others.
    free = np.sort(size)[len(solution.psi) :]
    if not len(free):
        return []
    near = float(np.median(free)) / MEDIAN_OF_NORMAL
    far = np.flatnonzero(size > max(FAR * near, _LEAST))
    if not len(far):
        return []
    worst = far[np.argsort(-size[far], kind="stable")][:_SHOWN]
    told = [f"{solution.runs.names[i]} by {np.expm1(solution.residual[i]):+.1%}" for i in worst]
    more = ", ..." if len(far) > _SHOWN else ""
    lie, rest = ("lies", "it is none") if len(far) == 1 else ("lie", "they are none")
    return [
        f"{count_words(len(far), 'run')} {lie} off the law by over {FAR:g} times the spread of "
        f"{near:.2%}, {', '.join(told)}{more}: look for divergence or a slip in the "
        f"table, and leave out with --drop if {rest} of this law"
    ]


def _kinds(solution: Solution, table: RunTable) -> list[str]:
    """Name the column of words whose runs lie on different sides of the law; the most telling."""
    known = {*_KNOWN, *solution.law.columns, *solution.law.reads}
    found: list[tuple[float, str]] = []
    for column in table.columns:
        if column in known or column.endswith(("_kind", "_unit")):
            continue
        if table[column].dtype != object:
            continue
        words = [str(cell) for cell in table[column][solution.runs.rows]]
        values, kind = np.unique(words, return_inverse=True)
        if 2 <= len(values) <= len(words) / _FEWEST_EACH and not _is_a_size(solution, kind):
            found += _apart(solution, column, values.tolist(), kind)
    # Others name the same runs, as a model and its data do.
    return [max(found)[1]] if found else []


def _is_a_size(solution: Solution, kind: Array) -> bool:
    """Whether words only name sizes or budgets, in which the law itself may be wrong."""
    inputs = (*solution.runs.inputs.values(), solution.runs.budget)
    return any(
        all(np.ptp(values[kind == k]) <= 1e-6 * values[kind == k][0] for k in np.unique(kind))
        for values in inputs
    )


def _apart(
    solution: Solution, column: str, values: Sequence[str], kind: Array
) -> list[tuple[float, str]]:
    """Compare kinds of runs by the ranks of their residuals (Kruskal and Wallis 1952)."""
    residual = solution.residual
    n, counts = len(residual), np.bincount(kind)
    rank = np.argsort(np.argsort(residual, kind="stable"), kind="stable") + 1.0
    mean = np.bincount(kind, rank) / counts
    statistic = 12 / (n * (n + 1)) * float(counts @ (mean - (n + 1) / 2) ** 2)
    sure = _normal(statistic, len(values) - 1)
    if sure < _RARE:
        return []
    middle = np.array([np.median(residual[kind == k]) for k in range(len(values))])
    if np.ptp(middle) < solution.spread:
        return []
    low, high = int(np.argmin(middle)), int(np.argmax(middle))
    told = (
        f"runs of {column} {values[low]!r} lie {abs(middle[low]):.2%} below the law and of "
        f"{values[high]!r} {abs(middle[high]):.2%} above it: one law for {len(values)} kinds of "
        f'runs; keep one with --drop "{column}!={values[low]!r}", or compare them with '
        f"--law multi_recipe --map group={column}"
    )
    return [(sure, told)]


def _normal(statistic: float, dof: int) -> float:
    """Turn a chi-squared statistic into standard errors (Wilson and Hilferty 1931)."""
    scale = 2 / (9 * dof)
    return float(((statistic / dof) ** (1 / 3) - 1 + scale) / np.sqrt(scale))


def _repeats(parts: Noise) -> list[str]:
    """Doubt a law that misses by more than runs of the same inputs differ."""
    if not parts.repeats or not parts.repeats_dof:
        return []
    scale = 2 / (9 * parts.repeats_dof)
    lucky = max(1 - scale + _BY_CHANCE * np.sqrt(scale), 0.0) ** 1.5
    if parts.total * lucky <= _MISFIT * parts.repeats:
        return []
    return [
        f"runs of the same inputs differ by {parts.repeats:.2%}, and runs differ from the law by "
        f"{parts.total:.2%}: the law does not follow these runs, so its intervals are not to be "
        "trusted; compare other laws, or look for what else differs between runs"
    ]
