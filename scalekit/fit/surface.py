"""The tuned hyperparameters of each size and length: the bottom of a bowl, not the best run.

Runs of one size and number of tokens form a cell. In each, the loss near its best run is a
quadratic of log learning rate and log batch; its minimum is the cell's optimum. The best run
instead is a point of the grid and carries the noise of one loss: on the 17 cells of Step Law
(arXiv:2503.04715) the two give exponents that differ by more than their errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from scalekit.errors import FitError
from scalekit.fit.rows import Runs, select
from scalekit.laws.base import Array, Law
from scalekit.results.table import RunTable

AXES = ("lr", "batch_tokens")
"""The hyperparameters that a sweep may tune."""

WINDOW = 0.01
"""Runs of a cell within this of its best loss are taken; further out a bowl is no quadratic: a
rate too high diverges long before one that is too low by the same factor has lost as much."""

_SAME = 0.02
"""Tokens that differ by less belong to one cell: whole steps of unequal batches never end alike."""

_SPARE = 2
"""Runs that a cell needs beyond the coefficients of its quadratic."""


@dataclass(frozen=True)
class Cell:
    """One size and length.

    Attributes:
        rows: Positions of its runs among all, (n,).
        best: The tuned value by axis; empty where there is none, and `doubt` says why.
        used: Positions of the runs that made the quadratic.
        doubt: What is wrong, or weak, in a sentence; may stand beside a value.
    """

    rows: Array
    best: Mapping[str, float]
    used: Array
    doubt: str = ""


def tuned_runs(law: Law, table: RunTable, *, drop: Sequence[str], cluster: str | None) -> Runs:
    """Reduce a sweep of hyperparameters to one row a cell, the law's response at its optimum.

    A table whose cells hold one value each is taken as tuned already.

    Raises:
        InputError: A column is missing, or a number not positive.
        FitError: No cell has an optimum inside its sweep.
    """
    sizes = ("N", "D") if {"params", "tokens"} <= set(table.columns) else law.inputs
    plain = select(table, sizes, drop=drop, cluster=cluster, response=law.response)
    swept = {
        axis: np.asarray(table[axis], dtype=float)[plain.rows]
        for axis in AXES
        if axis in table and table[axis].dtype != object
    }
    if "loss" not in table or not _is_swept(plain, swept, law.response):
        note = f"{plain.where}: every row is taken as tuned: none has a neighbour to compare with"
        return replace(plain, notes=(*plain.notes, note))
    runs = select(table, ("N", "D"), drop=drop, response="loss", reads=(law.response,))
    swept = {axis: np.asarray(table[axis], dtype=float)[runs.rows] for axis in swept}
    cells = [fit_cell(runs, swept, rows) for rows in cells_of(runs.inputs["N"], runs.inputs["D"])]
    kept = [cell for cell in cells if law.response in cell.best]
    if not kept:
        raise FitError(
            f"{runs.where}: no cell of params and tokens has its best {law.response} inside what "
            f"was tried, {cells[0].doubt}; widen the sweep"
        )
    found = _as_runs(runs, kept, law)
    remarks = (_summary(cells, len(kept), swept), *_window_note(runs, swept, kept, law))
    notes = [
        f"{cell.doubt}; {'extend the sweep there' if cell.best else 'left out'}"
        for cell in cells
        if cell.doubt
    ]
    if cluster is not None:
        notes.append(f"--cluster {cluster} is not used: each cell stands for itself")
    dropped = (*runs.dropped, *_left(runs, cells))
    return replace(found, dropped=dropped, remarks=remarks, notes=tuple(notes))


def cells_of(N: Array, D: Array) -> list[Array]:
    """Return the positions of each cell's runs (n,), by rising size and tokens."""
    order = np.lexsort((D, N))
    steps_N, steps_D = (np.diff(np.log(v[order])) for v in (N, D))
    starts = 1 + np.flatnonzero((steps_N > 1e-9) | (steps_D > _SAME))
    return [rows for rows in np.split(order, starts) if rows.size]


def fit_cell(runs: Runs, swept: Mapping[str, Array], rows: Array, window: float = WINDOW) -> Cell:
    """Find the optimum of one cell.

    Args:
        runs: All runs.
        swept: Values of each axis, (n,).
        rows: Positions of the cell's runs.
        window: Share of the best loss above it within which runs are used.
    """
    loss = runs.loss[rows]
    N, D = (float(np.exp(np.log(runs.inputs[s][rows]).mean())) for s in ("N", "D"))
    where = f"params {N:.4g}, tokens {D:.4g}"
    axes = {axis: np.log(values[rows]) for axis, values in swept.items()}
    axes = {axis: x for axis, x in axes.items() if np.isfinite(x).all() and len(np.unique(x)) > 2}
    near = loss <= loss.min() * (1 + window)
    used = rows[near]
    if not axes:
        return Cell(rows, {}, used, f"{where}: fewer than three values of each axis")
    points = np.stack(list(axes.values()))
    n_terms = (len(axes) + 1) * (len(axes) + 2) // 2
    if near.sum() < n_terms + _SPARE:
        few = f"{where}: {near.sum()} runs within {window:.3g} of the best, {n_terms + _SPARE} "
        return Cell(rows, {}, used, few + "are needed; run more values near it")
    bottom = _bottom(points[:, near], loss[near])
    if bottom is None:
        return Cell(rows, {}, used, f"{where}: the runs near the best form no bowl")
    for axis, at, x in zip(axes, bottom, points, strict=True):
        if not x.min() < at < x.max():
            side = "low" if at <= x.min() else "high"
            return Cell(rows, {}, used, f"{where}: {axis} is best at the {side} edge or beyond")
    best = {axis: float(np.exp(at)) for axis, at in zip(axes, bottom, strict=True)}
    return Cell(rows, best, used, _edge(where, axes, loss))


