"""A model that is trained once and served for its life: which size costs least altogether."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scalekit.analysis.allocation import Entry, entry_of, finish, losses
from scalekit.analysis.ask import Ask, Theta, check_allocates
from scalekit.analysis.decisions import LEAST, MOST, compute_for_loss
from scalekit.errors import UsageError
from scalekit.fit.optimum import FEWEST, Fitted, allocate
from scalekit.fit.search import crossing, lowest
from scalekit.laws.base import Array

FORWARD_SHARE = 1.0 / 3.0
"""FLOPs of a forward pass over those of training, by token, as training is counted."""

_FEWEST_TOKENS, _MOST_TOKENS = 1e3, 1e30
_WIDEST = np.log(1e4)


@dataclass(frozen=True)
class Reference:
    """The model whose loss is to be matched.

    Attributes:
        find: From theta to its ln N and ln D, (2,).
        convention: How its tokens were chosen, in words: the savings rest on it.
        exact: What of it was given as a number.
    """

    find: Callable[[Theta], Array]
    convention: str
    exact: Mapping[str, float]


def at_size(fitted: Fitted, params: float) -> Reference:
    """Take as reference a size on the tokens for which the law makes it compute-optimal.

    Sardana and Frankle take it so for "the Chinchilla model of that size".
    """
    log_n = np.log(np.array([params]))

    def find(theta: Theta) -> Array:
        def above(log_flops: Array) -> Array:
            return log_n - allocate(fitted, theta, np.exp(log_flops))[0]

        # The optimal size grows with the budget, so that this falls.
        log_c = crossing(above, np.log(np.array([LEAST])), np.log(np.array([MOST])))
        if not np.isfinite(log_c[0]):
            return np.array([log_n[0], np.inf])
        return np.array([log_n[0], allocate(fitted, theta, np.exp(log_c))[1, 0]])

    return Reference(
        find, "on the tokens for which the law makes its size optimal", {"params": params}
    )


def at_run(params: float, tokens: float) -> Reference:
    """Take a run as reference, whatever the law thinks of it."""
    place = np.log(np.array([params, tokens]))
    return Reference(lambda _: place, "on the tokens given", {"params": params, "tokens": tokens})


def at_budget(fitted: Fitted, flops: float) -> Reference:
    """Take as reference the compute-optimal run of a training budget."""
    asked = np.array([flops])
    words = "the optimum of the training budget given"
    return Reference(lambda theta: allocate(fitted, theta, asked)[:2, 0], words, {})


def at_loss(fitted: Fitted, loss: float) -> Reference:
    """Take as reference the cheapest training run that reaches a loss."""
    target = np.log(np.array([loss]))

    def find(theta: Theta) -> Array:
        log_c = compute_for_loss(fitted, theta, target)
        if not np.isfinite(log_c[0]):
            return np.full(2, np.inf)
        return allocate(fitted, theta, np.exp(log_c))[:2, 0]

    return Reference(find, "the cheapest training to the loss given", {})


def best_served(fitted: Fitted, theta: Theta, reference: Reference, served_tokens: float) -> Array:
    """Find the model that reaches a reference's loss with least training and inference together.

    Returns:
        Its ln N and ln D, and ln of its total FLOPs over the reference's: (3,).

    Source: Sardana and Frankle 2023, arXiv:2401.00448, equation 2.
    """
    log_n0, log_d0 = reference.find(theta)
    target = fitted.log_loss(theta, np.exp([log_n0]), np.exp([log_d0]))[0]

    def total(log_n: Array) -> Array:
        log_d = _tokens_for(fitted, theta, log_n.ravel(), target).reshape(log_n.shape)
        return np.log(_training(fitted, log_n, log_d) + _inference(fitted, log_n, served_tokens))

    low = max(log_n0 - _WIDEST, np.log(FEWEST))
    high = log_n0 + _WIDEST
    with np.errstate(over="ignore"):
        log_n = lowest(total, np.array([low]), np.array([high]))
        log_d = _tokens_for(fitted, theta, log_n, target)
        before = _training(fitted, log_n0, log_d0) + _inference(fitted, log_n0, served_tokens)
        return np.array([log_n[0], log_d[0], total(log_n)[0] - np.log(before)])


def served(one: Ask, reference: Reference, served_tokens: float) -> Entry:
    """Find the model to train for serving, with intervals, beside the reference.

    Args:
        one: A fit of a law of N and D.
        reference: Sets the loss to reach.
        served_tokens: Tokens of inference over the model's life.

    Returns:
        The entry of the model: flops is training and inference together; `training_flops`,
        `inference_flops`, `inference_tokens`, `saved` (a share of the reference's total), and
        `reference` with the same words.

    Raises:
        UsageError: The law has no optimum over N and D, or the search ended at its edge.
    """
    check_allocates(one)
    fitted = one.one

    def best(theta: Theta) -> Array:
        log_n, log_d, log_saved = best_served(fitted, theta, reference, served_tokens)
        return np.array([log_n, log_d, log_d - log_n, log_saved])

    log_n0, log_d0 = reference.find(fitted.theta)
    if not np.isfinite([log_n0, log_d0]).all():
        raise UsageError(
            f"--inference-tokens: under {one.fit.law} no budget makes the reference optimal; say "
            "its --tokens"
        )
    value, low, high = one.span(best)
    if abs(abs(value[0] - log_n0) - _WIDEST) < 1e-3 or not np.isfinite(value).all():
        raise UsageError(
            f"--inference-tokens {served_tokens:g}: under {one.fit.law} the best size is more than "
            f"{np.exp(_WIDEST):g} times off the reference; ask for fewer tokens"
        )
    logs = {w: (value[i], low[i], high[i]) for i, w in enumerate(_WORDS)}
    entry: Entry = {**entry_of(one, logs), **_costs(fitted, value[0], value[1], served_tokens)}
    entry["saved"] = float(-np.expm1(value[3]))
    if one.has_intervals:
        entry["intervals"]["saved"] = one.interval(-np.expm1(high[3]), -np.expm1(low[3]))
    return {
        **_trained(one, entry),
        "reference": {
            **{w: float(np.exp(v)) for w, v in zip(_WORDS, _three(log_n0, log_d0), strict=True)},
            **_costs(fitted, log_n0, log_d0, served_tokens),
            **reference.exact,
            "convention": reference.convention,
        },
    }


_WORDS = ("params", "tokens", "tokens_per_param")


def _three(log_n: float, log_d: float) -> tuple[float, float, float]:
    return log_n, log_d, log_d - log_n


def _trained(one: Ask, entry: Entry) -> Entry:
    """Add the loss; how far the law is stretched is told by training, serving is no input of it."""
    trained = losses(one, {"N": np.array([entry["params"]]), "D": np.array([entry["tokens"]])})[0]
    kept = {w: trained[w] for w in ("loss", "extrapolation", "outside")}
    found = {**finish(one, entry), **kept}
    return {**found, "intervals": {**entry["intervals"], **trained["intervals"]}}


def _costs(fitted: Fitted, log_n: float, log_d: float, served_tokens: float) -> dict[str, float]:
    training = float(_training(fitted, log_n, log_d))
    inference = float(_inference(fitted, log_n, served_tokens))
    return {
        "flops": training + inference,
        "training_flops": training,
        "inference_flops": inference,
        "inference_tokens": float(served_tokens),
    }


def _training(fitted: Fitted, log_n: Array | float, log_d: Array | float) -> Array:
    return fitted.cost.factor * np.exp(fitted.cost.power * log_n + log_d)


def _inference(fitted: Fitted, log_n: Array | float, served_tokens: float) -> Array:
    return FORWARD_SHARE * fitted.cost.factor * np.exp(fitted.cost.power * log_n) * served_tokens


def _tokens_for(fitted: Fitted, theta: Mapping[str, float], log_n: Array, target: float) -> Array:
    """Return ln D (k,) at which each size reaches a log loss, infinite where none does."""
    N = np.exp(log_n)

    def above(log_d: Array) -> Array:
        return fitted.log_loss(theta, N, np.exp(log_d)) - target

    ends = np.full(len(N), np.log(_FEWEST_TOKENS)), np.full(len(N), np.log(_MOST_TOKENS))
    return crossing(above, *ends, rises_again=fitted.law.allocation(theta) is None)
