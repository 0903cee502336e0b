"""A fit as lines for a terminal: numbers rounded to what the runs support, intervals in text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from scalekit.analysis.digits import number, span, times
from scalekit.analysis.words import interval_method, is_tied, local_words
from scalekit.commands._decision_text import doubt_lines, optimum_lines
from scalekit.commands._evidence_text import evidence_lines
from scalekit.commands._output import format_table
from scalekit.fit.holdout import is_covered_too_rarely
from scalekit.fit.result import FitResult, FitStatus, Interval
from scalekit.quantities import count_words

_AXIS_NAMES = {"params_exponent": "exponent_params", "tokens_exponent": "exponent_tokens"}

_REASONS = 3
"""Reasons for which runs were left out that fit one line; cells of a sweep have one each."""


def fit_lines(fit: FitResult) -> list[str]:
    """Describe a fit and its others."""
    lines = _one(fit)
    for other in fit.others:
        lines += ["", *_one(other)]
    return lines


def _one(fit: FitResult) -> list[str]:
    lines = [f"{fit.law}  {_formula(fit)}  ({count_words(fit.n_runs, 'run')}{_dropped(fit)})"]
    lines.append(f"status    {fit.status}: {fit.message}")
    if fit.objective.get("value") is not None:
        delta = fit.objective.get("delta")
        at = f", delta {delta:.3g}" if delta else ""
        lines.append(f"objective {fit.objective['name']}{at}: {fit.objective['value']:.10g}")
    if fit.theta:
        lines += _parameters(fit)
    lines += exponent_lines(fit)
    if fit.optimum:
        method = interval_method(fit)
        by = [f"  90 % intervals by {method}"] if method else []
        lines += [*optimum_lines(fit.optimum), *by, *doubt_lines(fit.optimum)]
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
    reasons = Counter(str(d["reason"]) for d in fit.dropped).most_common()
    told = [f"{n} {reason}" for reason, n in reasons[:_REASONS]]
    rest = reasons[_REASONS:]
    if rest:
        others = count_words(len(rest), "other reason")
        told.append(f"{sum(n for _, n in rest)} for {others}, each in fit.json")
    return f", {len(fit.dropped)} left out: {', '.join(told)}"


def interval_of(fit: FitResult, name: str) -> Interval | None:
    """Return the interval of a parameter, if it has one.

    Approaches 1 and 2 have an exponent for each axis, and its interval under that name.
    """
    return fit.intervals.get(name) or fit.intervals.get(_AXIS_NAMES.get(name, ""))


def _parameters(fit: FitResult) -> list[str]:
    rows = []
    for name, value in fit.theta.items():
        found = interval_of(fit, name)
        ends = None if found is None else {"low": found.low, "high": found.high}
        limits = (found.low, found.high) if found else (None, None)
        method = found.method if found else ""
        told = _exponent_span(ends) if ends and name in _AXIS_NAMES else span(ends)
        rows.append([name, number(value, *limits), told, method])
    return format_table(("", "value", "90 % interval", "by"), rows, indent=2).splitlines()


def exponent_lines(fit: FitResult) -> list[str]:
    """Describe how the optimum grows with compute."""
    if not fit.exponents or fit.status is FitStatus.UNIDENTIFIED:
        return []
    parts = []
    for name, symbol in (("params", "N*"), ("tokens", "D*")):
        found = fit.exponents.get(name)
        if found:
            parts.append(f"{symbol} ~ C^{found['value']:.4f}{_exponent_ends(found)}")
    by_form = ", set beforehand and not by the runs" if is_tied(fit) else ""
    return [f"frontier  {', '.join(parts)}{by_form}{local_words(fit)}"]


def _exponent_ends(found: Mapping[str, float]) -> str:
    if found.get("low") is None or found["low"] == found["high"]:
        return ""
    return f" ({_exponent_span(found)})"


def _exponent_span(found: Mapping[str, float]) -> str:
    return f"{found['low']:.4f} to {found['high']:.4f}"


def holdout_lines(fit: FitResult) -> list[str]:
    """Say how well the runs that were held out were predicted."""
    held = fit.holdout
    ratio = held.get("extrapolation")
    far = f", {times(ratio)} the fitted compute" if ratio else ""
    few = ", fewer than chance allows" if is_covered_too_rarely(held) else ""
    return [
        f"held out  {held['rule']}: {count_words(held['n_runs'], 'run')}{far}; mean absolute error "
        f"{held['mape']:.3%}, bias {held['bias']:+.3%}, worst {held['worst']:+.3%}, "
        f"{held['covered']:.0%} inside their {held['level']:.0%} prediction interval{few}; the "
        f"best loss seen so far misses by {held['baseline_mape']:.3%}"
    ]
