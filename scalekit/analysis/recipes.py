"""What a recipe is worth against the reference: params, tokens and compute, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scalekit.errors import FitError, UsageError, did_you_mean
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.optimum import SIX_N_D
from scalekit.fit.result import FitResult, FitStatus

WORTH = ("params", "tokens", "compute")


def levels(fit: FitResult) -> tuple[str, ...]:
    """Return the recipes that a fit compares, the reference first; none for other laws."""
    return tuple(fit.diagnostics.get("levels") or ())


def efficiencies(fit: FitResult) -> list[dict[str, Any]]:
    """Compare every recipe with the reference.

    With `compute` a recipe reaches the loss that the reference reaches with that many times the
    compute, at any budget: its two efficiencies only rescale N and D.

    Returns:
        One entry a recipe but the reference: recipe, reference, and params, tokens, compute with
        their intervals. Above one it is better than the reference.

    Raises:
        FitError: The fit compares no recipes, or does not identify them.
    """
    reference, *others = levels(fit) or ("",)
    if not others:
        raise FitError(f"{fit.law}: compares no recipes; fit with --law multi_recipe")
    if fit.status is FitStatus.UNIDENTIFIED:
        raise FitError(f"{fit.law}: {fit.message}")
    return [_entry(fit, reference, recipe) for recipe in others]


def at_recipe(fit: FitResult, recipe: str) -> FitResult:
    """Return the fit as the law of one recipe, for its optimum and predictions.

    Raises:
        UsageError: The fit knows no such recipe.
    """
    known = levels(fit)
    if recipe not in known:
        hint = did_you_mean(recipe, known) if known else "it compares no recipes"
        raise UsageError(f"--recipe {recipe}: not one of {fit.law}'s; {hint}")
    given = {**fit.diagnostics.get("given", {}), "r": known.index(recipe) + 1.0}
    return replace(fit, diagnostics={**fit.diagnostics, "given": given})


def _entry(fit: FitResult, reference: str, recipe: str) -> dict[str, Any]:
    names = list(fit.theta)
    own = [f"rho_{symbol}[{recipe}]" for symbol in ("N", "D")]
    rho_n, rho_d = (fit.theta[name] for name in own)
    power = (fit.cost or SIX_N_D).power
    entry: dict[str, Any] = {"recipe": recipe, "reference": reference}
    entry |= {"params": rho_n, "tokens": rho_d, "compute": rho_n**power * rho_d}
    ends: dict[str, Mapping[str, Any]] = {}
    if fit.covariance is not None:
        matrix = np.array(fit.covariance, dtype=float)
        slopes = np.zeros((3, len(names)))
        slopes[[0, 1], [names.index(name) for name in own]] = 1 / rho_n, 1 / rho_d
        slopes[2] = power * slopes[0] + slopes[1]
        reach = t_quantile(0.5 + LEVEL / 2, float(fit.diagnostics.get("dof") or np.inf))
        wide = reach * np.sqrt(np.einsum("ki,ij,kj->k", slopes, matrix, slopes))
        for name, one in zip(WORTH, wide, strict=True):
            low, high = (float(entry[name] * np.exp(side * one)) for side in (-1, 1))
            ends[name] = {"low": low, "high": high, "level": LEVEL, "method": _method(fit)}
    return {**entry, "intervals": ends}


def _method(fit: FitResult) -> str:
    return str(fit.diagnostics.get("covariance") or "")
