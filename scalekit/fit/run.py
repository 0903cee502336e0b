"""Fit a table: every asked law and approach, one headline with the others beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scalekit import __version__
from scalekit.errors import InputError, UsageError, did_you_mean
from scalekit.fit.envelope import fit_envelope
from scalekit.fit.forms import with_form_bands
from scalekit.fit.isoflop import AKIMA, PARABOLA, fit_isoflop, with_bias
from scalekit.fit.objective import find_objective
from scalekit.fit.optimum import SIX_N_D, Fitted
from scalekit.fit.own_law import find_law
from scalekit.fit.parametric import Options, fit_parametric
from scalekit.fit.prepare import law_of, prepare
from scalekit.fit.result import SCHEMA, SHAPE, FitResult
from scalekit.fit.rows import Runs, select
from scalekit.fit.shape import check_rows, check_shape, plain, read_json
from scalekit.laws.base import Array
from scalekit.results.mapping import kept_rows
from scalekit.results.store import write_whole
from scalekit.results.table import KINDS, MIXED, UNSTATED, RunTable, stated_kinds

APPROACHES = ("parametric", "isoflop", "envelope")


def fit(
    table: RunTable,
    *,
    laws: Sequence[str] = ("chinchilla",),
    approaches: Sequence[str] = ("parametric",),
    objective: str = "robust",
    delta: float | None = None,
    fix: Mapping[str, float] | None = None,
    drop: Sequence[str] = (),
    cluster: str | None = None,
    hold_out: str | None = None,
    predict: Sequence[float] = (),
    bootstrap: int = 0,
    given: Mapping[str, float] | None = None,
    curves: Sequence[Mapping[str, Array]] = (),
    n_starts: int | None = None,
    seed: int = 0,
) -> FitResult:
    """Fit scaling laws to a table of runs.

    Args:
        table: One row a run: `params`, `tokens`, `loss`, and what else the laws take.
        laws: Names of laws, or files that bind `LAW`; the first is the headline.
        approaches: Of `APPROACHES`; the headline is parametric where that is among them.
        objective: A name of `objective.OBJECTIVES`.
        delta: For the objectives that take one.
        fix: Published parameters held at values.
        drop: Columns or expressions whose true rows are left out.
        cluster: Column of what belongs together (trunk, seed) in every interval.
        hold_out: `largest-budget` or an expression; the laws are refitted without those runs.
        predict: Budgets in FLOPs whose optimum is asked.
        bootstrap: How many resamples of the runs.
        given: Inputs besides N and D at which the optimum is asked, by symbol.
        curves: Training curves for the envelope: `params`, `tokens`, `flops`, `loss`.
        n_starts: Starting points of every parametric fit; the law says unless given.
        seed: Of resampling and drawn starts.

    Returns:
        The headline; `others` holds the rest. A fit that is not identified or did not converge is
        returned with its status, not raised.

    Raises:
        InputError: The table lacks a column, or holds numbers that no loss can be.
        FitError: Fewer runs than parameters, a hold-out of none or all.
        UsageError: An unknown law, approach, objective or parameter.
    """
    for name in approaches:
        if name not in APPROACHES:
            raise UsageError(f"--approach {name}: unknown; {did_you_mean(name, APPROACHES)}")
    table = _of_one_kind(table, drop)
    _check_given(laws, given or {})
    options = Options(
        find_objective(objective, delta), dict(fix or {}), n_starts, bootstrap, hold_out,
        tuple(float(c) for c in predict), dict(given or {}), seed,
    )  # fmt: skip
    found = []
    if "parametric" in approaches:
        for name in laws:
            law, runs = prepare(name, table, drop=drop, cluster=cluster)
            own = replace(options, given={**law.given, **options.given})
            found.append(fit_parametric(law, name, runs, table, own))
        found = with_form_bands(found)
    if set(approaches) - {"parametric"}:
        runs = select(table, ("N", "D", "C"), drop=drop, cluster=cluster)
        headline = found[0] if found else None
        found += _frontiers(approaches, runs, headline, curves, options)
    asked = {
        "objective": objective,
        "delta": delta,
        "fix": dict(fix or {}),
        "drop": list(drop),
        "cluster": cluster,
        "given": dict(given or {}),
        "hold_out": hold_out,
    }
    found = [_stamped(one, table, asked, seed) for one in found]
    return replace(found[0], others=tuple(found[1:]))


def _frontiers(
    approaches: Sequence[str],
    runs: Runs,
    headline: FitResult | None,
    curves: Sequence[Mapping[str, Array]],
    options: Options,
) -> list[FitResult]:
    """Fit approaches 1 and 2, and measure on the headline's law what the design does to 2."""
    fitted = None
    if headline is not None and headline.exponents:
        law = law_of(headline)
        cost = headline.cost or SIX_N_D
        fitted = Fitted(law, headline.theta, cost, given=options.given or None)
    found = []
    for name in approaches:
        if name == "isoflop":
            for curve in (PARABOLA, AKIMA):
                one = fit_isoflop(runs, options.predict, curve=curve, seed=options.seed)
                found.append(one if fitted is None else with_bias(one, runs, fitted, options.seed))
        elif name == "envelope":
            found.append(fit_envelope(runs, curves, options.predict))
    return found


