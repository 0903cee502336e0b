"""The fitted irreducible loss held to the entropy of a source where that is a fact."""

from __future__ import annotations

import numpy as np

from scalekit.analysis.study import Study
from scalekit.fit.result import FitStatus
from scalekit.reports import _numbers
from scalekit.reports._wording import ends


def known_entropy(study: Study) -> str:
    """Compare the fitted irreducible loss with the source's entropy, where that is a fact.

    Losses are measured on one finite validation set, whose own oracle loss (the mean of -log p
    under the true source) differs from the entropy by chance; where it is recorded, it is what E
    can be held to.
    """
    fit = study.fit
    entropy, oracle = _the_one(study, "entropy"), _the_one(study, "oracle_loss")
    if fit is None or entropy is None:
        return ""
    text = f"The source's entropy is known: {entropy:.5g} nats/token."
    truth, what = entropy, "it"
    if oracle is not None:
        truth, what = oracle, "that oracle loss"
        text += f" On the validation set the source itself, as an oracle, has loss {oracle:.5g}."
    if "E" not in fit.theta or fit.status is FitStatus.UNIDENTIFIED:
        return f"{text} The fit {fit.law} gives no irreducible loss to compare with it."
    low, high = ends(fit.intervals.get("E"))
    found = _numbers.with_interval(fit.theta["E"], low, high)
    if low is None or high is None:
        return f"{text} The fitted irreducible loss is E = {found}, without an interval."
    if low <= truth <= high:
        return f"{text} The fitted irreducible loss is E = {found}: its interval holds {what}."
    miss = _numbers.percent(abs(fit.theta["E"] / truth - 1))
    side = "below" if fit.theta["E"] < truth else "above"
    return (
        f"{text} The fitted irreducible loss is E = {found}: its interval does not hold {what}, E "
        f"lies {miss} {side}."
    )


def _the_one(study: Study, column: str) -> float | None:
    """Return the value that all runs in use share; None where none or several are recorded."""
    values = study.column(column)
    known = np.unique(values[np.isfinite(values)])
    return float(known[0]) if known.size == 1 else None
