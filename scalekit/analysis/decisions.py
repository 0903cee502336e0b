"""Decisions that a law supports: what a wrong size costs, and how serving changes the optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalekit.errors import InputError
from scalekit.fit.optimum import Fitted, allocate
from scalekit.laws.base import Array

INFERENCE_FLOPS = 2.0
"""FLOPs of a forward pass by token and parameter."""

_STEPS = 200
_WIDEST = np.log(1e6)


def compute_for_loss(fitted: Fitted, loss: float) -> float:
    """Return the smallest training compute that reaches a loss.

    Raises:
        InputError: No compute does: the law's irreducible loss is above it.
    """
    low, high = np.log(1e6), np.log(1e40)
    target = np.log(loss)

    def reached(log_flops: float) -> float:
        return float(allocate(fitted, fitted.theta, np.array([np.exp(log_flops)]))[2, 0])

    if reached(high) >= target:
        raise InputError(f"loss {loss:g}: no compute reaches it under {fitted.law.name}; ask more")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > target else (low, middle)
    return float(np.exp(high))


def deadweight(fitted: Fitted, flops: float, size_ratio: float) -> float:
    """Return the share of the compute that a wrong model size throws away.

    A model `size_ratio` times the optimal one, trained on what the budget then buys, reaches a
    loss that the optimal split would reach with less; the difference is the deadweight.
    """
    log_n, log_d, _ = allocate(fitted, fitted.theta, np.array([flops]))[:, 0]
    N = np.exp(log_n) * size_ratio
    D = np.exp(log_d) * size_ratio**-fitted.cost.power
    loss = np.exp(fitted.log_loss(fitted.theta, np.array([N]), np.array([D])))[0]
    return 1.0 - compute_for_loss(fitted, float(loss)) / flops


@dataclass(frozen=True)
class Served:
    """A model to be trained once and served.

    Attributes:
        flops: Training and inference together.
        training_flops: Training alone.
        saved: Share of the reference's total that this saves at the same loss.
    """

    params: float
    tokens: float
    loss: float
    flops: float
    training_flops: float
    saved: float


def serve(fitted: Fitted, params: float, tokens: float, served_tokens: float) -> Served:
    """Find the model that reaches a reference's loss with least training and inference together.

    Args:
        fitted: A law of N and D.
        params: Of the reference, which sets the loss to reach.
        tokens: Training tokens of the reference. They must be said: with 20 a parameter instead
            of the law's own optimum the savings more than double.
        served_tokens: Tokens of inference over the model's life.

    Source: Sardana and Frankle 2023, arXiv:2401.00448, equation 2.
    """
    target = float(fitted.log_loss(fitted.theta, np.array([params]), np.array([tokens]))[0])
    low, high = np.log(params) - np.log(1e4), np.log(params) + np.log(1e4)
    for _ in range(8):
        log_n = np.linspace(low, high, _STEPS + 1)
        total = _total(fitted, log_n, _tokens_for(fitted, log_n, target), served_tokens)
        best = int(np.argmin(total))
        gap = log_n[1] - log_n[0]
        low, high = log_n[best] - 2 * gap, log_n[best] + 2 * gap
    chosen = np.array([(low + high) / 2])
    log_d = _tokens_for(fitted, chosen, target)
    flops = float(_total(fitted, chosen, log_d, served_tokens)[0])
    reference = _total(fitted, np.log([params]), np.log([tokens]), served_tokens)
    return Served(
        float(np.exp(chosen[0])),
        float(np.exp(log_d[0])),
        float(np.exp(target)),
        flops,
        float(_total(fitted, chosen, log_d, 0.0)[0]),
        1.0 - flops / float(reference[0]),
    )


def _total(fitted: Fitted, log_n: Array, log_d: Array, served_tokens: float) -> Array:
    cost = fitted.cost
    training = cost.factor * np.exp(cost.power * log_n + log_d)
    return training + INFERENCE_FLOPS * np.exp(log_n) * served_tokens


def _tokens_for(fitted: Fitted, log_n: Array, target: float) -> Array:
    """Return ln D (k,) at which each size reaches a log loss, infinite where none does."""
    low = np.full(len(log_n), np.log(1e3))
    high = low + 2 * _WIDEST + np.log(1e12)
    reachable = fitted.log_loss(fitted.theta, np.exp(log_n), np.exp(high)) < target
    for _ in range(_STEPS):
        middle = (low + high) / 2
        over = fitted.log_loss(fitted.theta, np.exp(log_n), np.exp(middle)) > target
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.where(reachable, high, np.inf)
