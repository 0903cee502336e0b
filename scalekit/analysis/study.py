"""The study: runs, fit, curves and plan as one value, from which figures and reports draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit.fit.rows import run_names
from scalekit.results.site import Site

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult
    from scalekit.results.table import RunTable

_UNFINISHED = ("pending", "running", "stopped")
"""States of a run that has no result yet, though it may have reported a loss on the way."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One run's progress.

    Attributes:
        steps: Columns of the step lines, each (n,): tokens, loss, lr, grad_norm.
        evals: Columns of the evaluations, each (m,): tokens, flops, val_loss.
    """

    run: str
    status: str
    params: float
    budget: float
    steps: Mapping[str, np.ndarray]
    evals: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Study:
    """All that a figure or a report may draw from.

    Attributes:
        table: One row a run, or None.
        fit: The headline fit with its others, or None.
        curves: One a run whose record is at hand.
        plan: The lines of `plan.jsonl`.
        records: Header, attempts and end of the runs' records, for provenance.
        name: What the study is called in titles.
        site: Where its runs ran, as far as its folder says.
        rules: The expressions that set its runs, by setting, as far as its folder says.
    """

    table: RunTable | None = None
    fit: FitResult | None = None
    curves: tuple[Curve, ...] = ()
    plan: tuple[Mapping[str, Any], ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    name: str = ""
    site: Site = field(default_factory=Site)
    rules: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> np.ndarray:
        """Return a numeric column (n,), NaN where the table has none or the cell is empty."""
        if self.table is None:
            return np.empty(0)
        if name not in self.table:
            return np.full(len(self.table), np.nan)
        values = self.table[name]
        if values.dtype.kind in "fiu":
            return values.astype(float)
        return np.array([_number(v) for v in values])

    def words(self, name: str) -> np.ndarray:
        """Return a column (n,) of text, empty where the table has none."""
        if self.table is None:
            return np.empty(0, dtype=object)
        if name not in self.table:
            return np.full(len(self.table), "", dtype=object)
        return np.array([_word(v) for v in self.table[name]], dtype=object)

    @cached_property
    def runs(self) -> np.ndarray:
        """The name of each row (n,): its run, or its number where the table names none."""
        names = [] if self.table is None else run_names(self.table)
        return np.array(names, dtype=object)

    @cached_property
    def flops(self) -> np.ndarray:
        """Training FLOPs (n,): the table's own, else by the fit's cost law, else 6 N D."""
        given = self.column("flops")
        N, D = self.column("params"), self.column("tokens")
        cost = self.fit.cost if self.fit is not None else None
        rule = 6.0 * N * D if cost is None else cost.factor * N**cost.power * D
        return np.where(np.isfinite(given), given, rule)

    @cached_property
    def roles(self) -> np.ndarray:
        """What became of each row (n,): fitted, held_out, dropped, diverged or unfinished.

        Without a fit every finished row with a loss counts as fitted.
        """
        status = self.words("status")
        dropped = self._named(() if self.fit is None else self.fit.dropped)
        held = self._named(() if self.fit is None else self.fit.holdout.get("rows", ()))
        has_loss = np.isfinite(self.column("loss"))
        out = np.full(status.shape, "fitted", dtype=object)
        for k in range(out.size):
            if status[k] == "diverged":
                out[k] = "diverged"
            elif not has_loss[k] or status[k] in _UNFINISHED:
                out[k] = "unfinished"
            elif dropped[k] or status[k] in ("failed", "pruned"):
                out[k] = "dropped"
            elif held[k]:
                out[k] = "held_out"
        return out

    def _named(self, entries: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Say which rows (n,) entries of the fit are about: several rows may be of one run."""
        out = np.zeros(self.runs.shape, dtype=bool)
        entries = list(entries)
        rows = np.array([e["row"] for e in entries if "row" in e], dtype=int)
        out[rows[rows < out.size]] = True
        # Older files name held-out rows by their run alone.
        return out | np.isin(self.runs, [str(e.get("run")) for e in entries if "row" not in e])

    @property
    def is_used(self) -> np.ndarray:
        """Rows (n,) that a figure's main message rests on: fitted or held out."""
        return np.isin(self.roles, ("fitted", "held_out"))

    @cached_property
    def budgets(self) -> np.ndarray:
        """The planned budgets, rising, that rows in use name."""
        budget = self.column("budget")
        if budget.size == 0:
            return np.empty(0)
        return np.unique(budget[np.isfinite(budget) & self.is_used])

    @property
    def params_kind(self) -> str:
        """Which count of parameters the table holds."""
        return self._kind("params_kind")

    @property
    def flops_kind(self) -> str:
        """How the table's FLOPs were counted."""
        return self._kind("flops_kind")

    @property
    def loss_unit(self) -> str:
        """The unit of the table's loss."""
        return self._kind("loss_unit")

    def _kind(self, name: str) -> str:
        if self.fit is not None and self.fit.data.get(name):
            return str(self.fit.data[name])
        words = sorted({str(w) for w in self.words(name) if w})
        if words:
            return words[0] if len(words) == 1 else "mixed"
        return str(self.table.meta.get(name) or "") if self.table is not None else ""

    def other(self, approach: str) -> FitResult | None:
        """Return the fit of this table by an approach, the headline's own included."""
        if self.fit is None:
            return None
        fits = (self.fit, *self.fit.others)
        return next((f for f in fits if f.approach == approach), None)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _word(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
