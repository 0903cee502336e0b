"""Which rows of a table a fit uses, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalekit.errors import FitError, InputError
from scalekit.fit.identify import count_distinct
from scalekit.laws.base import COLUMN_OF, Array
from scalekit.quantities import count_words
from scalekit.results.columns import require
from scalekit.results.mapping import holds
from scalekit.results.states import STATES
from scalekit.results.table import TRUNK, RunTable


@dataclass(frozen=True)
class Runs:
    """Finished runs with positive numbers, ready to be fitted.

    Attributes:
        where: What an error names: the table's path.
        names: One a run.
        inputs: By symbol (`N`, `D`, `C`, ...), each (n,).
        loss: (n,), or the other column that a law predicts.
        budget: (n,), planned FLOPs, NaN where none was planned.
        cluster: (n,), whole numbers: runs of one cluster are resampled together.
        rows: (n,), positions in the table.
        dropped: One entry a row left out: run, row, reason.
        remarks: What was done and leaves nothing to doubt, in sentences.
        notes: What is to be doubted, in sentences.
        sem: (n,), standard errors of the evaluation relative to the loss, NaN where unknown.
        is_serial: Whether rows are lines of curves whose errors are to be taken as lasting.
    """

    where: str
    names: tuple[str, ...]
    inputs: Mapping[str, Array]
    loss: Array
    budget: Array
    cluster: np.ndarray
    rows: np.ndarray
    dropped: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sem: Array | None = None
    is_serial: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    def where_true(self, keep: np.ndarray) -> Runs:
        """Keep some runs, in order."""
        kept = np.flatnonzero(keep)
        return replace(
            self,
            names=tuple(self.names[i] for i in kept),
            inputs={s: v[kept] for s, v in self.inputs.items()},
            loss=self.loss[kept],
            budget=self.budget[kept],
            cluster=self.cluster[kept],
            rows=self.rows[kept],
            sem=None if self.sem is None else self.sem[kept],
        )


def select(
    table: RunTable,
    symbols: Sequence[str],
    *,
    drop: Sequence[str] = (),
    cluster: str | None = None,
    response: str = "loss",
    reads: Sequence[str] = (),
) -> Runs:
    """Take the finished runs with a loss and every input, and list the rest with reasons.

    Args:
        table: Any table with `loss` and the columns of the symbols. FLOPs that it lacks are
            counted as 6 N D, and a note says so.
        symbols: Which inputs are wanted, of `COLUMN_OF` or columns of their own.
        drop: Columns whose true cells, or expressions whose true rows, are left out.
        cluster: A column whose equal cells belong together (a trunk, a seed). The column `trunk`
            is taken where none is named, else `run` where several rows are of one: runs that share
            their beginning are not independent, and points of one run are still less so.
        response: The column that is fitted.
        reads: Further columns that must be there.

    Raises:
        InputError: A column is missing, a number is not positive, or no run is left.
    """
    where = str(table.meta.get("path", "table"))
    names = run_names(table)
    column_of = {s: COLUMN_OF.get(s, s) for s in symbols if s != "C"}
    require(table, [response, *column_of.values(), *reads])
    reasons = _reasons(table, [response, *column_of.values()], drop)
    kept = np.flatnonzero([not reason for reason in reasons])
    if not len(kept):
        raise InputError(f"{where}: no run is left to fit, {_all_left_out(table, reasons)}")
    inputs = {s: np.asarray(table[c], dtype=float)[kept] for s, c in column_of.items()}
    loss = np.asarray(table[response], dtype=float)[kept]
    for column, values in [(response, loss), *((column_of[s], v) for s, v in inputs.items())]:
        _check_positive(values, column, kept, where)
    flops, notes = _flops(table, kept, inputs, where)
    if flops is not None:
        inputs["C"] = flops
    elif "C" in symbols:
        require(table, ["flops"])
    dropped = [
        {"run": names[i], "row": i, "reason": reason} for i, reason in enumerate(reasons) if reason
    ]
    clusters, together = _clusters(table, cluster, kept, where)
    budget = table["budget"] if "budget" in table else np.full(len(table), np.nan)
    if budget.dtype == object:
        require(table, ["budget"])
    return Runs(
        where,
        tuple(names[i] for i in kept),
        inputs,
        loss,
        np.asarray(budget, dtype=float)[kept],
        clusters,
        kept,
        tuple(dropped),
        together,
        notes,
        _relative_errors(table, kept, loss, where),
    )


def _all_left_out(table: RunTable, reasons: Sequence[str]) -> str:
    """Count the reasons, and say what to do; who made the table may call done otherwise."""
    counts = Counter(reasons)
    told = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "the table is empty"
    words = {str(word) for word in table["status"]} if "status" in table else set()
    other = sorted((words & counts.keys()) - {*STATES})
    if other:
        return (
            f"{told}; {other[0]!r} is no status that is known here, so say which runs are done, as "
            "with --map \"status='done'\""
        )
    return f"{told}; finish or keep some runs"


def run_names(table: RunTable) -> list[str]:
    """Name every row: its run, or its number where the table has no runs' names."""
    if "run" not in table:
        return [f"row {i + 1}" for i in range(len(table))]
    return [str(name) or f"row {i + 1}" for i, name in enumerate(table["run"])]


