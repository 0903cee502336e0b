"""Gather a study from what a user names: a fit, a table, or a sweep's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scalekit.analysis.study import Curve, Study
from scalekit.errors import ScalekitError
from scalekit.fit.own_law import find_law
from scalekit.fit.run import read_fit
from scalekit.results.collect import collect, read_runs
from scalekit.results.curves import curve_table
from scalekit.results.mapping import kept_rows
from scalekit.results.reading import Reading
from scalekit.results.record import RunRecord, read_record
from scalekit.results.site import read_rules, read_site
from scalekit.results.store import SweepFolder
from scalekit.results.table import RunTable

_PLAIN = Reading()
_STEP_COLUMNS = ("tokens", "loss", "lr", "grad_norm")
_EVAL_COLUMNS = ("tokens", "flops", "val_loss")


def gather(
    source: Path,
    reading: Reading = _PLAIN,
    *,
    skip: Path | None = None,
    drop: Sequence[str] = (),
) -> tuple[Study, list[str]]:
    """Read a study from a `fit.json`, a sweep's folder, or what others' training left.

    Args:
        source: The path that the user named.
        reading: What the user said of it.
        skip: A folder below the source that is not read: the output.
        drop: Columns or expressions whose true rows a fit will leave out.

    Returns:
        The study, and in sentences what a reader of it must know.

    Raises:
        InputError: The source cannot be read.
    """
    if source.suffix.lower() == ".json" and _is_fit(source):
        return _from_fit(source)
    if SweepFolder(source).plan_file.exists():
        return _from_sweep(source, reading, drop)
    table = collect([source], reading, skip=skip, drop=drop)
    return Study(table, name=source.stem), list(table.meta.get("notes", ()))


def _is_fit(path: Path) -> bool:
    """Whether a JSON file is one value with a schema; JSON lines and others' logs are runs."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return not path.exists()
    return isinstance(value, dict) and "log_history" not in value


def _from_fit(path: Path) -> tuple[Study, list[str]]:
    """Read a fit and, where it is still there, the table that it was made from."""
    fit = read_fit(path)
    named = str(fit.data.get("path") or "")
    places = (path.parent / Path(named).name, Path(named)) if named else ()
    place = next((p for p in places if p.exists()), None)
    if place is None:
        note = f"{path}: its data {named or 'path'} is not here; only what the fit holds is drawn"
        return Study(fit=fit, name=path.stem), [note]
    reading = Reading(fit.data.get("mapping") or {}, **(fit.data.get("reading") or {}))
    if SweepFolder(place).plan_file.exists():
        study, notes = _from_sweep(place, reading)
        if fit.approach == "parametric" and "t" in find_law(fit.law).inputs:
            # A law of curves was fitted to the runs' lines, not to their ends.
            study = replace(study, table=curve_table(SweepFolder(place)))
    else:
        response = str(fit.data.get("response") or "loss")
        table = read_runs(place, reading, response=response, needs_params=False)
        study, notes = Study(table, name=place.stem), []
    assert study.table is not None
    told, found = fit.data.get("sha256"), study.table.meta.get("sha256")
    if told and found and told != found:
        notes.append(f"{place}: has changed since {path.name} was fitted; fit it again")
    return replace(study, fit=fit), notes


def _from_sweep(root: Path, reading: Reading, drop: Sequence[str] = ()) -> tuple[Study, list[str]]:
    folder = SweepFolder(root)
    table = collect([root], reading, drop=drop)
    lines = tuple(folder.plan_lines())
    curves, records = [], []
    for line in lines:
        record = _record(folder, line["id"])
        if record is None:
            continue
        records.append({"header": record.header, "attempts": record.attempts, "end": record.end})
        curves.append(_curve(line, record, table))
    notes = [str(note) for note in table.meta.get("notes", ())]
    told = read_site(folder), read_rules(folder)
    return Study(table, None, tuple(curves), lines, tuple(records), root.name, *told), notes


def _record(folder: SweepFolder, run: str) -> RunRecord | None:
    """Read a run's record; None where there is none to read (`collect` has said so already)."""
    path = folder.record(run)
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except ScalekitError:
        return None
    return record if record.header.get("id") == run else None


def _curve(line: Mapping[str, Any], record: RunRecord, table: RunTable) -> Curve:
    plan = line["plan"]
    counts = plan.get("params")
    kind = str(table.meta.get("params_kind") or plan.get("params_kind"))
    params = counts.get(kind) if isinstance(counts, Mapping) else counts
    budget = plan.get("budget")
    return Curve(
        line["id"],
        str((record.end or {}).get("status", "")),
        float("nan") if params is None else float(params),
        float("nan") if budget is None else float(budget),
        _columns(record.steps, _STEP_COLUMNS),
        _columns(record.evals, _EVAL_COLUMNS),
    )


def _columns(lines: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Turn lines into columns (n,); what a line lacks is NaN, what all lack is left out."""
    lines = list(lines)
    found = {}
    for name in names:
        values = [line.get(name) for line in lines]
        if any(v is not None for v in values):
            found[name] = np.array([np.nan if v is None else float(v) for v in values])
    return found


def envelope_curves(study: Study, drop: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the held-out curves that approach 1 may use beside the runs' ends, but of `drop`.

    Only runs at a constant learning rate qualify: before a schedule has decayed the loss lies a
    tenth of a nat and more above what a run of that length ends at, and an envelope through both
    kinds follows the schedules, not the sizes.
    """
    schedules = {
        record["header"]["id"]: record["header"]["config"]["train"].get("schedule")
        for record in study.records
    }
    columns = {} if study.table is None else study.table.columns
    kept = set(study.runs[kept_rows(columns, drop, study.name)])
    out = []
    for curve in study.curves:
        if curve.run not in kept:
            continue
        if curve.status != "done" or not set(_EVAL_COLUMNS) <= set(curve.evals):
            continue
        if schedules.get(curve.run) != "constant":
            return []
        tokens, flops, loss = (curve.evals[name] for name in _EVAL_COLUMNS)
        keep = (flops > 0) & (loss > 0) & np.isfinite(tokens)
        if keep.sum() >= 2:
            numbers = {"tokens": tokens[keep], "flops": flops[keep], "loss": loss[keep]}
            out.append({"params": curve.params, **numbers})
    return out
