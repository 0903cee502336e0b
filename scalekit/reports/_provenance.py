"""Where the numbers come from: code, machines, torch, device time, energy, data and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.reports import _numbers

UNKNOWN = "unknown"


def provenance(study: Study) -> list[tuple[str, str]]:
    """List label and value; what the records do not say is `unknown`, never left out."""
    attempts = [a for r in study.records for a in r.get("attempts", ())]
    fit = study.fit
    data = dict(fit.data) if fit is not None else {}
    meta = study.table.meta if study.table is not None else {}
    return [
        ("code of the runs", _distinct([*_field(attempts, "code"), *study.words("code")])),
        ("code of the fit", f"scalekit {fit.version}" if fit and fit.version else UNKNOWN),
        ("hosts", _distinct(_field(attempts, "host"))),
        ("devices", _distinct(_field(attempts, "device"))),
        ("torch", _distinct(_field(attempts, "torch"))),
        ("attempts", str(len(attempts)) if attempts else UNKNOWN),
        ("device time", _device_time(study)),
        ("energy", _energy(study)),
        ("training compute", _compute(study)),
        ("data", str(data.get("path") or meta.get("path") or UNKNOWN)),
        ("sha256 of the data", str(data.get("sha256") or meta.get("sha256") or UNKNOWN)),
        ("training data", _training_data(study)),
        ("seeds of the runs", _seeds(study)),
        ("seed of the fit", str(fit.seed) if fit is not None else UNKNOWN),
        ("period", _period(_field(attempts, "time"))),
    ]


def _field(lines: Iterable[Any], name: str) -> list[str]:
    return [str(line[name]) for line in lines if line.get(name)]


def _distinct(values: Iterable[Any], most: int = 6) -> str:
    found = list(dict.fromkeys(str(v) for v in values if v))
    if not found:
        return UNKNOWN
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _device_time(study: Study) -> str:
    return _total(study, "device_s", lambda seconds: f"{seconds / 3600:.3g} device-hours")


def _energy(study: Study) -> str:
    return _total(study, "energy_j", lambda joules: f"{joules / 3.6e6:.3g} kWh")


def _compute(study: Study) -> str:
    if study.table is None:
        return UNKNOWN
    known = study.flops[np.isfinite(study.flops) & np.isfinite(study.column("loss"))]
    return f"{_numbers.flops(float(known.sum()))} FLOPs" if known.size else UNKNOWN


def _total(study: Study, column: str, text: Any) -> str:
    """Add up a column of the finished runs; where some do not say, say how many."""
    values = study.column(column)
    ended = study.roles != "unfinished"
    values = values[ended] if values.size else values
    known = np.isfinite(values)
    if not known.any():
        return UNKNOWN
    told = text(float(values[known].sum()))
    missing = int((~known).sum())
    return f"{told}, {missing} of {known.size} runs {UNKNOWN}" if missing else told


def _training_data(study: Study) -> str:
    """Name the sources that the runs' own records state."""
    told = []
    for record in study.records:
        config = record.get("header", {}).get("config", {}).get("data", {})
        words = [config.get("source"), config.get("tokenizer"), config.get("fingerprint")]
        told.append(", ".join(str(w) for w in words if w))
    return _distinct(told)


def _seeds(study: Study) -> str:
    seeds = study.column("seed")
    known = np.unique(seeds[np.isfinite(seeds)])
    return _distinct(f"{s:g}" for s in known)


def _period(times: list[str]) -> str:
    return f"{min(times)} to {max(times)}" if times else UNKNOWN
