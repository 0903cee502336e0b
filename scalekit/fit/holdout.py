"""Refit without some runs, usually the largest, and see how well they are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit.errors import FitError, InputError, did_you_mean, nearest
from scalekit.fit.intervals import LEVEL
from scalekit.fit.rows import Runs, matches
from scalekit.quantities import write_flops
from scalekit.results.table import RunTable

LARGEST = "largest-budget"
_TOP = 0.9
_RARE = 0.05


def held_out(rule: str, runs: Runs, table: RunTable) -> tuple[np.ndarray, str]:
    """Say which runs (n,) a rule holds out, and the rule in words.

    Args:
        rule: `largest-budget`, or an expression over the table's columns such as `flops>1e20`.
            Runs without a budget may be among them, as long as each took less compute than those
            held out. Without planned budgets the top tenth of the runs by FLOPs is held out.
        runs: The rows in use.
        table: Where they come from.

    Raises:
        FitError: The rule holds out no run, or all.
        InputError: It is neither a rule nor an expression.
    """
    if rule == LARGEST:
        chosen, words = _largest(runs)
    elif rule not in table and nearest(rule, [LARGEST]) is not None:
        raise InputError(
            f"{runs.where}: --hold-out {rule}: unknown; {did_you_mean(rule, [LARGEST])}"
        )
    else:
        chosen = matches(table, rule, "--hold-out")[runs.rows]
        words = rule
    if not chosen.any() or chosen.all():
        which = "every run" if chosen.any() else "no run"
        raise FitError(f"{runs.where}: --hold-out {rule} takes {which}; choose another rule")
    return chosen, words


def _largest(runs: Runs) -> tuple[np.ndarray, str]:
    is_planned = np.isfinite(runs.budget)
    if is_planned.any():
        top = runs.budget[is_planned].max()
        chosen = is_planned & (runs.budget >= top * (1 - 1e-9))
        others = ~is_planned
        if not others.any() or _are_smaller(runs, others, chosen):
            return chosen, f"{LARGEST} (budget {write_flops(top)} FLOPs)"
    if "C" not in runs.inputs:
        raise FitError(f"{runs.where}: no budgets and no FLOPs to hold out by; give an expression")
    flops = runs.inputs["C"]
    edge = float(np.quantile(flops, _TOP, method="higher"))
    return flops >= edge, f"{LARGEST} (the top tenth by FLOPs, from {write_flops(edge, digits=4)})"


def _are_smaller(runs: Runs, some: np.ndarray, others: np.ndarray) -> bool:
    """Whether some runs (n,) took less compute than each of the others."""
    flops = runs.inputs.get("C")
    return flops is not None and bool(flops[some].max() < flops[others].min())


def score(
    rule: str,
    theta: Mapping[str, float],
    runs: Runs,
    chosen: np.ndarray,
    predicted: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Compare held-out losses with their predictions.

    Args:
        rule: In words.
        theta: Of the fit without the held-out runs.
        runs: All runs.
        chosen: (n,), which were held out.
        predicted: loss, low, high of the prediction interval, each (n_held_out,).

    Returns:
        What `fit.json` holds. `mape`, `bias` (observed less predicted, so that a positive one is
        a loss worse than promised) and `worst` are fractions of the observed loss; `mae`, `rmse`
        are in the loss's unit; `covered` is the share of runs inside their interval;
        `baseline_mape` is that of predicting the best loss among the fitted runs.
    """
    test = runs.where_true(chosen)
    miss = test.loss - predicted["loss"]
    relative = miss / test.loss
    inside = (test.loss >= predicted["low"]) & (test.loss <= predicted["high"])
    ratio = None
    if "C" in runs.inputs:
        ratio = float(test.inputs["C"].max() / runs.inputs["C"][~chosen].max())
    return {
        "rule": rule,
        "n_runs": len(test),
        "n_train": int((~chosen).sum()),
        "mape": float(np.mean(np.abs(relative))),
        "bias": float(np.mean(relative)),
        "worst": float(relative[np.argmax(np.abs(relative))]),
        "mae": float(np.mean(np.abs(miss))),
        "rmse": float(np.sqrt(np.mean(miss**2))),
        "covered": float(np.mean(inside)),
        "level": LEVEL,
        # Without any law: the best loss seen so far.
        "baseline_mape": float(np.mean(np.abs(runs.loss[~chosen].min() / test.loss - 1))),
        "extrapolation": ratio,
        "theta": dict(theta),
        "rows": _rows(test, predicted),
    }


def is_covered_too_rarely(held: Mapping[str, Any]) -> bool:
    """Whether so few held-out runs lie inside their intervals as once in twenty by chance.

    By the binomial law: of one run alone nothing follows, for one in ten lies outside. Runs that
    share a miss of the law scatter more than that.
    """
    level, n = held.get("level", LEVEL), held["n_runs"]
    inside = round(held["covered"] * n)
    # By logarithms: the coefficients of a thousand runs are beyond floats.
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(level)
        + (n - k) * math.log1p(-level)
        for k in range(inside + 1)
    )
    return sum(map(math.exp, terms)) < _RARE


def _rows(test: Runs, predicted: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {
            "run": name,
            "row": int(test.rows[k]),
            "loss": float(loss),
            "predicted": float(predicted["loss"][k]),
            "low": float(predicted["low"][k]),
            "high": float(predicted["high"][k]),
        }
        for k, (name, loss) in enumerate(zip(test.names, test.loss, strict=True))
    ]
