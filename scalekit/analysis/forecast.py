"""A forecast written down before its run: target, law, interval, data, code, and a digest of it.

The digest is over the forecast's own content, so that a change by hand is seen. Who changes both
is not stopped by it: publish the digest (a commit, a paper, a message) where that matters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scalekit.analysis.ask import Ask
from scalekit.errors import InputError
from scalekit.fit.optimum import errors
from scalekit.fit.own_law import find_law
from scalekit.fit.prepare import prepare
from scalekit.fit.result import FitResult
from scalekit.fit.rows import run_names
from scalekit.fit.shape import (
    NUMBER,
    POSITIVE,
    TEXT,
    TRUTH,
    check_shape,
    check_theta,
    plain,
    read_json,
)
from scalekit.laws.base import COLUMN_OF, Law
from scalekit.results.table import RunTable

SCHEMA = "scalekit.forecast/1"

SAME_SIZE = 0.01
"""A run is the forecast one when its params and tokens are this near."""

SAME_PATH = 0.25
"""Of a forecast optimum only the budget must be met so nearly: around it the loss is flat, and the
frozen law says by how much it is not."""

Forecast = dict[str, Any]
"""What `forecast.json` holds."""

_MAYBE = (NUMBER, None)
_END = {"low": NUMBER, "high": NUMBER, "level": NUMBER}
_SHAPE = {
    "target": {
        **dict.fromkeys(("params?", "tokens?", "flops?"), POSITIVE),
        "held": {...: POSITIVE},
        "named": {...: TEXT},
        "match": {...: NUMBER},
        **dict.fromkeys(("params_kind", "flops_kind", "loss_unit"), TEXT),
    },
    "law": TEXT,
    "levels?": ([TEXT], None),
    "theta": {...: NUMBER},
    "loss": POSITIVE,
    "intervals": {"loss_prediction": _END},
    "sd": {"law": NUMBER, "run": NUMBER},
    "dof": _MAYBE,
    "extrapolation": _MAYBE,
    "baseline?": _MAYBE,
    "seen?": ([{"run": TEXT, "loss": NUMBER, "fitted": TRUTH}], None),
    "data": {},
    "code": TEXT,
    "time": TEXT,
}
"""What scoring a forecast relies on; who forged one may have left it out."""


def freeze(
    one: Ask,
    entry: Mapping[str, Any],
    *,
    is_optimum: bool,
    tolerance: float | None,
    table: RunTable | None,
    stamps: Mapping[str, Any],
) -> Forecast:
    """Make a forecast of one answer.

    Args:
        one: The fit that was asked.
        entry: The answer: the size, its loss and intervals.
        is_optimum: The optimum of a budget was asked, not a size.
        tolerance: How near a run's size must come; `SAME_SIZE` or `SAME_PATH` unless given.
        table: The fitted table, as it was fitted; None where that is no longer to be had.
        stamps: fit (path, sha256), code, time.

    Raises:
        InputError: The fit knows no intervals, without which a forecast cannot be wrong.
    """
    if not one.has_intervals:
        raise InputError(
            f"{one.fit.law}: the fit holds no covariance, and a forecast without an interval "
            "cannot be wrong; fit again"
        )
    target = _target(one, entry, is_optimum=is_optimum, tolerance=tolerance)
    inputs = inputs_of(one.law, target)
    error = float(errors(one.one, lambda theta: one.log_loss(theta, inputs))[0])
    known = None if table is None else _known(one.fit, table, target)
    body: Forecast = {
        "schema": SCHEMA,
        "target": target,
        "law": one.fit.law,
        "formula": one.law.formula,
        "levels": list(one.law.levels),
        "theta": dict(one.one.theta),
        "status": str(one.fit.status),
        "message": one.fit.message,
        "loss": entry["loss"],
        "intervals": {w: entry["intervals"][w] for w in ("loss", "loss_prediction")},
        "sd": {"law": error, "run": float(np.sqrt(one.one.noise))},
        "dof": one.one.dof,
        "extrapolation": entry["extrapolation"],
        "outside": entry["outside"],
        "form": entry.get("form"),
        "baseline": None if known is None else known["baseline"],
        "seen": None if known is None else known["seen"],
        "data": {k: one.fit.data.get(k) for k in ("path", "sha256")} | {"n_runs": one.fit.n_runs},
        **stamps,
    }
    body = plain(body)
    return {**body, "digest": digest(body)}


def _target(
    one: Ask, entry: Mapping[str, Any], *, is_optimum: bool, tolerance: float | None
) -> dict[str, Any]:
    given = {COLUMN_OF.get(s, s): value for s, value in (one.one.given or {}).items()}
    coded = {COLUMN_OF.get(s, s) for s in one.law.coded}
    held = {word: value for word, value in given.items() if word not in coded}
    # A recipe is known by its name: its code is this fit's own.
    named = {word: one.law.levels[int(given[word]) - 1] for word in coded if word in given}
    words = [w for w in ("params", "tokens", "flops") if entry.get(w) is not None]
    near = SAME_PATH if is_optimum else SAME_SIZE
    near = near if tolerance is None else tolerance
    if is_optimum:
        match = {"flops": SAME_SIZE, "params": near}
    else:
        match = {w: near for w in words if w != "flops"} or {"flops": near}
    return {
        "asked": "optimum" if is_optimum else "run",
        **{w: entry[w] for w in words},
        "held": held,
        "named": named,
        "match": {**match, **dict.fromkeys(held, near)},
        **{
            kind: one.fit.data.get(kind, "unstated")
            for kind in ("params_kind", "flops_kind", "loss_unit")
        },
    }


def law_of_forecast(forecast: Forecast) -> Law:
    """Return the law of a forecast, with the recipes that its fit knew."""
    return find_law(forecast["law"]).at_levels(forecast.get("levels") or ())


def inputs_of(law: Law, place: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a law's inputs, each (1,), from the words of a target or of a run."""
    known = {**place, **place.get("held", {})}
    for word, name in place.get("named", {}).items():
        known[word] = law.levels.index(name) + 1.0
    found = {s: known.get(COLUMN_OF.get(s, s)) for s in law.inputs}
    return {s: np.array([float(value)]) for s, value in found.items() if value is not None}


