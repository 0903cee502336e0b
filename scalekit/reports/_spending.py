"""What the runs of a study cost: time lost, speed, memory, energy, and FLOPs by every count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scalekit.analysis.study import Study
from scalekit.reports import _numbers
from scalekit.results.record import STATUSES
from scalekit.results.spending import LOST, SHARES, count_devices, describe_lost

UNKNOWN = "unknown"


def lost_time(study: Study) -> str:
    """Say what share of the device time went into something other than training.

    Only runs count that say both.
    """
    share = {}
    for name in LOST:
        lost, device = _ended(study, name), _ended(study, "device_s")
        known = np.isfinite(lost) & np.isfinite(device)
        if known.any() and device[known].sum() > 0:
            shares = (_ended(study, key) for key in SHARES)
            n = np.array([count_devices(*row) for row in zip(*shares, strict=True)])
            share[name] = float((n * lost)[known].sum() / device[known].sum())
    return describe_lost(share) or UNKNOWN


def speed(study: Study) -> str:
    """Say how many tokens a run learnt from in a second: the median, and from where to where."""
    return _spread(_ended(study, "tokens_per_second"), "tokens/s", _numbers.count)


def mfu(study: Study) -> str:
    """Say the share of the devices' peak, by the FLOPs that the records' end lines name."""
    kinds = {
        str(r["end"]["flops_kind"])
        for r in study.records
        if (r.get("end") or {}).get("flops_kind") and r["end"].get("mfu") is not None
    }
    by = f"by {' or '.join(sorted(kinds))} FLOPs" if kinds else ""
    told = _spread(100 * _ended(study, "mfu"), "%", lambda share: f"{share:.3g}")
    return told if told == UNKNOWN or not by else f"{told}, {by}"


def memory(study: Study) -> str:
    """Say what the run took that took most."""
    known = _ended(study, "peak_memory_bytes")
    known = known[np.isfinite(known)]
    return f"at most {known.max() / 1e9:.3g} GB" if known.size else UNKNOWN


def energy(study: Study, counters: Sequence[str]) -> str:
    """Say the energy that counters measured, by whose, and its CO2e where the site is known."""
    told = total(study, "energy_j", study.site.describe)
    by = " and ".join(sorted(set(counters)))
    return told if told == UNKNOWN or not by else f"{told}, by the counter of {by}"


def compute(study: Study) -> str:
    """Say the training FLOPs by the table's own count, then by the others that it has.

    What branches share with their trunk is counted once.
    """
    if study.table is None:
        return UNKNOWN
    finished = np.isfinite(study.column("loss"))
    finished &= _is_last(study)
    own = _own_share(study)
    known = (own * study.flops)[np.isfinite(study.flops) & finished]
    if not known.size:
        return UNKNOWN
    told = f"{_numbers.flops(float(known.sum()))} FLOPs"
    names = [name for name in study.table.columns if name.startswith("flops_")]
    others = {n.removeprefix("flops_"): (own * study.column(n))[finished] for n in names}
    others = {
        kind: column.sum()
        for kind, column in others.items()
        if kind not in ("kind", study.flops_kind) and column.size and np.isfinite(column).all()
    }
    counts = ", ".join(f"{_numbers.flops(float(v))} {kind}" for kind, v in others.items())
    return f"{told} ({study.flops_kind}); {counts}" if counts else told


def _is_last(study: Study) -> np.ndarray:
    """Rows (n,) that have the most FLOPs of their run: points on its way are a part of them."""
    # The last of equal keys stays, and rising FLOPs make that the largest.
    order = np.argsort(np.nan_to_num(study.flops, nan=-1.0), kind="stable")
    last = {study.runs[k]: k for k in order}
    return np.isin(np.arange(study.runs.size), list(last.values()))


def _own_share(study: Study) -> np.ndarray:
    """Return the share (n,) of its steps that a run took itself: a branch's others are its trunk's.

    Of a branch whose trunk is in the table; one that stands alone is told with what it rests on.
    """
    share = 1.0 - study.column("branch_step") / study.column("step")
    has_trunk = np.isin(study.words("trunk"), study.runs.astype(str))
    return np.where(has_trunk & np.isfinite(share), share, 1.0)


def total(study: Study, column: str, text: Callable[[float], str]) -> str:
    """Add up a column of the finished runs; where some do not say, say how many."""
    values = _ended(study, column)
    known = np.isfinite(values)
    if not known.any():
        return UNKNOWN
    told = text(float(values[known].sum()))
    missing = int((~known).sum())
    return f"{told}, {missing} of {known.size} runs {UNKNOWN}" if missing else told


def _ended(study: Study, column: str) -> np.ndarray:
    """Return a column of the runs that have ended (m,): failed ones cost as much as others."""
    values, status = study.column(column), study.words("status")
    ended = np.isin(status, STATUSES) if any(status) else study.roles != "unfinished"
    return values[ended] if values.size else values


def _spread(values: np.ndarray, unit: str, text: Callable[[float], str]) -> str:
    """Say the median and the range of values (m,), and of how many runs there is none."""
    known = values[np.isfinite(values)]
    if not known.size:
        return UNKNOWN
    low, middle, high = (text(float(f(known))) for f in (np.min, np.median, np.max))
    told = f"{middle} {unit}" if low == high else f"{middle} {unit}, {low} to {high}"
    missing = values.size - known.size
    return f"{told}, {missing} of {values.size} runs {UNKNOWN}" if missing else told
