"""From a table to what one law is fitted to: the law for these runs, and the runs as it reads them.

Most laws are the same for every table. A law of recipes has parameters a recipe, a law of curves
knows its learning-rate schedules: they are bound to the table first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scalekit.fit.other_data import mixed_data
from scalekit.fit.own_law import check_gradient, find_law, is_own
from scalekit.fit.result import FitResult
from scalekit.fit.rows import Runs, select
from scalekit.fit.surface import tuned_runs
from scalekit.laws.base import Law
from scalekit.results.table import TRUNK, RunTable


def prepare(
    name: str, table: RunTable, *, drop: Sequence[str] = (), cluster: str | None = None
) -> tuple[Law, Runs]:
    """Find a law, bind it to a table, and select its runs.

    Args:
        name: A member of the family, or a user's file.
        table: Any table with the columns of the law's inputs and its response.
        drop: Columns whose true cells, or expressions whose true rows, are left out.
        cluster: A column whose equal cells belong together; the law says unless given.

    Raises:
        UsageError: No such law.
        InputError: The table lacks what the law needs, or a user's law is not what it says.
    """
    law = find_law(name)
    if law.tuned:
        runs = tuned_runs(law, table, drop=drop, cluster=cluster)
    else:
        law, runs = _bound(law, table, drop, cluster)
    if is_own(name):
        check_gradient(law, runs.inputs, name)
    return law, runs


def _bound(law: Law, table: RunTable, drop: Sequence[str], cluster: str | None) -> tuple[Law, Runs]:
    plain = [s for s in law.inputs if s not in law.coded]
    runs = select(table, plain, drop=drop, cluster=cluster, response=law.response, reads=law.reads)
    law, codes = law.bind(table.columns, runs.rows, runs.where)
    notes = (*runs.notes, law.caution) if law.caution else runs.notes
    notes = (*notes, *mixed_data(law, table, runs))
    runs = replace(runs, inputs={**runs.inputs, **codes}, notes=notes)
    together = law.clusters(runs.inputs)
    # Curves of one trunk belong together, and so do the lines of each.
    if cluster is None and together is not None and TRUNK not in table:
        runs = replace(runs, cluster=together, is_serial=law.sequence(runs.inputs) is not None)
    return law, runs


def law_of(fit: FitResult) -> Law:
    """Return the law of a fit, with the recipes that it knew."""
    return find_law(fit.law).at_levels(fit.diagnostics.get("levels") or ())
