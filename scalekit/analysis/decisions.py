"""Decisions that a law supports: the price of a loss, and what a wrong size wastes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scalekit.analysis.allocation import Entry, entry_of, finish, losses
from scalekit.analysis.ask import Ask, Theta, check_allocates
from scalekit.errors import UsageError
from scalekit.fit.optimum import Fitted, allocate, at_search_end, can_allocate, errors
from scalekit.fit.search import crossing
from scalekit.laws.base import Array
from scalekit.quantities import write_flops

LEAST, MOST = 1e6, 1e40
"""Training FLOPs within which a loss is looked for."""


def compute_for_loss(fitted: Fitted, theta: Theta, log_loss: Array) -> Array:
    """Return ln of the smallest training FLOPs that reach log losses (k,), infinite where none do.

    Of a loss that is reached by anything at all, the end of what was searched. With few unique
    tokens more compute may raise the best loss again: what counts is where it is first reached.
    """
    bends = fitted.law.allocation(theta) is None

    def above(log_flops: Array) -> Array:
        return allocate(fitted, theta, np.exp(log_flops))[2] - log_loss

    ends = np.full(len(log_loss), np.log(LEAST)), np.full(len(log_loss), np.log(MOST))
    return crossing(above, *ends, rises_again=bends)


def budgets_for(one: Ask, loss: Sequence[float]) -> list[Entry]:
    """Return the cheapest training run that reaches each loss: flops, params, tokens.

    The interval of the budget holds every budget whose optimal loss may be the one asked for: where
    the confidence band of the frontier meets it. It has no upper end where the band never does,
    that is where the loss lies inside the interval of the irreducible one.

    Raises:
        UsageError: The law has no optimum, no compute reaches a loss, or anything does.
    """
    check_allocates(one)
    targets = np.log(np.asarray(loss, dtype=float))

    def path(theta: Theta) -> Array:
        log_c = compute_for_loss(one.one, theta, targets)
        known = np.isfinite(log_c)
        found = np.full((4, len(targets)), np.inf)
        log_n, log_d, _ = allocate(one.one, theta, np.exp(np.where(known, log_c, 50.0)))
        found[:, known] = np.stack([log_c, log_n, log_d, log_d - log_n])[:, known]
        return found.ravel()

    value = path(one.one.theta).reshape(4, -1)
    for k, asked in enumerate(loss):
        _check_reachable(one, float(asked), float(value[0, k]))
    with np.errstate(invalid="ignore"):
        low, high = (part.reshape(4, -1) for part in one.span(path)[1:])
    if one.draws is None and one.has_intervals:
        low[0], high[0] = _where_the_band_meets(one, targets)
    high[:3, np.isinf(high[0])] = np.inf
    ends = at_search_end(one.one, value[1], np.exp(value[0]))
    words = ("flops", "params", "tokens", "tokens_per_param")
    entries = []
    for k, asked in enumerate(loss):
        logs = {w: (value[i, k], low[i, k], high[i, k]) for i, w in enumerate(words)}
        entry = {**entry_of(one, logs), "loss": float(asked), "at_search_end": bool(ends[k])}
        entries.append(finish(one, entry))
    return entries


def _check_reachable(one: Ask, loss: float, log_flops: float) -> None:
    name, theta = one.fit.law, one.one.theta
    if np.isinf(log_flops):
        path = allocate(one.one, theta, np.geomspace(LEAST, MOST, 200))[2]
        floor = f"the lowest on its frontier is {np.exp(path.min()):.6g}"
        if "E" in theta and loss <= theta["E"]:
            found = one.fit.intervals.get("E")
            sure = f" ({found.low:.6g} to {found.high:.6g})" if found else ""
            floor = f"its irreducible loss is {theta['E']:.6g}{sure}"
        raise UsageError(
            f"--loss {loss:g}: no compute reaches it under {name}, {floor}; ask for more"
        )
    if log_flops <= np.log(LEAST):
        raise UsageError(
            f"--loss {loss:g}: {write_flops(LEAST)} FLOPs reach it already; ask for less"
        )


def _where_the_band_meets(one: Ask, targets: Array) -> tuple[Array, Array]:
    """Return ln of the least and most FLOPs (k,) whose confidence band holds the targets."""
    bends = one.law.allocation(one.one.theta) is None

    def edge(side: float) -> Array:
        def above(log_flops: Array) -> Array:
            flops = np.exp(log_flops)
            error = errors(one.one, lambda theta: allocate(one.one, theta, flops)[2])
            middle = allocate(one.one, one.one.theta, flops)[2]
            return middle + side * one.reach * error - targets

        ends = np.full(len(targets), np.log(LEAST)), np.full(len(targets), np.log(MOST))
        return crossing(above, *ends, rises_again=bends)

    return edge(-1.0), edge(1.0)


def log_waste(fitted: Fitted, theta: Theta, N: Array, D: Array) -> Array:
    """Return ln of the compute that the optimum needs for the loss of runs (k,), over theirs.

    Zero for a run on the optimal path, negative elsewhere: 1 - e^x is the share of a run's compute
    that is wasted (deadweight).
    """
    target = fitted.log_loss(theta, N, D)
    log_c = np.log(fitted.cost.factor) + fitted.cost.power * np.log(N) + np.log(D)

    def above(log_flops: Array) -> Array:
        return allocate(fitted, theta, np.exp(log_flops))[2] - target

    found = crossing(above, np.full(len(N), np.log(LEAST)), log_c)
    # A run on the path itself may by rounding lie above its own optimum.
    return np.where(np.isfinite(found), found - log_c, 0.0)


def runs(one: Ask, inputs: Mapping[str, Array]) -> list[Entry]:
    """Predict the losses of runs, and where the law allows it what each wastes.

    `waste` is the share of the run's compute that the compute-optimal run of the same loss saves.
    It has its minimum of zero where the run is optimal, so that its own derivative vanishes there;
    the interval is made of the square root, with the sign of the side on which the run lies.

    Raises:
        UsageError: An input of the law is missing.
    """
    entries = losses(one, inputs)
    if not ({"N", "D"} <= set(inputs) and can_allocate(one.law, one.one.given)):
        return entries
    N, D = (np.asarray(inputs[s], dtype=float) for s in ("N", "D"))

    def signed_root(theta: Theta) -> Array:
        side = np.sign(np.log(N) - allocate(one.one, theta, one.cost(N, D))[0])
        return side * np.sqrt(-np.expm1(np.minimum(log_waste(one.one, theta, N, D), 0.0)))

    value, low, high = one.span(signed_root)
    best = np.exp(allocate(one.one, one.one.theta, one.cost(N, D))[0])
    for k, entry in enumerate(entries):
        entry["waste"] = float(value[k] ** 2)
        entry["params_over_optimum"] = float(N[k] / best[k])
        if one.has_intervals:
            least = 0.0 if low[k] <= 0 <= high[k] else min(low[k] ** 2, high[k] ** 2)
            most = min(1.0, max(low[k] ** 2, high[k] ** 2))
            entry["intervals"]["waste"] = one.interval(least, most)
    return entries


MISSES = {"waste_at_half": 0.5, "waste_at_double": 2.0}
"""By word of an entry: a size over the optimal one, and what choosing it would waste."""


def add_misses(one: Ask, entries: Sequence[Entry]) -> None:
    """Add to optima what half and double the size would waste of their budgets, with intervals."""
    flops = np.array([entry["flops"] for entry in entries])
    cost = one.one.cost

    def kept(theta: Theta) -> Array:
        log_n, log_d, _ = allocate(one.one, theta, flops)
        shares = []
        for ratio in MISSES.values():
            N = ratio * np.exp(log_n)
            shares.append(log_waste(one.one, theta, N, np.exp(log_d) * ratio**-cost.power))
        return np.concatenate(shares)

    value, low, high = (part.reshape(len(MISSES), -1) for part in one.span(kept))
    for k, entry in enumerate(entries):
        for i, word in enumerate(MISSES):
            entry[word] = float(-np.expm1(value[i, k]))
            if one.has_intervals:
                # What is kept falls as what is wasted grows.
                ends = -np.expm1(high[i, k]), -np.expm1(low[i, k])
                entry["intervals"][word] = one.interval(*ends)
