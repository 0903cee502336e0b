"""The report's tables, every cell a text rounded to what is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.analysis import digits
from scalekit.analysis.study import Study
from scalekit.analysis.words import interval_method, loss_words, params_words, symbol
from scalekit.fit.optimum import can_allocate, no_optimum
from scalekit.fit.prepare import law_of
from scalekit.fit.result import FitResult, FitStatus
from scalekit.quantities import write_ratio
from scalekit.reports import _numbers, _wording
from scalekit.reports._numbers import NOTHING
from scalekit.reports.base import TableOf

MOST_ROWS = 400
"""Rows of a table in a report; the whole one is in data.csv."""


def parameters(fit: FitResult) -> TableOf:
    """List the law's parameters with intervals and their meaning."""
    meaning: dict[str, str] = {}
    if fit.approach == "parametric" and fit.law in registry.names("laws"):
        meaning = {p.name: p.doc for p in law_of(fit).params}
    rows = []
    for name, value in fit.theta.items():
        between = fit.intervals.get(name)
        low, high = _wording.ends(between)
        level = f"{100 * between.level:.0f} %, {between.method}" if between else NOTHING
        rows.append(
            [
                symbol(name),
                digits.number(value, low, high),
                _numbers.parameter_interval(low, high),
                level,
                meaning.get(name, ""),
            ]
        )
    note = "Rounded for reading. Rounded constants move the optimum: compute with fit.json."
    if fit.status is FitStatus.UNIDENTIFIED:
        note = "Not identified: this is where the solver stopped, not a law."
    return TableOf(("parameter", "value", "interval", "level", "meaning"), rows, note)


def _how_sure(fit: FitResult) -> str:
    """Say how the optima's intervals were made: scalekit predict may be asked for another way."""
    method = interval_method(fit)
    return f"90 % intervals by {method}." if method else ""


def _why_no_optimum(fit: FitResult) -> str:
    given = fit.diagnostics.get("given") or {}
    if fit.approach == "parametric" and not can_allocate(law_of(fit), given):
        return f"{_capital(no_optimum(law_of(fit), given))}."
    return "No budgets were asked for; give some with --predict."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def optimum(study: Study) -> TableOf:
    """List the compute-optimal choice at each asked budget."""
    assert study.fit is not None
    rows = []
    told = study.fit.status is not FitStatus.UNIDENTIFIED
    for row in study.fit.optimum if told else ():
        between = row.get("intervals", {})
        factor = row.get("extrapolation")
        rows.append(
            [
                _numbers.flops(row.get("flops")),
                _numbers.count(row.get("params"), *_wording.ends(between.get("params"))),
                _numbers.count(row.get("tokens"), *_wording.ends(between.get("tokens"))),
                _numbers.with_interval(
                    row.get("tokens_per_param"), *_wording.ends(between.get("tokens_per_param"))
                ),
                _numbers.with_interval(row.get("loss"), *_wording.ends(between.get("loss"))),
                f"{write_ratio(factor)} x" if factor is not None else NOTHING,
            ]
        )
    columns = (
        "budget (FLOPs)",
        f"N* ({params_words(study.params_kind)})",
        "D* (tokens)",
        "tokens per parameter",
        f"loss ({loss_words(study.loss_unit)})",
        "of the largest measured budget",
    )
    note = _how_sure(study.fit) if rows or not told else _why_no_optimum(study.fit)
    return TableOf(columns, rows, note)


def approaches(study: Study, remarks: Sequence[str] = ()) -> TableOf:
    """Put the exponents of every approach and law side by side, and say what was not done."""
    fit = study.fit
    assert fit is not None
    rows = []
    for one in (fit, *fit.others):
        told = {} if one.status is FitStatus.UNIDENTIFIED else one.exponents
        a, b = told.get("params", {}), told.get("tokens", {})
        held = one.holdout.get("mape") if one.holdout else None
        rows.append(
            [
                _wording.APPROACHES.get(one.law) or _wording.APPROACHES[one.approach],
                one.law if one.approach == "parametric" else NOTHING,
                _numbers.with_interval(a.get("value"), *_wording.ends(a)),
                _numbers.with_interval(b.get("value"), *_wording.ends(b)),
                _numbers.percent(held),
                f"{one.status}: {one.message.rstrip('.')}",
            ]
        )
    columns = ("approach", "law", "N* ~ C^a", "D* ~ C^b", "held-out error", "status")
    return TableOf(columns, rows, " ".join(f"{_capital(remark)}." for remark in remarks))


