"""How the exponent moves under choices that papers rarely record: a forest of refits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scalekit.analysis.refit import again, used_rows
from scalekit.counting import PARAMS_KINDS
from scalekit.errors import ScalekitError
from scalekit.fit.result import FitResult, FitStatus
from scalekit.quantities import write_flops
from scalekit.results.table import RunTable

OBJECTIVES = ("robust", "hoffmann", "mse_log", "mse")
DELTAS = (1e-2, 1e-4)
"""Of the Huber loss on log loss, on both sides of Hoffmann's."""

_EDGE = 0.1
"""Share of the runs that is left out at the end of a range, with all that equal the last."""


def exponent_table(table: RunTable, fit: FitResult) -> list[dict[str, Any]]:
    """Refit under other objectives, counts, approaches and slices of the runs.

    Returns:
        One entry a variant, the headline first: group (`as fitted`, `objective`, `approach`,
        `law`, `params count`, `left out`), variant, value, low, high (of the exponent of N*),
        n_runs, status. A variant that cannot be fitted has no value and says why in `status`.
    """
    rows = [_entry("as fitted", fit.law, fit)]
    for other in fit.others:
        group = "law" if other.approach == "parametric" else "approach"
        rows.append(_entry(group, other.law, other))
    used = table.where(np.array(used_rows(table, fit)))
    for group, variant, changed, options in _variants(used, fit):
        try:
            rows.append(_entry(group, variant, again(changed, fit, drop=(), **options)))
        except ScalekitError as error:
            rows.append(
                {"group": group, "variant": variant, "value": None, "low": None, "high": None}
                | {"n_runs": len(changed), "status": str(error)}
            )
    return rows


def _entry(group: str, variant: str, fit: FitResult) -> dict[str, Any]:
    told = {} if fit.status is FitStatus.UNIDENTIFIED else fit.exponents.get("params", {})
    return {
        "group": group,
        "variant": variant,
        "value": told.get("value"),
        "low": told.get("low"),
        "high": told.get("high"),
        "n_runs": fit.n_runs,
        "status": str(fit.status),
    }


Variant = tuple[str, str, RunTable, dict[str, Any]]


def _variants(table: RunTable, fit: FitResult) -> Iterator[Variant]:
    if fit.approach == "parametric":
        for objective in OBJECTIVES:
            if objective != fit.objective.get("name"):
                yield "objective", objective, table, {"objective": objective, "delta": None}
        for delta in DELTAS:
            changed = {"objective": "huber", "delta": delta}
            yield "objective", f"huber, delta {delta:g}", table, changed
    yield from _other_counts(table)
    yield from _slices(table)


def _other_counts(table: RunTable) -> Iterator[Variant]:
    """Other counts of parameters that the table carries beside the one in use."""
    for kind in PARAMS_KINDS:
        name = f"params_{kind}"
        if name in table and not np.array_equal(table[name], table["params"]):
            columns = {**table.columns, "params": table[name]}
            # FLOPs stay as measured: the optimum then asks the same budget of another count.
            yield "params count", kind, RunTable(columns, table.meta), {}


def _slices(table: RunTable) -> Iterator[Variant]:
    if "budget" in table and np.isfinite(np.asarray(table["budget"], dtype=float)).all():
        budgets = np.unique(table["budget"])
        for budget in budgets if len(budgets) > 2 else ():
            keep = table["budget"] != budget
            yield "left out", f"budget {write_flops(budget)}", table.where(keep), {}
    ratio = table["tokens"] / table["params"]
    for words, values, top in (
        ("smallest params", table["params"], False),
        ("largest params", table["params"], True),
        ("fewest tokens per param", ratio, False),
        ("most tokens per param", ratio, True),
    ):
        edge = np.quantile(values, 1 - _EDGE if top else _EDGE)
        keep = values < edge if top else values > edge
        if keep.any() and not keep.all():
            # More than a tenth where many runs share the end of the range.
            left = f"{words} ({(~keep).sum()} of {len(keep)} runs)"
            yield "left out", left, table.where(keep), {}
