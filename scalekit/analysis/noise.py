"""The noise of training: how far runs lie apart that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalekit.analysis.digits import told
from scalekit.analysis.study import Study
from scalekit.fit.intervals import LEVEL

_SETTING = ("budget", "params", "tokens", "unique_tokens", "lr", "batch_tokens", "group")


@dataclass(frozen=True)
class Repeats:
    """Runs of one setting with different seeds.

    Attributes:
        runs: Their names.
        params: Parameters.
        tokens: Tokens.
        flops: Training FLOPs, the mean.
        loss: Mean loss.
        spread: Standard deviation of the loss.
        low: Lower end of the spread's interval.
        high: Upper end.
    """

    runs: tuple[str, ...]
    params: float
    tokens: float
    flops: float
    loss: float
    spread: float
    low: float
    high: float


def repeats(study: Study) -> list[Repeats]:
    """Find the settings in use that were run with two seeds or more, by rising compute.

    A setting is all that the table tells of a run but its seed and what came of it: sizes, rates,
    and every swept key.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    settings, seeds = _settings(study), study.column("seed")
    for k in np.flatnonzero(study.is_used & np.isfinite(seeds)).tolist():
        groups.setdefault(settings[k], []).append(k)
    found = [_repeats(study, rows) for rows in groups.values() if np.unique(seeds[rows]).size > 1]
    return sorted(found, key=lambda one: one.flops)


def _settings(study: Study) -> list[tuple[object, ...]]:
    assert study.table is not None
    swept = [name for name in study.table.columns if "." in name and not name.endswith(".seed")]
    words = [study.words(name) for name in (*_SETTING, *swept)]
    return [tuple(column[k] for column in words) for k in range(len(study.table))]


def _repeats(study: Study, rows: list[int]) -> Repeats:
    loss = study.column("loss")[rows]
    # Of equal losses the mean, and so the spread, may be off by rounding.
    spread = float(loss.std(ddof=1)) if np.ptp(loss) > 0 else 0.0
    low, high = spread_interval(spread, len(rows) - 1)
    return Repeats(
        tuple(str(run) for run in study.runs[rows]),
        float(study.column("params")[rows[0]]),
        float(study.column("tokens")[rows[0]]),
        float(study.flops[rows].mean()),
        float(loss.mean()),
        spread,
        low,
        high,
    )


def spread_interval(spread: float, dof: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a standard deviation of normal losses, by chi-squared."""
    from scipy.stats import chi2

    tail = (1.0 - level) / 2.0
    low, high = (float(spread * np.sqrt(dof / chi2.ppf(q, dof))) for q in (1.0 - tail, tail))
    return low, high


def pooled(found: Sequence[Repeats]) -> tuple[float, int]:
    """Return the relative spread of all settings together, and its degrees of freedom."""
    dof = np.array([len(one.runs) - 1 for one in found])
    relative = np.array([one.spread / one.loss for one in found])
    return float(np.sqrt(np.sum(dof * relative**2) / dof.sum())), int(dof.sum())


def pooled_words(found: Sequence[Repeats]) -> str:
    """Say the relative spread of all settings together with its interval, in per cent."""
    share, dof = pooled(found)
    low, high = (100.0 * end for end in spread_interval(share, dof))
    value, ends = told(100.0 * share, {"low": low, "high": high})
    return f"{value} % of the loss [{ends.replace(' to ', ', ')}]"
