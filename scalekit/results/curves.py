"""The step lines of a sweep's runs as one table: what laws of loss curves are fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalekit.errors import InputError
from scalekit.results.record import RunRecord, read_record
from scalekit.results.rows import LOSS_UNIT
from scalekit.results.states import record_names
from scalekit.results.store import SweepFolder
from scalekit.results.table import TRUNK, RunTable, make_table
from scalekit.results.trunks import whole_curve

_EVALS = 10
"""Evaluations that a run needs for its curve to be that of the held-out loss."""


def curve_table(folder: SweepFolder) -> RunTable:
    """Read the curves of a sweep: one row a step that a run reported its learning rate or loss at.

    The loss is the held-out one where every run was evaluated often enough; else it is the
    training loss, and a note says so. A step without a loss stays in the table for its rate.

    Raises:
        InputError: No plan, or no run has begun.
    """
    records: dict[str, RunRecord] = {}
    notes = []
    present = record_names(folder)
    plans = {line["id"]: line["plan"] for line in folder.plan_lines()}
    for run in plans:
        if run not in present:
            continue
        try:
            record = read_record(folder.record(run))
        except InputError as error:
            notes.append(str(error))
            continue
        if record.steps:
            records[run] = record
    records = {run: whole_curve(one, records, plans[run]) for run, one in records.items()}
    if not records:
        raise InputError(f"{folder.root}: no run has reported a step; wait for some")
    held_out = all(len(record.evals) >= _EVALS for record in records.values())
    if not held_out:
        notes.append(
            f"{folder.root}: the curves are of the training loss, since some run has fewer than "
            f"{_EVALS} evaluations"
        )
    branches = any("parent" in plan for plan in plans.values())
    rows = [
        {**_about(folder, run, plans[run], branches), **row}
        for run, record in records.items()
        for row in _rows(record, held_out)
    ]
    return make_table(rows, {"path": str(folder.root), "notes": tuple(notes)})


def _about(
    folder: SweepFolder, run: str, plan: Mapping[str, Any], branches: bool
) -> dict[str, Any]:
    kind = plan["params_kind"]
    return {
        "run": run,
        "source": folder.root.name,
        "group": plan.get("group"),
        "params": plan["params"][kind],
        "params_kind": kind,
        "loss_unit": LOSS_UNIT,
        **({TRUNK: plan.get("parent", run)} if branches else {}),
    }


def _rows(record: RunRecord, held_out: bool) -> list[dict[str, Any]]:
    """Return a row a step, by step; between two lines the rate of an evaluation is the later's."""
    found: dict[int, dict[str, Any]] = {}
    for line in record.steps:
        loss = None if held_out else line.get("loss")
        found[line["step"]] = {"lr": line.get("lr"), "loss": loss, "tokens": line.get("tokens")}
    if held_out:
        later = list(record.steps)
        for line in record.evals:
            rate = next((s.get("lr") for s in later if s["step"] >= line["step"]), None)
            row = {"lr": rate, "tokens": line.get("tokens"), **found.get(line["step"], {})}
            if row["lr"] is not None:
                found[line["step"]] = {**row, "loss": line.get("val_loss")}
    return [{"step": step, **found[step]} for step in sorted(found)]