def _known(fit: FitResult, table: RunTable, target: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the data knew: its best fitted loss, and its own runs of the target's size."""
    asked = fit.diagnostics.get("asked", {})
    _, runs = prepare(fit.law, table, drop=asked.get("drop") or ())
    used = {int(row) for row in runs.rows}
    names = run_names(table)
    seen = [
        {"run": names[row], "loss": float(table["loss"][row]), "fitted": row in used}
        for row in matching(table, target)
        if np.isfinite(table["loss"][row])
    ]
    return {"baseline": float(runs.loss.min()), "seen": seen}


def matching(table: RunTable, target: Mapping[str, Any]) -> list[int]:
    """List the rows of a table that are of a target's size, the nearest first."""
    off = offsets(table, target)
    if any(word not in off and word not in target["held"] for word in target["match"]):
        return []
    near = np.all([np.abs(v) <= target["match"][w] for w, v in off.items()], axis=0)
    for word, name in target.get("named", {}).items():
        if word in table:
            near &= np.array([str(cell).strip() == name for cell in table[word]])
    return [int(row) for row in np.argsort(distances(off), kind="stable") if near[row]]


def distances(off: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how far rows (n,) are from a target altogether, in log; far where unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.abs(np.log1p(values)) for values in off.values()]
    return np.nan_to_num(np.sum(parts, axis=0), nan=1e9, posinf=1e9)


def offsets(table: RunTable, target: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return how far each row (n,) is from a target by every word that must match, relatively.

    What the table does not hold of what the law was given (unique tokens) is left out.
    """
    place = {**target, **target["held"]}
    found = {}
    for word in target["match"]:
        if word in table and table[word].dtype != object:
            found[word] = table[word] / place[word] - 1.0
    return found


def digest(body: Mapping[str, Any]) -> str:
    """Return the sha256 of a forecast's content, without its digest."""
    content = {k: v for k, v in body.items() if k != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def forecast_text(body: Forecast) -> str:
    """Return what the file holds."""
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def read_forecast(path: Path) -> Forecast:
    """Read a forecast and check that it is what was written.

    Raises:
        InputError: Not a forecast, or its content and its digest disagree.
    """
    try:
        value = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}; name a forecast") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON, {error}; name what scalekit forecast wrote") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise InputError(
            f"{path}: schema {found!r}, not {SCHEMA!r}; name what scalekit forecast wrote"
        )
    try:
        own = digest(value)
    except ValueError as error:
        raise InputError(f"{path}: not a forecast, {error}; take the file as written") from error
    if value.get("digest") != own:
        raise InputError(
            f"{path}: was changed after it was written, its content has digest {own[:12]} and it "
            f"states {str(value.get('digest'))[:12]}; take the file as it was written"
        )
    try:
        _check_whole(value)
    except ValueError as error:
        raise InputError(
            f"{path}: not a whole forecast, {error}; name what scalekit forecast wrote"
        ) from error
    return value


def _check_whole(value: Forecast) -> None:
    """Check that a forecast holds what scoring it takes.

    Raises:
        ValueError: It does not; no program wrote it.
    """
    check_shape(value, _SHAPE)
    law, target = law_of_forecast(value), value["target"]
    check_theta(law, value["theta"])
    for word in target["match"]:
        check_shape({**target, **target["held"]}, {word: POSITIVE}, "target")
    for word, name in target["named"].items():
        if name not in law.levels:
            raise ValueError(f"target.named.{word} is {name!r}, which is not among levels")
    given = inputs_of(law, target)
    if open_ones := [symbol for symbol in law.inputs if symbol not in given]:
        raise ValueError(f"target holds no {COLUMN_OF.get(open_ones[0], open_ones[0])}")
    datetime.fromisoformat(value["time"])
