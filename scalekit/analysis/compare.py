"""Approaches and laws side by side: how far they disagree, and what decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.fit.own_law import find_law
from scalekit.fit.result import FitResult, FitStatus
from scalekit.quantities import write_flops, write_ratio


@dataclass(frozen=True)
class Summary:
    """Fits of one table compared.

    Attributes:
        rows: One a fit, headline first: law, approach, response, status, exponent_params and its
            interval, held_out (mean absolute relative error), baseline, aicc, and at the furthest
            budget that all were asked for flops, params, tokens, loss and extrapolation (that
            budget over the largest measured).
        spread: Largest over smallest N* at that budget among trusted fits, or None.
        best: The law with the smallest held-out error; AICc never decides.
        sentences: The comparison in words.
    """

    rows: tuple[dict[str, Any], ...]
    spread: float | None
    best: str | None
    sentences: tuple[str, ...]


def summary(fit: FitResult) -> Summary:
    """Compare a headline with its others."""
    fits = (fit, *fit.others)
    asked = [{e["flops"] for e in one.optimum} for one in fits if one.optimum]
    shared = set.intersection(*asked) if asked else set()
    far = max(shared) if shared else None
    rows = tuple(_row(one, far) for one in fits)
    sizes = [r["params"] for r in rows if r["params"] and r["status"] == FitStatus.CONVERGED]
    spread = max(sizes) / min(sizes) if len(sizes) > 1 else None
    held = _rivals(rows)
    best = min(held, key=lambda r: r["held_out"])["law"] if held else None
    return Summary(rows, spread, best, tuple(_sentences(rows, far, spread)))


def _rivals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the laws whose held-out errors are of one thing: what the headline predicts."""
    same = [r for r in rows if r["response"] == rows[0]["response"]]
    return [r for r in same if r["held_out"] is not None]


def _row(fit: FitResult, far: float | None) -> dict[str, Any]:
    entry = next((e for e in fit.optimum if e["flops"] == far), {})
    share = fit.exponents.get("params", {})
    return {
        "law": fit.law,
        "approach": fit.approach,
        "response": find_law(fit.law).response if fit.approach == "parametric" else "loss",
        "status": fit.status,
        "exponent_params": share.get("value"),
        "low": share.get("low"),
        "high": share.get("high"),
        "held_out": fit.holdout.get("mape"),
        "baseline": fit.holdout.get("baseline_mape"),
        "aicc": fit.diagnostics.get("aicc"),
        "flops": far,
        "params": entry.get("params"),
        "tokens": entry.get("tokens"),
        "loss": entry.get("loss"),
        "extrapolation": entry.get("extrapolation"),
    }


def _sentences(
    rows: tuple[dict[str, Any], ...], far: float | None, spread: float | None
) -> list[str]:
    found = []
    if spread is not None and far is not None:
        ratio = next(r["extrapolation"] for r in rows if r["extrapolation"] is not None)
        found.append(
            f"at {write_flops(far)} FLOPs, {write_ratio(ratio)} times the largest measured, the "
            f"fits' optimal sizes differ by a factor {spread:.3g}"
        )
    held = sorted(_rivals(rows), key=lambda r: r["held_out"])
    if held:
        told = ", ".join(f"{r['law']} {r['held_out']:.3%}" for r in held)
        found.append(f"held-out error: {told}; the best loss seen so far {held[0]['baseline']:.3%}")
    if len(held) > 1:
        found.append(_verdict(held))
    return found


def _verdict(held: list[dict[str, Any]]) -> str:
    """Say which law held-out error chooses, and whether AICc, which only looks back, agrees."""
    best = held[0]["law"]
    if held[0]["held_out"] >= held[0]["baseline"]:
        return "no law predicts the held-out runs better than the best loss seen so far does"
    known = [r for r in held if r["aicc"] is not None]
    if not known:
        return f"held-out error decides for {best}"
    fits_best = min(known, key=lambda r: r["aicc"])["law"]
    if fits_best == best:
        return f"held-out error decides for {best}, and AICc agrees"
    return f"held-out error decides for {best}; AICc, which only looks back, prefers {fits_best}"
