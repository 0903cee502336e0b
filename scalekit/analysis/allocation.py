"""What a law says of a budget and of a run: the compute-optimal choice, the frontier, the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalekit.analysis.ask import Ask, ask, check_allocates, check_inputs, fitted
from scalekit.fit import optimum as solver
from scalekit.fit.optimum import FRONTIER, allocate, at_search_end
from scalekit.fit.result import FitResult
from scalekit.laws.base import COLUMN_OF, Array

Entry = dict[str, Any]
"""One answer: numbers by word, `intervals` by the same words, `outside` the fitted range."""


def optimum(fit: FitResult, flops: float) -> Entry:
    """Return the optimum at a budget: params, tokens, loss, tokens_per_param, with intervals.

    Raises:
        FitError: The fit gives no optimum.
        UsageError: The law has no optimum over N and D.
    """
    return optima(ask(fit), [flops])[0]


def optima(one: Ask, flops: Sequence[float]) -> list[Entry]:
    """Return the optimum at each budget.

    Each entry says in `at_search_end` whether it is no minimum but the end of what was searched.

    Raises:
        UsageError: The law has no optimum over N and D.
    """
    check_allocates(one)
    budgets = np.asarray(flops, dtype=float)

    def path(theta: Mapping[str, float]) -> Array:
        log_n, log_d, log_l = allocate(one.one, theta, budgets)
        return np.concatenate([log_n, log_d, log_l, log_d - log_n])

    found = [part.reshape(len(FRONTIER), -1) for part in one.span(path)]
    ends = at_search_end(one.one, found[0][0], budgets)
    entries = []
    for k, flops_k in enumerate(budgets):
        entry = entry_of(one, {n: [v[i, k] for v in found] for i, n in enumerate(FRONTIER)})
        entry["flops"] = float(flops_k)
        entry["at_search_end"] = bool(ends[k])
        entries.append(finish(one, entry))
    return entries


def frontier(fit: FitResult, flops: Array) -> dict[str, Array]:
    """Return the compute-optimal path as arrays (k,).

    The names are flops, params, tokens, loss and tokens_per_param. Each has `_low` and `_high`
    beside it, the loss also `loss_prediction_low` and `_high`.
    """
    check_allocates(ask(fit))
    return solver.frontier(fitted(fit), flops)


def predict(fit: FitResult, params: float, tokens: float) -> Entry:
    """Predict the loss of a run, with a confidence interval and a prediction interval.

    The confidence interval is of the law; the prediction interval adds the noise of a single run.
    """
    sizes = {"N": np.array([float(params)]), "D": np.array([float(tokens)])}
    return losses(ask(fit), sizes)[0]


def losses(one: Ask, inputs: Mapping[str, Array]) -> list[Entry]:
    """Predict the loss at inputs by symbol, each (k,); C follows from N and D where both are there.

    Raises:
        UsageError: An input of the law is missing.
    """
    inputs = {symbol: np.asarray(values, dtype=float) for symbol, values in inputs.items()}
    check_inputs(one, set(inputs))
    if {"N", "D"} <= set(inputs):
        inputs["C"] = one.cost(inputs["N"], inputs["D"])
    found = one.span(lambda theta: one.log_loss(theta, inputs))
    entries = []
    for k in range(len(found[0])):
        entry = entry_of(one, {"loss": [part[k] for part in found]})
        entry |= {COLUMN_OF.get(s, s): float(v[k]) for s, v in inputs.items()}
        entries.append(finish(one, entry))
    return entries


def entry_of(one: Ask, logs: Mapping[str, Sequence[float]]) -> Entry:
    """Make an entry of logarithms by word, each as value, low, high."""
    entry: Entry = {name: float(np.exp(value)) for name, (value, _, _) in logs.items()}
    spans = {name: ends for name, (_, *ends) in logs.items()}
    if "loss" in logs:
        value, low, high = (np.asarray(part) for part in logs["loss"])
        spans["loss_prediction"] = [float(end) for end in one.with_noise(value, low, high)]
    with np.errstate(over="ignore"):
        entry["intervals"] = {
            name: one.interval(*np.exp(ends)) for name, ends in spans.items() if one.has_intervals
        }
    return entry


def finish(one: Ask, entry: Entry) -> Entry:
    """Order an entry's words and add what follows from them: ratios, and how far it reaches."""
    known = {**{COLUMN_OF.get(s, s): v for s, v in (one.one.given or {}).items()}, **entry}
    if "params" in known and "tokens" in known:
        known["tokens_per_param"] = known["tokens"] / known["params"]
    if "unique_tokens" in known and "tokens" in known:
        known["epochs"] = known["tokens"] / known["unique_tokens"]
    words = [w for w in (*_WORDS, *known) if w in known and w != "intervals"]
    ordered = {word: known[word] for word in dict.fromkeys(words)}
    reach = {word: ordered[word] for word in ordered if word in one.ranges}
    largest = one.ranges.get("flops", (np.nan, np.nan))[1]
    ordered["extrapolation"] = ordered.get("flops", np.nan) / largest
    ordered["outside"] = one.outside(reach)
    return {**ordered, "intervals": known["intervals"]}


_WORDS = ("flops", "params", "tokens", "tokens_per_param", "unique_tokens", "epochs", "loss")