def matches(table: RunTable, expression: str, option: str) -> np.ndarray:
    """Say for every row (n,) whether an expression holds, or whether a column's cell is true."""
    return holds(expression, table.columns, f"{table.meta.get('path', 'table')}: {option}")


def _reasons(table: RunTable, columns: Sequence[str], drop: Sequence[str]) -> list[str]:
    """Give each row the first reason to leave it out, or an empty one."""
    reasons = [""] * len(table)

    def say(rows: np.ndarray, reason: str) -> None:
        for i in np.flatnonzero(rows):
            reasons[i] = reasons[i] or reason

    if "status" in table:
        for word in sorted({str(s) for s in table["status"]} - {"", "done"}):
            say(np.array([str(s) == word for s in table["status"]]), word)
    for expression in drop:
        say(matches(table, expression, "--drop"), f"--drop {expression}")
    for column in columns:
        values = np.asarray(table[column], dtype=float)
        say(~np.isfinite(values), f"{column} is not a number")
    return reasons


def _check_positive(values: Array, column: str, rows: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(values <= 0)
    if len(bad):
        row = int(rows[bad[0]]) + 1
        raise InputError(
            f"{where}: {column} must be positive, found {values[bad[0]]:g} in row {row}; mend it "
            f"or leave such rows out with --drop '{column}<=0'"
        )


def _flops(
    table: RunTable, kept: np.ndarray, inputs: Mapping[str, Array], where: str
) -> tuple[Array | None, tuple[str, ...]]:
    if "flops" in table:
        flops = np.asarray(table["flops"], dtype=float)[kept]
        if np.isfinite(flops).all():
            _check_positive(flops, "flops", kept, where)
            return flops, ()
    if not {"N", "D"} <= set(inputs):
        return None, ()
    missing = "no column flops" if "flops" not in table else "some runs have no flops"
    return 6.0 * inputs["N"] * inputs["D"], (
        f"{where}: {missing}; FLOPs are counted as 6 x params x tokens",
    )


def _relative_errors(table: RunTable, kept: np.ndarray, loss: Array, where: str) -> Array | None:
    """Return the error of each evaluation over its loss; a run that states none has no number."""
    if "loss_sem" not in table or table["loss_sem"].dtype == object:
        return None
    sem = np.asarray(table["loss_sem"], dtype=float)[kept]
    bad = np.flatnonzero((sem < 0) | np.isinf(sem))
    if len(bad):
        raise InputError(
            f"{where}: loss_sem is the standard error of a loss, found {sem[bad[0]]:g} in row "
            f"{int(kept[bad[0]]) + 1}; mend it, or leave the cell empty where it is not known"
        )
    return sem / loss


def _clusters(
    table: RunTable, cluster: str | None, kept: np.ndarray, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the clusters of the kept rows, and say so where nobody asked for them."""
    column = cluster or next((name for name in (TRUNK, "run") if name in table), None)
    if column is None:
        return np.arange(len(kept)), ()
    if column not in table:
        require(table, [column])
    cells = [str(cell) for cell in table[column][kept]]
    if cluster is not None:
        return np.unique(cells, return_inverse=True)[1], ()
    # A row that names no trunk is of none; a row's number is no run's id.
    named = [
        f"row {row}" if cell in ("", "nan") else cell
        for cell, row in zip(cells, kept.tolist(), strict=True)
    ]
    origins, found = np.unique(named, return_inverse=True)
    if len(origins) == len(kept):
        return np.arange(len(kept)), ()
    if column == "run":
        told = (
            f"{len(kept)} rows of {count_words(len(origins), 'run')}; those of one run share its "
            "noise and are resampled together (--cluster COLUMN says otherwise)"
        )
    else:
        told = (
            f"{len(kept)} runs of {count_words(len(origins), 'trunk')}; those of one trunk share "
            "their beginning and are resampled together (--cluster run takes each for itself)"
        )
    return found, (f"{where}: {told}",)


def check_enough(runs: Runs, law: str, n_free: int) -> None:
    """Refuse a fit with no more distinct runs than free parameters.

    Raises:
        FitError: Too few runs, or too few that differ.
    """
    n = len(runs)
    if n < n_free:
        raise FitError(
            f"{runs.where}: {count_words(n, 'run')} but {law} has {n_free} free parameters; add "
            "runs or fix one with --fix E=1.7"
        )
    points = np.stack([v for s, v in runs.inputs.items() if s != "C"] or [runs.inputs["C"]])
    distinct = count_distinct(points)
    if distinct < n_free:
        raise FitError(
            f"{runs.where}: {count_words(n, 'run')} at {distinct} different sizes and lengths but "
            f"{law} has {n_free} free parameters; add runs that differ or fix one with --fix E=1.7"
        )
