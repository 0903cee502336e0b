"""Progressive hold-out: fit below each budget, predict above it, and watch the error settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalekit.analysis.refit import options_of, used_rows
from scalekit.errors import FitError
from scalekit.fit.parametric import hold_out
from scalekit.fit.prepare import prepare
from scalekit.fit.result import CostLaw, FitResult
from scalekit.results.table import RunTable

_APART = 0.05
_LEVELS = 6
"""Cuts of a table without planned budgets, at equal shares of its runs."""


def rollout(
    table: RunTable, fit: FitResult, laws: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Refit below every budget in turn.

    Args:
        table: What was fitted.
        fit: The headline; its law and options are used.
        laws: Other laws to roll out as well; the headline's and its parametric others unless given.

    Returns:
        One entry a cut and law: cut (the largest budget fitted), law, n_train, n_test, status,
        exponent_params, mape, bias, next_mape (of the next budget alone), baseline_mape,
        extrapolation. Cuts that leave too few runs are left out.
    """
    if laws is None:
        every = [f.law for f in (fit, *fit.others) if f.approach == "parametric"]
        laws = list(dict.fromkeys(every)) or ["chinchilla"]
    rows = np.array(used_rows(table, fit))
    table = table.where(rows)
    column, levels = _levels(table)
    found = []
    for name in laws:
        options = options_of(fit)
        law, runs = prepare(name, table, cluster=fit.diagnostics.get("asked", {}).get("cluster"))
        options = replace(options, given={**law.given, **options.given})
        for k, cut in enumerate(levels[:-1]):
            # A shade above the cut: budgets are compared as floats.
            rule = f"{column}>{float(cut) * (1 + 1e-9)!r}"
            try:
                held = hold_out(law, runs, table, replace(options, hold_out=rule))
            except FitError:
                continue
            near = _next_runs(_values(table, column), held, float(levels[k + 1]))
            found.append({"cut": float(cut), "law": name, **_entry(held, fit.cost, near)})
    return sorted(found, key=lambda e: e["cut"])


def _levels(table: RunTable) -> tuple[str, np.ndarray]:
    if "budget" in table and np.isfinite(np.asarray(table["budget"], dtype=float)).all():
        return "budget", np.unique(table["budget"])
    if "flops" in table:
        column, flops = "flops", np.asarray(table["flops"], dtype=float)
    else:
        column, flops = "params*tokens", table["params"] * table["tokens"]
    shares = np.linspace(0, 1, _LEVELS + 1)[1:]
    levels = np.unique(np.quantile(flops, shares, method="higher"))
    # Many runs at almost one FLOPs are one level, its last.
    kept = np.append(np.diff(np.log(levels)) > _APART, True)
    return column, levels[kept]


def _next_runs(sizes: np.ndarray, held: Mapping[str, Any], after: float) -> list[Mapping[str, Any]]:
    """Return the held-out rows of the next budget alone; sizes (n,) are the table's."""
    return [row for row in held["rows"] if sizes[row["row"]] <= after * (1 + 1e-9)]


def _values(table: RunTable, column: str) -> np.ndarray:
    """Return a column, or the product that stands for compute where FLOPs are missing."""
    return table[column] if column in table else table["params"] * table["tokens"]


def _entry(
    held: Mapping[str, Any], cost: CostLaw | None, near: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    misses = [abs(row["predicted"] / row["loss"] - 1) for row in near]
    theta = held["theta"]
    exponent = None
    if {"alpha", "beta"} <= set(theta) and cost is not None:
        exponent = theta["beta"] / (theta["alpha"] + cost.power * theta["beta"])
    kept = ("n_train", "mape", "bias", "worst", "baseline_mape", "extrapolation", "covered")
    return {
        **{name: held[name] for name in kept},
        "n_test": held["n_runs"],
        "status": held["status"],
        "exponent_params": exponent,
        "next_mape": float(np.mean(misses)) if misses else None,
    }
