"""The checklist of Li et al. 2025 (arXiv:2502.18969), filled in from what was recorded.

Its four parts are the form of the law, the training, the collection of data and the fit. What no
record tells stays blank and is marked, for the author of the study to fill in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.analysis import noise, tuning
from scalekit.analysis.study import Study
from scalekit.analysis.words import flops_words, loss_words, params_words
from scalekit.quantities import count_words
from scalekit.reports import _numbers, _wording
from scalekit.reports.base import Answer

_TUNED = ("train.lr", "train.batch_tokens")


def checklist(study: Study) -> dict[str, list[Answer]]:
    """Answer the checklist by part; an empty answer is a blank."""
    return {
        "Form of the law": _form(study),
        "Training": _training(study),
        "Collection of data": _collection(study),
        "Fit": _fit(study),
    }


def _form(study: Study) -> list[Answer]:
    fit = study.fit
    assert fit is not None
    law = fit.law in registry.names("laws") and registry.find("laws", fit.law)
    kind = study.params_kind
    flops = study.flops_kind
    unit = study.loss_unit
    return [
        Answer("What form was fitted?", f"{law.formula} ({law.source})" if law else fit.law),
        Answer("How many free parameters?", str(len(fit.theta))),
        Answer("Which count of parameters is N?", params_words(kind) if _is_stated(kind) else ""),
        Answer("What is D?", "training tokens, repeated ones included"),
        Answer("How is compute counted?", flops_words(flops) if _is_stated(flops) else ""),
        Answer("What is the loss, in which unit?", loss_words(unit) if _is_stated(unit) else ""),
        Answer("Are the runs able to tell the parameters apart?", _identified(study)),
    ]


def _is_stated(kind: str) -> bool:
    return kind not in ("", "unstated", "mixed")


def _identified(study: Study) -> str:
    assert study.fit is not None
    found = study.fit.diagnostics
    ratio, condition = found.get("tokens_per_param"), found.get("condition")
    parts = []
    if isinstance(ratio, Mapping) and ratio.get("low") is not None:
        low, high = (_numbers.count(ratio[end]) for end in ("low", "high"))
        parts.append(f"tokens per parameter from {low} to {high}")
    if isinstance(condition, int | float):
        parts.append(f"condition {condition:.3g}")
    return ", ".join(parts)


def _training(study: Study) -> list[Answer]:
    used = study.is_used
    n_sizes = np.unique(study.column("params")[used]).size
    n_models = np.unique(study.runs[used].astype(str)).size
    return [
        Answer(
            "How many models, of how many sizes?",
            f"{count_words(n_models, 'run')}, {count_words(n_sizes, 'size')}",
        ),
        Answer("Range of N", _range(study.column("params")[used], _numbers.count)),
        Answer("Range of D", _range(study.column("tokens")[used], _numbers.count)),
        Answer("Range of compute", _range(study.flops[used], _numbers.flops)),
        Answer("Architecture", _config(study, "model.arch")),
        Answer("Training data and tokenizer", _config(study, "data.source", "data.tokenizer")),
        Answer("Unique tokens", _unique(study)),
        Answer("Optimiser", _config(study, "train.optimizer")),
        Answer("Learning-rate schedule", _config(study, "train.schedule", "train.warmup_frac")),
        Answer("Learning rates", _range(study.column("lr")[used], lambda v: f"{v:.3g}")),
        Answer("Batch sizes (tokens)", _range(study.column("batch_tokens")[used], _numbers.count)),
        Answer("How were learning rate and batch chosen?", _chosen(study)),
        Answer("How many seeds?", _seeds(study)),
        Answer("Spread of the loss between seeds", _spread(study)),
    ]


def _range(values: np.ndarray, text: Any) -> str:
    known = values[np.isfinite(values)]
    if known.size == 0:
        return ""
    low, high = text(float(known.min())), text(float(known.max()))
    return low if low == high else f"{low} to {high}"


def _config(study: Study, *keys: str) -> str:
    """Name the distinct values of dotted keys over the runs' own records."""
    told: dict[str, None] = {}
    for record in study.records:
        values = []
        for key in keys:
            value: Any = record.get("header", {}).get("config", {})
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                word = key.rsplit(".", 1)[-1].replace("_", " ")
                values.append(f"{word} {value}" if len(keys) > 1 else str(value))
        if values:
            told[", ".join(values)] = None
    shown = list(told)
    return "; ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _unique(study: Study) -> str:
    unique = study.column("unique_tokens")[study.is_used]
    if not np.isfinite(unique).any():
        return ""
    epochs = study.column("tokens")[study.is_used] / unique
    most = float(np.nanmax(epochs))
    passes = "one pass" if round(most, 2) == 1 else f"{_numbers.count(most)} passes"
    return f"{_range(unique, _numbers.count)}; at most {passes} over them"


