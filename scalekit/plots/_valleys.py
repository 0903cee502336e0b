"""The valleys of approach 2 as figures read them: each budget's parabola and its minimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalekit.analysis.study import Study


@dataclass(frozen=True)
class Valley:
    """One budget's parabola in the logarithm of parameters or tokens.

    Attributes:
        axis: params or tokens.
        budget: Planned FLOPs.
        best: Parameters or tokens at the minimum; where it is rejected, of the lowest run.
        low: Lower end of the minimum's interval, NaN where there is none.
        high: Upper end.
        loss: At the minimum, or of the lowest run.
        curve: The parabola's coefficients in ln(params) or ln(tokens), highest power first; empty
            where the minimum is rejected.
        rejected: Why the minimum is not used, or empty.
    """

    axis: str
    budget: float
    best: float
    low: float
    high: float
    loss: float
    curve: tuple[float, ...]
    rejected: str

    def losses(self, x: np.ndarray) -> np.ndarray:
        """Evaluate the parabola at parameters or tokens (n,)."""
        return np.polyval(self.curve, np.log(x))


def valleys(study: Study, axis: str) -> list[Valley]:
    """Read approach 2's valleys over `axis`, by rising budget; none without that approach."""
    fit = study.other("isoflop")
    if fit is None:
        return []
    entries = [e for e in fit.diagnostics.get("valleys", ()) if e["axis"] == axis]
    found = [_rejected(study, e) if e["rejected"] else _kept(e) for e in entries]
    return sorted((v for v in found if v is not None), key=lambda v: v.budget)


def _kept(entry: Mapping[str, Any]) -> Valley:
    low, high = entry.get("low"), entry.get("high")
    return Valley(
        entry["axis"],
        entry["budget"],
        entry["best"],
        float("nan") if low is None else low,
        float("nan") if high is None else high,
        entry["loss"],
        tuple(entry["curve"]),
        "",
    )


def _rejected(study: Study, entry: Mapping[str, Any]) -> Valley | None:
    here = np.flatnonzero((study.column("budget") == entry["budget"]) & study.is_used)
    if here.size == 0:
        return None
    lowest = here[np.argmin(study.column("loss")[here])]
    best = float(study.column(entry["axis"])[lowest])
    loss, nan = float(study.column("loss")[lowest]), float("nan")
    return Valley(entry["axis"], entry["budget"], best, nan, nan, loss, (), entry["rejected"])
