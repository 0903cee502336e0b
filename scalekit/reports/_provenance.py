"""Where the numbers come from: code, machines, torch, device time, energy, data and seeds."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from scalekit.analysis.study import Study
from scalekit.reports._spending import (
    UNKNOWN,
    compute,
    energy,
    lost_time,
    memory,
    mfu,
    speed,
    total,
)
from scalekit.results.code import CHANGED, UNCHECKED


def provenance(study: Study) -> list[tuple[str, str]]:
    """List label and value; what the records do not say is `unknown`, never left out."""
    attempts = _attempts(study)
    facts = [r.get("header", {}).get("facts") or {} for r in study.records]
    fit = study.fit
    data = dict(fit.data) if fit is not None else {}
    meta = study.table.meta if study.table is not None else {}
    assumed = data.get("assumed") or meta.get("assumed") or ()
    remarks = fit.remarks if fit is not None else ()
    return [
        ("code of the runs", counted(code_states(study), "run")),
        ("code of the fit", f"scalekit {fit.version}" if fit and fit.version else UNKNOWN),
        ("environment of the runs", _environment(attempts, facts)),
        ("environment of the fit", _own_environment()),
        ("hosts", counted(_field(attempts, "host"), "attempt")),
        ("devices", counted(_field(attempts, "device"), "attempt")),
        ("jobs", _distinct(_field(attempts, "job"))),
        ("attempts", _attempt_count(study, len(attempts))),
        (_time_label(study), _device_time(study)),
        ("of these not training", lost_time(study)),
        ("speed", speed(study)),
        ("MFU", mfu(study)),
        ("memory", memory(study)),
        ("energy", energy(study, _field(attempts, "energy_by"))),
        ("training compute", compute(study)),
        ("data", str(data.get("path") or meta.get("path") or UNKNOWN)),
        ("read as", "; ".join([*assumed, *remarks]) or "as it stands"),
        ("sha256 of the data", str(data.get("sha256") or meta.get("sha256") or UNKNOWN)),
        ("training data", _training_data(study)),
        ("seeds of the runs", _seeds(study)),
        ("seed of the fit", str(fit.seed) if fit is not None else UNKNOWN),
        ("attempts began", _period(_field(attempts, "time"))),
    ]


def doubts(study: Study) -> list[str]:
    """Say what in the runs' origin speaks against taking them as one experiment."""
    states = code_states(study)
    out = []
    if len(set(states)) > 1:
        out.append(f"the runs were made by {len(set(states))} states of the code")
    changed = sum(state.endswith(CHANGED) for state in states)
    if changed:
        out.append(
            f"{changed} of {len(states)} runs were made by code with changes that no commit holds"
        )
    unchecked = sum(state.endswith(UNCHECKED) for state in states)
    if unchecked:
        out.append(
            f"of {unchecked} of {len(states)} runs it is not known whether a commit holds their "
            "code: git gave no answer"
        )
    torches = sorted(set(_field(_attempts(study), "torch")))
    if len(torches) > 1:
        out.append(f"the runs were made with several versions of torch: {', '.join(torches)}")
    devices = sorted(set(_field(_attempts(study), "device")))
    if len(devices) > 1:
        out.append(f"the runs were made on several kinds of device: {', '.join(devices)}")
    mixed = sum(len(set(_field(r.get("attempts", ()), "computed_by"))) > 1 for r in study.records)
    if mixed:
        out.append(f"{mixed} of {len(study.records)} runs went on with another implementation")
    return out


def code_states(study: Study) -> list[str]:
    """Return the code of each run's last attempt, or the table's where there are no records."""
    told = [r["attempts"][-1].get("code") for r in study.records if r.get("attempts")]
    return [str(code) for code in (told or study.words("code")) if code]


def _attempts(study: Study) -> list[Mapping[str, Any]]:
    return [a for r in study.records for a in r.get("attempts", ())]


def counted(values: Iterable[Any], what: str, most: int = 6) -> str:
    """Name distinct values, the commonest first, each with how often it stands.

    >>> counted(["a", "b", "b"], "run"), counted(["a", "a"], "run")
    ('b (2 runs), a (1 run)', 'a')
    """
    found = Counter(str(v) for v in values if v)
    if not found:
        return UNKNOWN
    if len(found) == 1:
        return next(iter(found))
    shown = [
        f"{value} ({count} {what}{'s' if count > 1 else ''})"
        for value, count in found.most_common(most)
    ]
    return ", ".join(shown) + (f" and {len(found) - most} more" if len(found) > most else "")


def _environment(attempts: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]) -> str:
    """Name Python, torch and threads of the runs."""
    told = [
        (word, _distinct(values))
        for word, values in (
            ("Python", _field(facts, "python")),
            ("torch", _field(attempts, "torch")),
            ("threads", _field(attempts, "threads")),
        )
    ]
    known = [f"{word} {value}" for word, value in told if value != UNKNOWN]
    return ", ".join(known) or UNKNOWN


def _own_environment() -> str:
    """Name what fits and draws: this process."""
    words = [f"{name} {metadata.version(name)}" for name in ("numpy", "scipy", "matplotlib")]
    return ", ".join([f"Python {platform.python_version()}", *words])


def _attempt_count(study: Study, count: int) -> str:
    if not count:
        return UNKNOWN
    again = sum(len(r.get("attempts", ())) > 1 for r in study.records)
    return f"{count} of {len(study.records)} runs, {again} of them resumed or tried again"


def _time_label(study: Study) -> str:
    """Name the unit of device time: GPU-hours where the plan asked for GPUs."""
    gpus = [line.get("resources", {}).get("gpus") for line in study.plan]
    return "GPU-hours" if any(gpus) else "device-hours"


def _field(lines: Iterable[Any], name: str) -> list[str]:
    return [str(line[name]) for line in lines if line.get(name)]


def _distinct(values: Iterable[Any], most: int = 6) -> str:
    found = list(dict.fromkeys(str(v) for v in values if v))
    if not found:
        return UNKNOWN
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _device_time(study: Study) -> str:
    return total(study, "device_s", lambda seconds: f"{seconds / 3600:.3g}")


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