def _chosen(study: Study) -> str:
    """Say by which rules the sweep set them, and whether rates were swept at each size."""
    rules = (f"{k} = {study.rules[k]}" for k in _TUNED if k in study.rules)
    return "; ".join([*rules, *_swept(study)])


def _swept(study: Study) -> list[str]:
    found = tuning.cells(study)
    if not found:
        return []
    rates = [max(line.lr.size for line in cell.lines) for cell in found]
    batches = max(len(cell.lines) for cell in found)
    places = "one size and length" if len(found) == 1 else f"{len(found)} sizes and lengths"
    text = f"swept at {places}: up to {max(rates)} rates"
    return [text + (f" and {batches} batches" if batches > 1 else "")]


def _seeds(study: Study) -> str:
    seeds = study.column("seed")[study.is_used]
    known = seeds[np.isfinite(seeds)]
    return str(np.unique(known).size) if known.size else ""


def _spread(study: Study) -> str:
    """Say what seeds alone do to the loss, where settings were repeated."""
    found = noise.repeats(study) if study.table is not None else []
    if not found:
        return ""
    settings = count_words(len(found), "setting")
    if not any(one.spread for one in found):
        return f"none: {settings} have equal losses under different seeds, to the last digit"
    return f"{noise.pooled_words(found)}, over {settings} run more than once"


def _collection(study: Study) -> list[Answer]:
    fit = study.fit
    assert fit is not None
    from_records = bool(study.records)
    lost = f"{len(fit.dropped)} in all, each with its reason below" if fit.dropped else "none"
    return [
        Answer("How many points were fitted?", str(fit.n_runs)),
        Answer(
            "Which checkpoints?",
            _checkpoints(study) if from_records else "",
        ),
        Answer(
            "Training or held-out loss?",
            "held-out loss on a fixed validation set" if from_records else "",
        ),
        Answer("Was the loss smoothed?", "no" if from_records else ""),
        Answer("Error of a single loss", _sem(study)),
        Answer("Which rows were left out?", lost),
        Answer("Is the data published?", ""),
    ]


def _checkpoints(study: Study) -> str:
    flags = study.words("flags")[study.is_used]
    early = sum("not_at_end" in str(words).split() for words in flags)
    if not early:
        return "the last evaluation of each run, at the end of its schedule"
    return f"the last evaluation of each run, of {early} before the end of the schedule"


def _sem(study: Study) -> str:
    sem = study.column("loss_sem")[study.is_used]
    known = sem[np.isfinite(sem)]
    return f"standard error {_range(known, lambda v: f'{v:.2g}')}" if known.size else ""


def _fit(study: Study) -> list[Answer]:
    fit = study.fit
    assert fit is not None
    objective = fit.objective
    delta = objective.get("delta")
    name = str(objective.get("name") or "")
    intervals = sorted({f"{i.method}, {100 * i.level:.0f} %" for i in fit.intervals.values()})
    found = fit.diagnostics
    agreeing = found.get("starts_agreeing")
    bounds = found.get("bounds_hit")
    held = fit.holdout
    rule = _wording.plain_powers(held.get("rule", ""))
    checked = f"{rule}: mean absolute error {_numbers.percent(held.get('mape'))}"
    starts = f"{fit.starts}" + (f", of which {agreeing} agree" if agreeing is not None else "")
    known = delta is not None and np.isfinite(delta)
    return [
        Answer("Which objective?", f"{name}, delta {delta:.3g}" if known else name),
        Answer("Value at the optimum", f"{objective['value']:.6g}" if "value" in objective else ""),
        Answer("Which optimiser and starts?", f"starts: {starts}" if fit.starts else ""),
        Answer("How did it end?", f"{fit.status}: {fit.message}"),
        Answer("Parameters on a bound", _names(bounds)),
        Answer("How are intervals made?", "; ".join(intervals)),
        Answer("What is resampled?", _resampled(study)),
        Answer("Was the law checked on held-out runs?", checked if held.get("n_runs") else ""),
        Answer("Were other forms or approaches compared?", _others(study)),
        Answer("Which code fitted it?", f"scalekit {fit.version}" if fit.version else ""),
    ]


def _resampled(study: Study) -> str:
    """Say whether rows or groups of them were drawn; which column grouped them, a remark says."""
    fit = study.fit
    if fit is None or not fit.draws:
        return ""
    groups = len(fit.influence or ())
    if not 0 < groups < fit.n_runs:
        return "runs"
    return f"{fit.n_runs} rows in {groups} groups, whole groups at a time"


def _names(bounds: Any) -> str:
    if bounds is None:
        return ""
    return ", ".join(str(b) for b in bounds) if bounds else "none"


def _others(study: Study) -> str:
    assert study.fit is not None
    words = [
        f.law if f.approach == "parametric" else _wording.APPROACHES.get(f.law, f.law)
        for f in study.fit.others
    ]
    return ", ".join(words)
