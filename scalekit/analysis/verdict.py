"""Score forecasts against the runs that came: inside the interval or not, and against no law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.analysis.forecast import (
    Forecast,
    distances,
    inputs_of,
    law_of_forecast,
    matching,
    offsets,
)
from scalekit.errors import InputError, NotFinishedError, RunsFailedError
from scalekit.fit.intervals import LEVEL
from scalekit.fit.rows import run_names
from scalekit.quantities import write_count
from scalekit.results.table import UNSTATED, RunTable

_SAME_LAW = 1e-9
_LOST = ("diverged", "pruned", "failed")

Verdict = dict[str, Any]
"""One scored forecast: numbers by word."""


class OtherCountError(InputError):
    """The runs count params or FLOPs, or state their loss, otherwise than the forecast."""


@dataclass(frozen=True)
class Outcome:
    """The run that came.

    Attributes:
        name: The run, as its table names it; empty where only a loss was given.
        place: Its params, tokens, flops and held inputs by word; the target's where unknown.
        known: Whether the forecast's data already held it; None where that cannot be told.
        fitted: Whether it was among the fitted runs; None where that cannot be told.
        notes: What had to be assumed, in sentences.
    """

    name: str
    loss: float
    place: Mapping[str, Any]
    known: bool | None
    fitted: bool | None = None
    notes: tuple[str, ...] = ()


def find_outcome(forecast: Forecast, table: RunTable, run: str | None = None) -> Outcome:
    """Find the run of a forecast in a table.

    Raises:
        InputError: No run of that size (the message says what differs), or several.
        OtherCountError: Its numbers are counted otherwise than the forecast's.
        NotFinishedError: The run is there and has not ended.
        RunsFailedError: It ended without a loss.
    """
    where = str(table.meta.get("path", "table"))
    notes = _check_kinds(forecast, table, where)
    target = forecast["target"]
    names = run_names(table)
    rows = matching(table, target)
    if run is not None:
        if run not in names:
            raise InputError(f"{where}: no run {run!r}; name one of its runs")
        rows = [row for row in rows if names[row] == run]
        if not rows:
            raise InputError(_difference(forecast, table, where, names.index(run)))
    if not rows:
        raise InputError(_difference(forecast, table, where, None))
    if len(rows) > 1:
        shown = ", ".join(names[row] for row in rows[:6])
        raise InputError(
            f"{where}: {len(rows)} runs have the forecast size: {shown}; name one with --run"
        )
    row = rows[0]
    loss = _loss(table, row, names[row], where)
    known, fitted = _was_known(forecast, table, names[row], loss)
    lacking = [word for word in (*target["held"], *target["named"]) if word not in table]
    notes += [f"{where}: does not state {word}; taken to be as forecast" for word in lacking]
    return Outcome(names[row], loss, _place(table, row, target), known, fitted, tuple(notes))


def given_outcome(forecast: Forecast, loss: float) -> Outcome:
    """Take a loss by itself as the outcome, at the target's own size."""
    same = [s for s in forecast.get("seen") or () if _is_same(s["loss"], loss)]
    known = True if same else None if forecast.get("seen") is None else False
    return Outcome("", loss, forecast["target"], known, any(s["fitted"] for s in same))


def _check_kinds(forecast: Forecast, table: RunTable, where: str) -> list[str]:
    """Refuse numbers counted otherwise; note what one side does not state."""
    target, notes = forecast["target"], []
    words = {"params_kind": "params are counted as", "loss_unit": "the loss is in"}
    if "flops" in target["match"]:
        words["flops_kind"] = "FLOPs are counted as"
    for kind, says in words.items():
        here, there = str(table.meta.get(kind, UNSTATED)), target[kind]
        silent = (UNSTATED, f"6N_{UNSTATED}")
        if here != there and (here in silent or there in silent):
            side = "does not state" if here in silent else "states, unlike the forecast,"
            notes.append(f"{where}: {side} how its {kind.split('_')[0]} is counted")
        elif here != there:
            raise OtherCountError(
                f"{where}: {says} {here}, the forecast is of {there}; score it against runs that "
                "are counted alike"
            )
    return notes


def _difference(forecast: Forecast, table: RunTable, where: str, row: int | None) -> str:
    """Say how the nearest run, or a named one, differs from the target."""
    target = forecast["target"]
    place = {**target, **target["held"]}
    asked = " and ".join(f"{_written(w, place[w])} {w}" for w in target["match"])
    asked += "".join(f" with {word} {name!r}" for word, name in target["named"].items())
    off = offsets(table, target)
    lacking = [w for w in target["match"] if w not in off and w not in target["held"]]
    if lacking:
        return (
            f"{where}: no numbers in column {lacking[0]!r}; map it with --map {lacking[0]}=COLUMN"
        )
    if row is None:
        row = int(np.argmin(distances(off)))
    name = run_names(table)[row]
    parts = [f"{w} {_written(w, table[w][row])} ({v[row]:+.1%})" for w, v in off.items()]
    parts += [f"{w} {table[w][row]!r}" for w in target["named"] if w in table]
    found = ", ".join(parts)
    return (
        f"{where}: no run of {asked}, the nearest is {name} with {found}; score another forecast, "
        "or make it with a larger --tolerance"
    )


