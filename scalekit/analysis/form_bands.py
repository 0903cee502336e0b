"""The band of the form in an answer: how far the laws of one file that have a say spread there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalekit.analysis.ask import fitted
from scalekit.fit.forms import with_a_say
from scalekit.fit.optimum import allocate
from scalekit.fit.result import FitResult


def add_form_bands(
    fits: Sequence[FitResult],
    entries: Sequence[dict[str, Any]],
    *,
    is_optimum: bool,
    given: Mapping[str, float] | None = None,
) -> None:
    """Add to each answer `form`: the laws' names, and the smallest and largest that they say.

    Of an optimum that is params, tokens and loss at its budget, of a run its loss. Nothing is added
    where fewer than two laws have a say, nor to a run of other inputs than params and tokens.

    Args:
        fits: All of a file.
        entries: Answers of one of them.
        is_optimum: They are optima of budgets, not runs.
        given: What is held for every law that takes it, over what each was fitted with.
    """
    laws = with_a_say(fits)
    if len(laws) < 2:
        return
    for entry in entries:
        if not is_optimum and not {"params", "tokens"} <= set(entry):
            continue
        told = [_says(law, entry, given or {}, is_optimum=is_optimum) for law in laws]
        ends = {word: [min(t[word] for t in told), max(t[word] for t in told)] for word in told[0]}
        entry["form"] = {"laws": [law.law for law in laws], **ends}


def _says(
    fit: FitResult, entry: Mapping[str, Any], given: Mapping[str, float], *, is_optimum: bool
) -> dict[str, float]:
    one = fitted(fit)
    held = {symbol: value for symbol, value in given.items() if symbol in one.law.inputs}
    one = replace(one, given={**(one.given or {}), **held})
    if is_optimum:
        path = np.exp(allocate(one, one.theta, np.array([entry["flops"]]))[:, 0])
        return dict(zip(("params", "tokens", "loss"), map(float, path), strict=True))
    N, D = (np.array([float(entry[word])]) for word in ("params", "tokens"))
    return {"loss": float(np.exp(one.log_loss(one.theta, N, D)[0]))}