def _stamped(fit: FitResult, table: RunTable, asked: Mapping[str, Any], seed: int) -> FitResult:
    """Write into a fit what it was asked, of which data, and by which version."""
    diagnostics = {**fit.diagnostics, "asked": dict(asked)}
    stamps = {"data": _data(table), "version": __version__, "seed": seed}
    return replace(fit, diagnostics=diagnostics, **stamps)


def _of_one_kind(table: RunTable, drop: Sequence[str]) -> RunTable:
    """Refuse kept rows that mix counts or units, for no law holds across them; say how they count.

    A table that mixes them says nothing of the rows that are kept.
    """
    mixed = [name for name in KINDS.values() if table.meta.get(name) == MIXED]
    if not mixed:
        return table
    where = str(table.meta.get("path", "table"))
    kept = kept_rows(table.columns, drop, where)
    found = stated_kinds({name: table[name][kept] for name in mixed})
    for name in mixed:
        if found[name] == MIXED:
            kinds = sorted({str(cell) for cell in table[name][kept]} - {"", UNSTATED})
            raise InputError(
                f"{where}: {name} mixes {', '.join(kinds)}; fit runs of one kind, with --drop "
                f"\"{name}=='{kinds[-1]}'\""
            )
    return replace(table, meta={**table.meta, **{name: found[name] for name in mixed}})


def _check_given(laws: Sequence[str], given: Mapping[str, float]) -> None:
    """Refuse an input that no asked law takes, and a value that no run can have."""
    taken = {symbol for name in laws for symbol in find_law(name).inputs} - set("NDC")
    for symbol, value in given.items():
        if symbol not in taken:
            hint = did_you_mean(symbol, sorted(taken)) if taken else "leave it out"
            raise UsageError(f"--given {symbol}: no input of {', '.join(laws)}; {hint}")
        if not (value > 0 and np.isfinite(value)):
            raise UsageError(f"--given {symbol}={value:g}: not positive; write a count")


def _data(table: RunTable) -> dict[str, Any]:
    kinds = ("params_kind", "flops_kind", "loss_unit")
    kept = ("path", "sha256", *kinds, "mapping", "reading", "response", "assumed")
    found = {name: table.meta[name] for name in kept if name in table.meta}
    return {**found, "n_rows": len(table), "columns": list(table.columns)}


def write_fit(result: FitResult, path: Path | str) -> None:
    """Write `fit.json` whole, every number with full precision.

    Raises:
        SystemTroubleError: The disk refuses; an older file is untouched.
    """
    text = json.dumps(plain(result.to_json()), indent=1, allow_nan=False)
    write_whole(Path(path), text + "\n")


def read_fit(path: Path | str) -> FitResult:
    """Read `fit.json` back.

    Raises:
        InputError: No such file, or not a fit of this schema.
    """
    try:
        value = read_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}; name a fit.json") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON, {error}; name what scalekit fit -o wrote") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: schema {found!r}, not {SCHEMA!r}; name a file of scalekit fit")
    try:
        _check_whole(value)
        return FitResult.from_json(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a whole fit, {error}; fit the table again") from error


def _check_whole(value: Mapping[str, Any]) -> None:
    """Check a fit, and the others in it.

    Raises:
        ValueError: A part is of another kind, or has another length than the parameters.
    """
    check_shape(value, SHAPE)
    for name in ("covariance", "draws", "influence"):
        check_rows(name, value.get(name), len(value["theta"]), square=name == "covariance")
    for one in value["others"]:
        _check_whole(one)
