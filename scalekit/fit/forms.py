"""What the choice of the law's form is worth: a band of its own, beside that of the parameters.

No interval of one law knows that the law may be wrong. Where several laws are fitted to one table,
the spread of those that predict held-out runs about as well as the best is what their choice costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scalekit.fit.result import FitResult

MUCH_WORSE = 2.0
"""A law whose held-out error exceeds the best one's by this factor has no say."""

_NUMBERS = ("params", "tokens", "loss")


def with_a_say(fits: Sequence[FitResult]) -> list[FitResult]:
    """Keep the laws whose form is a live possibility: trusted, and not much worse held out."""
    laws = [f for f in fits if f.approach == "parametric" and f.is_trusted and f.exponents]
    missed = [f.holdout["mape"] for f in laws if f.holdout]
    if not missed:
        return laws
    worst = MUCH_WORSE * min(missed)
    return [f for f in laws if not f.holdout or f.holdout["mape"] <= worst]


def with_form_bands(fits: Sequence[FitResult]) -> list[FitResult]:
    """Add to the first fit's optima how far the laws with a say spread there.

    Each entry's `form` has the laws' names and, by number, the smallest and the largest.
    """
    laws = with_a_say(fits)
    if len(laws) < 2:
        return list(fits)
    headline = fits[0]
    entries = [{**entry, "form": _band(laws, entry["flops"])} for entry in headline.optimum]
    return [replace(headline, optimum=tuple(entries)), *fits[1:]]


def _band(laws: Sequence[FitResult], flops: float) -> dict[str, Any]:
    found = [e for law in laws for e in law.optimum if e["flops"] == flops]
    ends = {n: [min(e[n] for e in found), max(e[n] for e in found)] for n in _NUMBERS if found}
    return {"laws": [law.law for law in laws], **ends}
