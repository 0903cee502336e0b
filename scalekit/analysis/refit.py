"""Fit a table again as a fit was asked to, with something changed."""

from __future__ import annotations

from typing import Any

from scalekit.fit.objective import find_objective
from scalekit.fit.parametric import Options
from scalekit.fit.result import FitResult
from scalekit.fit.run import fit as fit_table
from scalekit.results.table import RunTable

_KEPT = ("objective", "delta", "fix", "drop", "cluster", "given")


def again(table: RunTable, fit: FitResult, **changes: Any) -> FitResult:
    """Fit `table` with the headline's law, approach and options, but for `changes`.

    Neither hold-out, bootstrap nor predictions are repeated unless they are asked for.

    Raises:
        ScalekitError: As `fit.run.fit`.
    """
    asked = fit.diagnostics.get("asked", {})
    options = {name: asked[name] for name in _KEPT if name in asked}
    laws = (fit.law,) if fit.approach == "parametric" else ("chinchilla",)
    options |= {"laws": laws, "approaches": (fit.approach,), "seed": fit.seed}
    return fit_table(table, **{**options, **changes})


def options_of(fit: FitResult) -> Options:
    """Return how a fit was asked to be made, without hold-out, bootstrap and predictions."""
    asked = fit.diagnostics.get("asked", {})
    objective = find_objective(asked.get("objective", "robust"), asked.get("delta"))
    fix, given = (dict(asked.get(name) or {}) for name in ("fix", "given"))
    return Options(objective, fix, given=given, seed=fit.seed)


def used_rows(table: RunTable, fit: FitResult) -> list[int]:
    """Return the table's rows that the fit used, by position."""
    dropped = {int(entry["row"]) for entry in fit.dropped if "row" in entry}
    return [i for i in range(len(table)) if i not in dropped]