def runs(study: Study) -> TableOf:
    """List the runs with what became of each."""
    if study.table is None:
        return TableOf((), (), "There is no table of runs.")
    n = len(study.table)
    spent = study.column("device_s")
    rows = []
    for k in range(min(n, MOST_ROWS)):
        loss, sem = (float(study.column(name)[k]) for name in ("loss", "loss_sem"))
        rows.append(
            [
                str(study.runs[k]),
                str(study.roles[k]).replace("_", " "),
                _numbers.flops(float(study.column("budget")[k])),
                _numbers.count(float(study.column("params")[k])),
                _numbers.count(float(study.column("tokens")[k])),
                _loss(loss, sem),
                _numbers.duration(float(spent[k])),
                str(study.words("flags")[k]),
            ]
        )
    columns = (
        "run",
        "role",
        "budget (FLOPs)",
        f"N ({params_words(study.params_kind)})",
        "D (tokens)",
        f"loss ({loss_words(study.loss_unit)})",
        "device time",
        "flags",
    )
    keep = [j for j in range(len(columns)) if any(r[j] not in ("", NOTHING) for r in rows)]
    notes = [f"The first {MOST_ROWS} of {n} runs; data.csv holds all."] if n > MOST_ROWS else []
    if any("±" in row[5] for row in rows):
        notes.append(
            "± is the standard error of an evaluation; runs on one validation set share it, "
            "and how they differ is known better."
        )
    return TableOf(
        [columns[j] for j in keep], [[r[j] for j in keep] for r in rows], " ".join(notes)
    )


def _loss(value: float, sem: float) -> str:
    """Write a loss to five digits, for runs differ by less than their evaluation's error.

    >>> _loss(2.4, 0.0297), _loss(3.7, math.nan), _loss(2.3e-4, 2e-6)
    ('2.4000 ± 0.030', '3.7000', '0.00023000 ± 2.0e-6')
    """
    if not math.isfinite(value):
        return NOTHING
    text, error = _five(value), f"{sem:#.2g}"
    if not (math.isfinite(sem) and sem > 0):
        return text
    return f"{text} ± {_short_power(error)}"


def _five(value: float) -> str:
    return _short_power(f"{value:#.5g}").rstrip(".")


def _short_power(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def dropped(fit: FitResult) -> TableOf:
    """List every row that the fit left out, with its reason."""
    rows = [[str(d.get("run", NOTHING)), str(d.get("reason", NOTHING))] for d in fit.dropped]
    note = "" if rows else "No run was left out."
    if len(rows) > MOST_ROWS:
        note = f"The first {MOST_ROWS} of {len(rows)}; fit.json holds all."
    return TableOf(("run", "reason"), rows[:MOST_ROWS], note)


def options(fit: FitResult) -> TableOf:
    """List what the fit was asked to do and what its checks found."""
    facts: dict[str, Any] = {
        "law": fit.law,
        "approach": fit.approach,
        "objective": fit.objective.get("name"),
        "delta": fit.objective.get("delta"),
        "objective value": fit.objective.get("value"),
        "starts": fit.starts,
        "seed": fit.seed,
        "bootstrap draws": len(fit.draws) if fit.draws else 0,
        "held out": fit.holdout.get("rule") if fit.holdout else None,
        "scalekit": fit.version,
    }
    if fit.cost is not None:
        facts["FLOPs"] = (
            f"{fit.cost.factor:.6g} N^{fit.cost.power:.6g} D, at worst "
            f"{_numbers.percent(fit.cost.worst_miss)} off the table's own"
        )
    facts |= {str(k): v for k, v in fit.diagnostics.items() if _is_plain(v)}
    rows = [[name.replace("_", " "), _cell(value)] for name, value in facts.items()]
    return TableOf(("option", "value"), rows)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= 3 and all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return len(value) <= 8 and all(isinstance(v, str | int | float) for v in value)
    return isinstance(value, str | int | float) or value is None


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.5g}"
    return _wording.or_nothing(_wording.plain_powers(value) if isinstance(value, str) else value)
