"""The fitted law as figures read it: loss on (N, D), tokens at a budget, the efficient frontier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scalekit import registry
from scalekit.fit.optimum import SIX_N_D, fit_cost
from scalekit.fit.prepare import law_of
from scalekit.fit.result import FitStatus
from scalekit.plots.base import has_law

if TYPE_CHECKING:
    from scalekit.analysis.study import Study
    from scalekit.fit.result import CostLaw, FitResult
    from scalekit.laws.base import Law


WORDS = {"parametric": "parametric", "isoflop": "parabolas", "envelope": "envelope"}
"""What a legend calls each approach."""


def loss(fit: FitResult, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Predict the loss at sizes and tokens by the fit's law.

    The result has the shape that N and D broadcast to, NaN where either is missing.
    """
    law = registry.find("laws", fit.law)
    N, D = np.broadcast_arrays(np.asarray(N, dtype=float), np.asarray(D, dtype=float))
    out = np.full(N.shape, np.nan)
    # A law centres its inputs on their mean, which one missing cell would turn into NaN for all.
    known = (N > 0) & (D > 0)
    if known.any():
        inputs = {"N": N[known], "D": D[known]}
        cost = fit.cost or SIX_N_D
        inputs["C"] = cost.factor * inputs["N"] ** cost.power * inputs["D"]
        out[known] = law.predict(fit.theta, inputs)
    return out


def predictions(study: Study, fit: FitResult) -> np.ndarray:
    """Predict each row's loss (n,), that of held-out rows by the fit without them."""
    out = _of_rows(study, fit, fit.theta)
    without = fit.holdout.get("theta")
    if without:
        out = np.where(study.roles == "held_out", _of_rows(study, fit, without), out)
    return out


def _of_rows(study: Study, fit: FitResult, theta: Mapping[str, float]) -> np.ndarray:
    """Predict each row's loss (n,) from its own inputs, NaN where one is missing."""
    law = law_of(fit)
    columns = {s: _input(study, law, s, c) for s, c in zip(law.inputs, law.columns, strict=True)}
    known = np.all([v > 0 for v in columns.values()], axis=0)
    out = np.full(known.shape, np.nan)
    if known.any():
        out[known] = law.predict(theta, {s: v[known] for s, v in columns.items()})
    return out


def _input(study: Study, law: Law, symbol: str, column: str) -> np.ndarray:
    """Return an input of each row (n,): a column, FLOPs by the study, a recipe by its code."""
    if symbol == "C":
        return study.flops
    if symbol not in law.coded:
        return study.column(column)
    codes = {word: k + 1.0 for k, word in enumerate(law.levels)}
    return np.array([codes.get(str(word).strip(), np.nan) for word in study.words(column)])


def tokens_at(study: Study, flops: float | np.ndarray, N: np.ndarray) -> np.ndarray:
    """Return the tokens that a budget buys at each size, by the table's own cost law or 6 N D."""
    cost = _cost(study)
    return flops / (cost.factor * N**cost.power)


def params_at(study: Study, flops: float | np.ndarray, D: np.ndarray) -> np.ndarray:
    """Return the size that a budget buys at each number of tokens."""
    cost = _cost(study)
    return (flops / (cost.factor * D)) ** (1.0 / cost.power)


def along_budget(
    study: Study, name: str, budget: float, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and tokens (n,) at places x of params or tokens along a budget's own runs.

    The other quantity follows the runs by a quadratic in logarithms: their FLOPs may be counted in
    a way that no product of N and D gives.
    """
    here = (study.column("budget") == budget) & study.is_used
    other = "tokens" if name == "params" else "params"
    known, wanted = np.log(study.column(name)[here]), np.log(study.column(other)[here])
    distinct = np.unique(known).size
    if distinct < 2:
        y = tokens_at(study, budget, x) if name == "params" else params_at(study, budget, x)
    else:
        centre = known.mean()
        line = np.polyfit(known - centre, wanted, 2 if distinct > 3 else 1)
        y = np.exp(np.polyval(line, np.log(x) - centre))
    return (x, y) if name == "params" else (y, x)


def _cost(study: Study) -> CostLaw:
    """Return the fit's cost law, else one through the table's own FLOPs, else 6 N D."""
    if study.fit is not None and study.fit.cost is not None:
        return study.fit.cost
    N, D, C = study.column("params"), study.column("tokens"), study.column("flops")
    known = (N > 0) & (D > 0) & (C > 0)
    return fit_cost(N[known], D[known], C[known]) if known.any() else SIX_N_D


def cost_words(study: Study) -> str:
    """Say by which rule lines of equal FLOPs are drawn."""
    cost = _cost(study)
    if cost.power == 1.0 and cost.factor == 6.0:
        return "6ND"
    return f"{cost.factor:.3g} N^{cost.power:.3g} D"


def has_frontier(study: Study) -> bool:
    """Whether the study's headline law gives a compute-optimal path."""
    fit = study.fit
    is_told = fit is not None and fit.status is not FitStatus.UNIDENTIFIED and bool(fit.exponents)
    return is_told and has_law(study)


def approaches(study: Study) -> list[FitResult]:
    """Return one fit an approach that gives both exponents, the headline first."""
    found: dict[str, FitResult] = {}
    for fit in (study.fit, *study.fit.others) if study.fit is not None else ():
        is_told = fit.status is not FitStatus.UNIDENTIFIED
        if is_told and {"params", "tokens"} <= set(fit.exponents):
            found.setdefault(fit.approach, fit)
    return list(found.values())


def frontier(fit: FitResult, flops: np.ndarray) -> dict[str, np.ndarray]:
    """Return the compute-optimal path: flops, params, tokens, loss, each with _low and _high."""
    from scalekit.analysis import allocation

    return allocation.frontier(fit, flops)


def on_line(fit: FitResult, axis: str, flops: np.ndarray) -> np.ndarray:
    """Return params or tokens (n,) on the power law of approach 1 or 2."""
    return fit.theta[f"{axis}_coefficient"] * flops ** fit.theta[f"{axis}_exponent"]