def _bottom(points: Array, loss: Array) -> Array | None:
    """Return the minimum (k,) of a quadratic through loss (n,) at points (k, n), if it has one."""
    centre = points.mean(axis=1)
    moved = points - centre[:, None]
    k = len(points)
    pairs = list(combinations_with_replacement(range(k), 2))
    basis = np.stack([np.ones_like(loss), *moved, *(moved[i] * moved[j] for i, j in pairs)])
    found, _, rank, _ = np.linalg.lstsq(basis.T, loss, rcond=None)
    if rank < len(basis):
        return None
    bend = np.zeros((k, k))
    for (i, j), value in zip(pairs, found[1 + k :], strict=True):
        bend[i, j] += value
        bend[j, i] += value
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return None
    return centre - np.linalg.solve(bend, found[1 : 1 + k])


def _edge(where: str, axes: Mapping[str, Array], loss: Array) -> str:
    """Say that the best run itself lies at the edge of what was tried, if so."""
    lowest = int(np.argmin(loss))
    for axis, x in axes.items():
        for end, side in ((x.min(), "lowest"), (x.max(), "highest")):
            if x[lowest] == end:
                return f"{where}: the best run has the {side} {axis} that was tried"
    return ""


def _is_swept(runs: Runs, swept: Mapping[str, Array], response: str) -> bool:
    """Whether any cell holds two values of the response."""
    if not {"N", "D"} <= set(runs.inputs):
        return False
    cells = cells_of(runs.inputs["N"], runs.inputs["D"])
    return any(len(np.unique(swept[response][rows])) > 1 for rows in cells)


def _as_runs(runs: Runs, cells: Sequence[Cell], law: Law) -> Runs:
    """Return one row a cell, standing at its best run's row of the table."""
    best = np.array([cell.rows[np.argmin(runs.loss[cell.rows])] for cell in cells])
    middle = {
        s: np.array([np.exp(np.log(v[cell.rows]).mean()) for cell in cells])
        for s, v in runs.inputs.items()
    }
    found = runs.where_true(np.isin(np.arange(len(runs)), best))
    order = np.argsort(np.argsort(best))
    names = tuple(f"cell of {runs.names[i]}" for i in best)
    kept = {s: v for s, v in middle.items() if s in (*law.inputs, "C")}
    return replace(
        found,
        names=names,
        inputs=kept,
        loss=np.array([cell.best[law.response] for cell in cells]),
        budget=found.budget[order],
        cluster=np.arange(len(cells)),
        rows=runs.rows[best],
    )


def _left(runs: Runs, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """List the runs that no quadratic uses, with the reason."""
    found = []
    for cell in cells:
        gone = cell.rows if not cell.best else np.setdiff1d(cell.rows, cell.used)
        reason = f"more than {WINDOW:.3g} above the best loss of its cell"
        for i in gone:
            row = int(runs.rows[i])
            told = reason if cell.best else f"no optimum, {cell.doubt}"
            found.append({"run": runs.names[i], "row": row, "reason": told})
    return found


def _summary(cells: Sequence[Cell], n_kept: int, swept: Mapping[str, Array]) -> str:
    return (
        f"{n_kept} of {len(cells)} cells of params and tokens have an optimum, each the bottom of "
        f"a quadratic in log {' and log '.join(swept)} through its runs within {WINDOW:.3g} of its "
        "best loss"
    )


def _window_note(
    runs: Runs, swept: Mapping[str, Array], kept: Sequence[Cell], law: Law
) -> list[str]:
    """Say how the exponents move with the window: no interval contains that choice."""
    told = []
    for window in (WINDOW / 2, WINDOW, WINDOW * 2):
        cells = [fit_cell(runs, swept, cell.rows, window) for cell in kept]
        cells = [cell for cell in cells if law.response in cell.best]
        if len(cells) <= len(law.inputs) + 1:
            return []
        one = _as_runs(runs, cells, law)
        logs = np.stack([np.ones(len(cells)), *(np.log(one.inputs[s]) for s in law.inputs)])
        slopes = np.linalg.lstsq(logs.T, np.log(one.loss), rcond=None)[0][1:]
        words = " ".join(f"{s}^{slope:.3f}" for s, slope in zip(law.inputs, slopes, strict=True))
        told.append(f"{window:.3g}: {words}")
    return [f"{law.response} by least squares within {'; within '.join(told)}"]
