"""A fit as lines for a terminal: numbers rounded to what the runs support, intervals in text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scalekit.commands._evidence_text import evidence_lines
from scalekit.commands._output import format_table
from scalekit.fit.result import FitResult, FitStatus
from scalekit.quantities import write_count, write_flops

_FEWEST_DIGITS = 5
_MOST_DIGITS = 12


def number(value: Any, low: Any = None, high: Any = None) -> str:
    """Write a number with two digits below its interval's half-width, and never fewer than five.

    Rounding a law's parameters to what their errors justify moves its optimum by far more than
    those errors do, because they are correlated.

    >>> number(0.347310499, 0.32, 0.37), number(None)
    ('0.34731', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    digits = _FEWEST_DIGITS
    if low is not None and high is not None and high > low and value:
        digits = max(digits, 2 + math.ceil(math.log10(abs(2 * value) / (high - low))))
        digits = min(digits, _MOST_DIGITS)
    return f"{value:.{digits}g}"


def span(ends: Mapping[str, Any] | None, write: Any = None) -> str:
    """Write an interval, or a dash."""
    if not ends or ends.get("low") is None or ends.get("high") is None:
        return "-"
    low, high = float(ends["low"]), float(ends["high"])
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    if write is None:
        digits = 3
        if high > low and high:
            digits = min(max(3, 2 + math.ceil(math.log10(abs(high) / (high - low)))), _MOST_DIGITS)
        return f"{low:.{digits}g} to {high:.{digits}g}"
    return f"{write(low)} to {write(high)}"


def fit_lines(fit: FitResult) -> list[str]:
    """Describe a fit and its others."""
    lines = _one(fit)
    for other in fit.others:
        lines += ["", *_one(other)]
    return lines


def _one(fit: FitResult) -> list[str]:
    lines = [f"{fit.law}  {_formula(fit)}  ({fit.n_runs} runs{_dropped(fit)})"]
    lines.append(f"status    {fit.status}: {fit.message}")
    if fit.objective.get("value") is not None:
        delta = fit.objective.get("delta")
        at = f", delta {delta:.3g}" if delta else ""
        lines.append(f"objective {fit.objective['name']}{at}: {fit.objective['value']:.10g}")
    lines += _parameters(fit)
    lines += exponent_lines(fit)
    if fit.optimum:
        lines += optimum_lines(fit.optimum)
    if fit.holdout:
        lines += holdout_lines(fit)
    return [*lines, *evidence_lines(fit)]


def _formula(fit: FitResult) -> str:
    if fit.approach != "parametric":
        return {
            "isoflop": "approach 2, a parabola a budget",
            "isoflop_akima": "approach 2, Akima's curve a budget",
            "envelope": "approach 1, the hull",
        }[fit.law]
    from scalekit import registry

    return registry.find("laws", fit.law).formula


def _dropped(fit: FitResult) -> str:
    if not fit.dropped:
        return ""
    reasons = [str(d["reason"]) for d in fit.dropped]
    counts = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
    return f", {len(reasons)} left out: {counts}"


def _parameters(fit: FitResult) -> list[str]:
    rows = []
    for name, value in fit.theta.items():
        found = fit.intervals.get(name)
        ends = None if found is None else {"low": found.low, "high": found.high}
        limits = (found.low, found.high) if found else (None, None)
        method = found.method if found else ""
        rows.append([name, number(value, *limits), span(ends), method])
    return format_table(("", "value", "90 % interval", "by"), rows, indent=2).splitlines()


def exponent_lines(fit: FitResult) -> list[str]:
    """Describe how the optimum grows with compute."""
    if not fit.exponents or fit.status is FitStatus.UNIDENTIFIED:
        return []
    parts = []
    for name, symbol in (("params", "N*"), ("tokens", "D*")):
        found = fit.exponents.get(name)
        if found:
            ends = f" ({span(found)})" if found.get("low") is not None else ""
            parts.append(f"{symbol} ~ C^{found['value']:.4f}{ends}")
    return ["frontier  " + ", ".join(parts)]


def optimum_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the optimum at the asked budgets."""
    header = ("FLOPs", "params", "", "tokens", "", "tokens/param", "", "loss", "", "extrapolation")
    rows = []
    for entry in entries:
        ends = entry.get("intervals", {})
        rows.append(
            [
                write_flops(entry["flops"]),
                write_count(entry["params"], digits=4),
                _bracket(ends.get("params"), write_count),
                write_count(entry["tokens"], digits=4),
                _bracket(ends.get("tokens"), write_count),
                f"{entry['tokens_per_param']:.4g}",
                _bracket(ends.get("tokens_per_param")),
                number(entry.get("loss")),
                _bracket(ends.get("loss")),
                f"{entry['extrapolation']:.3g}x",
            ]
        )
    return ["optimum", *format_table(header, rows, indent=2).splitlines()]


def _bracket(ends: Mapping[str, Any] | None, write: Any = None) -> str:
    text = span(ends, write)
    return "" if text == "-" else f"({text})"


def holdout_lines(fit: FitResult) -> list[str]:
    """Say how well the runs that were held out were predicted."""
    held = fit.holdout
    ratio = held.get("extrapolation")
    far = f", {ratio:.3g}x the fitted compute" if ratio else ""
    return [
        f"held out  {held['rule']}: {held['n_runs']} runs{far}; mean absolute error "
        f"{held['mape']:.3%}, bias {held['bias']:+.3%}, worst {held['worst']:+.3%}, "
        f"{held['covered']:.0%} inside their {held['level']:.0%} prediction interval; the best "
        f"loss seen so far misses by {held['baseline_mape']:.3%}"
    ]