def _written(word: str, value: float) -> str:
    return f"{value:.3g}" if word == "flops" else write_count(float(value))


def _loss(table: RunTable, row: int, name: str, where: str) -> float:
    status = str(table["status"][row]) if "status" in table else ""
    if status in _LOST:
        raise RunsFailedError(f"{where}: run {name} ended as {status}; it has no loss to score")
    loss = float(table["loss"][row])
    if status not in ("", "done") or not math.isfinite(loss):
        raise NotFinishedError(
            f"{where}: run {name} is {status or 'without a loss'}; verify again when it has ended"
        )
    return loss


def _was_known(
    forecast: Forecast, table: RunTable, name: str, loss: float
) -> tuple[bool | None, bool | None]:
    """Say whether the forecast's own data held this run and whether it was fitted, if known."""
    seen = forecast.get("seen")
    digest = forecast["data"].get("sha256")
    same_data = digest is not None and digest == table.meta.get("sha256")
    if seen is None:
        return (True if same_data else None), None
    same = [s for s in seen if s["run"] == name or _is_same(s["loss"], loss)]
    return bool(same) or same_data, any(s["fitted"] for s in same)


def _is_same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12)


def _place(table: RunTable, row: int, target: Mapping[str, Any]) -> dict[str, Any]:
    words = [w for w in ("params", "tokens", "flops") if w in target and w in table]
    held = {
        w: float(table[w][row]) if w in table and np.isfinite(table[w][row]) else v
        for w, v in target["held"].items()
    }
    found = {w: float(table[w][row]) for w in words}
    return {**target, **found, "held": held}


def score(forecast: Forecast, outcome: Outcome) -> Verdict:
    """Score a forecast.

    The run need not be of the target's size to the last token: what was forecast is moved to the
    run's own size by the frozen law (`moved` is the factor), with its relative interval.

    Returns:
        loss, forecast, low, high (of a single run), z (log miss over the standard deviation of
        law and run), inside, relative_error (observed less forecast, over observed: a positive
        one is a loss worse than promised), baseline and baseline_error (the best loss among the
        fitted runs instead of a law), known, fitted, moved.

    Raises:
        InputError: The law of that name no longer gives the loss that was forecast.
    """
    law = law_of_forecast(forecast)

    def log_loss(place: Mapping[str, Any]) -> float:
        inputs = inputs_of(law, place)
        return float(np.log(law.predict(forecast["theta"], inputs))[0])

    target = forecast["target"]
    at_target = log_loss(target)
    if abs(at_target - math.log(forecast["loss"])) > _SAME_LAW:
        raise InputError(
            f"{forecast['law']}: gives {math.exp(at_target):.6g} where {forecast['loss']:.6g} was "
            f"forecast; score it with the code that made it, {forecast['code']}"
        )
    moved = math.exp(log_loss(outcome.place) - at_target)
    ends = forecast["intervals"]["loss_prediction"]
    expected = forecast["loss"] * moved
    sd = math.hypot(forecast["sd"]["law"], forecast["sd"]["run"])
    baseline = forecast.get("baseline")
    return {
        "run": outcome.name,
        "loss": outcome.loss,
        "forecast": expected,
        "low": ends["low"] * moved,
        "high": ends["high"] * moved,
        "level": ends["level"],
        "z": math.log(outcome.loss / expected) / sd if sd else math.nan,
        "inside": ends["low"] * moved <= outcome.loss <= ends["high"] * moved,
        "relative_error": (outcome.loss - expected) / outcome.loss,
        "baseline": baseline,
        "baseline_error": None if baseline is None else (outcome.loss - baseline) / outcome.loss,
        "moved": moved,
        "known": outcome.known,
        "fitted": outcome.fitted,
        **{w: outcome.place[w] for w in ("params", "tokens", "flops") if w in outcome.place},
        "extrapolation": forecast["extrapolation"],
        "law": forecast["law"],
        "time": forecast["time"],
        "digest": forecast["digest"],
    }


def tally(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Sum up a log of forecasts: how many came inside, and how far off they and no law were.

    Runs that the data already held are left out: they are no forecasts. `chance` is how often as
    few or fewer of honest and independent intervals would be hit.
    """
    counted = [v for v in verdicts if not v["known"]]
    n, inside = len(counted), sum(v["inside"] for v in counted)
    level = float(np.mean([v["level"] for v in counted])) if n else LEVEL
    found: dict[str, Any] = {"n": n, "n_known": len(verdicts) - n, "inside": inside, "level": level}
    if not n:
        return found
    errors = np.array([v["relative_error"] for v in counted])
    found["mape"] = float(np.mean(np.abs(errors)))
    found["bias"] = float(np.mean(errors))
    base = [abs(v["baseline_error"]) for v in counted if v["baseline_error"] is not None]
    found["baseline_mape"] = float(np.mean(base)) if base else None
    found["chance"] = sum(
        math.comb(n, k) * level**k * (1 - level) ** (n - k) for k in range(inside + 1)
    )
    return found
