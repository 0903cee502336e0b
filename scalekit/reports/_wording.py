"""The report's sentences: the law with its numbers, what to train, the held-out error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.analysis import digits
from scalekit.analysis.recipes import efficiencies, levels
from scalekit.analysis.study import Study
from scalekit.analysis.words import is_tied, local_words, loss_words, params_words, symbol
from scalekit.fit.holdout import is_covered_too_rarely
from scalekit.fit.intervals import LEVEL
from scalekit.fit.result import FitResult, FitStatus, Interval
from scalekit.quantities import count_words, write_ratio
from scalekit.reports import _numbers
from scalekit.reports._numbers import NOTHING

APPROACHES = {
    "parametric": "parametric (approach 3)",
    "isoflop": "isoFLOP parabolas (approach 2)",
    "isoflop_akima": "isoFLOP, Akima's curves (approach 2)",
    "envelope": "envelope (approach 1)",
}


def ends(value: Any) -> tuple[float | None, float | None]:
    """Return the two ends of an interval, however it is kept."""
    if isinstance(value, Interval):
        return value.low, value.high
    if isinstance(value, Mapping):
        return value.get("low"), value.get("high")
    return None, None


def law_text(fit: FitResult) -> str:
    """Write the law out with its fitted numbers, to five digits at least."""
    if fit.status is FitStatus.UNIDENTIFIED:
        return f"{fit.law}: not identified by these runs"
    if fit.approach != "parametric" or fit.law not in registry.names("laws"):
        return ", ".join(f"{symbol(k)} = {_numbers.number(v)}" for k, v in fit.theta.items())
    text = registry.find("laws", fit.law).formula
    values = {n: digits.number(v, *ends(fit.intervals.get(n))) for n, v in fit.theta.items()}
    words = []
    for word in _split(text):
        # The first E, A, ... of a formula is the parameter; what is not one stays a symbol.
        words.append(values.get(word, word))
    return "".join(words)


def _split(formula: str) -> list[str]:
    """Split a formula into names and what stands between them.

    >>> _split("E + A N^-alpha")
    ['E', ' + ', 'A', ' ', 'N', '^-', 'alpha']
    """
    out: list[str] = []
    for character in formula:
        is_word = character.isalnum() or character == "_"
        if out and is_word == (out[-1][-1].isalnum() or out[-1][-1] == "_"):
            out[-1] += character
        else:
            out.append(character)
    return out


def headline(study: Study) -> list[str]:
    """Say the main numbers: exponents and the optimum at the largest asked budget."""
    fit = study.fit
    assert fit is not None
    if fit.status is FitStatus.UNIDENTIFIED:
        return ["No optimum and no exponent is given: many laws describe these runs equally well."]
    level = next((i.level for i in fit.intervals.values()), LEVEL)
    out = []
    if fit.exponents:
        a, b = fit.exponents.get("params", {}), fit.exponents.get("tokens", {})
        sure = (
            "set beforehand and not by the runs"
            if is_tied(fit)
            else f"{100 * level:.0f} % intervals"
        )
        out.append(
            "Compute-optimal parameters grow as C^"
            f"{_numbers.with_interval(a.get('value'), *ends(a))} and tokens as C^"
            f"{_numbers.with_interval(b.get('value'), *ends(b))} ({sure})"
            f"{local_words(fit)}."
        )
    out += [optimum_sentence(study, row) for row in fit.optimum]
    return [*out, *recipes_sentence(fit)]


def recipes_sentence(fit: FitResult) -> list[str]:
    """Say which recipe the optimum is of, and what compute is worth under each other."""
    reference, *others = levels(fit) or ("",)
    if not others or fit.status is FitStatus.UNIDENTIFIED:
        return []
    told = []
    for one in efficiencies(fit):
        worth = _numbers.with_interval(one["compute"], *ends(one["intervals"].get("compute")))
        told.append(f"{one['recipe']} {worth}")
    return [
        f"All this is of the recipe {reference}. With the same compute another recipe does what "
        f"{reference} does with this many times as much: {', '.join(told)}."
    ]


def optimum_sentence(study: Study, row: Mapping[str, Any]) -> str:
    """Say what to train at one budget, and how far that is from what was measured."""
    between = row.get("intervals", {})
    size = _numbers.count(row.get("params"), *ends(between.get("params")))
    tokens = _numbers.count(row.get("tokens"), *ends(between.get("tokens")))
    ratio = _numbers.with_interval(
        row.get("tokens_per_param"), *ends(between.get("tokens_per_param"))
    )
    text = (
        f"At {_numbers.flops(row.get('flops'))} FLOPs: {size} parameters "
        f"({params_words(study.params_kind)}) on {tokens} tokens, {ratio} tokens per parameter"
    )
    if row.get("loss") is not None:
        loss = _numbers.with_interval(row["loss"], *ends(between.get("loss")))
        text += f", loss {loss} ({loss_words(study.loss_unit)})"
    factor = row.get("extrapolation")
    if factor is not None and factor > 1.0001:
        text += f"; an extrapolation to {write_ratio(factor)} times the largest measured compute"
    return " ".join([f"{text}.", *_doubts(row)])


_SIZES = {"params": "parameters", "tokens": "tokens", "tokens_per_param": "tokens per parameter"}


def _doubts(row: Mapping[str, Any]) -> list[str]:
    """Say what an optimum reaches beyond the fitted runs, and where the laws do not agree on it."""
    found = []
    if row.get("at_search_end"):
        found.append(
            "There the law's loss only falls towards one end of what was searched: the size shown "
            "is no optimum."
        )
    far = [
        f"{_SIZES[word]} {_times(ratio)}"
        for word, ratio in (row.get("outside") or {}).items()
        if word in _SIZES
    ]
    if far:
        found.append(f"That lies outside the fitted runs: {', '.join(far)}.")
    form = row.get("form")
    if form and "loss" in form:
        low, high = (_numbers.count(end) for end in form["params"])
        loss = " to ".join(f"{end:.4g}" for end in form["loss"])
        found.append(
            f"By the form of the law alone N* runs from {low} to {high} and the loss from {loss} "
            f"({', '.join(form['laws'])})."
        )
    return found


def _times(ratio: float) -> str:
    if ratio > 1:
        return f"{write_ratio(ratio)} times the largest"
    return f"{write_ratio(float(f'{ratio:.2g}'))} of the smallest"


def subtitle(study: Study) -> str:
    """Say in a line what was fitted to what."""
    fit = study.fit
    assert fit is not None
    used = study.flops[study.is_used]
    words = [count_words(fit.n_runs, "run")]
    if study.budgets.size:
        words[0] += f" at {count_words(study.budgets.size, 'budget')}"
    if used.size:
        low, high = _numbers.flops(float(used.min())), _numbers.flops(float(used.max()))
        words.append(f"{low} to {high} FLOPs" if low != high else f"{low} FLOPs")
    words += [f"N: {params_words(study.params_kind)}", f"loss: {loss_words(study.loss_unit)}"]
    return f"{fit.law}; {'; '.join(words)}"


def holdout(fit: FitResult) -> str:
    """Say how well the law predicted runs that it did not see, in words."""
    held = fit.holdout
    if not held or not held.get("n_runs"):
        return "No runs were held out, so how well the law extrapolates is not known."
    rule = plain_powers(held.get("rule", "rule not stated"))
    text = f"Held-out check, {rule}: "
    if held["n_runs"] == 1:
        text += "fitted without this run, the law misses its loss by "
        text += _numbers.percent(held.get("mape"))
    else:
        text += (
            f"fitted without these {held['n_runs']} runs, the law predicts their losses with a "
            f"mean absolute error of {_numbers.percent(held.get('mape'))}"
        )
        if held.get("worst") is not None:
            text += f" and at worst {_numbers.percent(abs(held['worst']))}"
    bias = held.get("bias")
    if bias is not None:
        side = "worse" if bias > 0 else "better"
        what, mean = ("run", "") if held["n_runs"] == 1 else ("runs", " on average")
        text += f"; the {what} came out {_numbers.percent(abs(bias))} {side} than predicted{mean}"
    return f"{text}. {_covered(held)}".strip()


def plain_powers(text: str) -> str:
    """Write 8e+11 as the rest of the report does.

    >>> plain_powers("largest-budget (budget 8e+11 FLOPs)")
    'largest-budget (budget 8e11 FLOPs)'
    """
    return re.sub(r"(\d)e\+0*(\d)", r"\1e\2", str(text))


def _covered(held: Mapping[str, Any]) -> str:
    """Say how many held-out runs lie inside their intervals, and whether that is too few."""
    if held.get("covered") is None:
        return ""
    inside = round(held["covered"] * held["n_runs"])
    level = 100 * held.get("level", LEVEL)
    if held["n_runs"] == 1:
        return f"It lies {'inside' if inside else 'outside'} its {level:.0f} % prediction interval."
    text = f"{inside} of {held['n_runs']} lie inside their {level:.0f} % prediction intervals"
    if is_covered_too_rarely(held):
        return (
            f"Only {text}, fewer than chance allows: beyond the fitted budgets they are too narrow."
        )
    return f"{text}."


def law_note(fit: FitResult) -> list[str]:
    """Say what was fitted, by which approach and how it ended."""
    out = []
    if fit.approach == "parametric" and fit.law in registry.names("laws"):
        law = registry.find("laws", fit.law)
        out.append(f"Law {fit.law}: {law.formula} ({law.source}).")
    name = APPROACHES.get(fit.approach, fit.approach)
    out.append(f"Approach: {name}, on {count_words(fit.n_runs, 'run')}.")
    ended = "passed its gate" if fit.status is FitStatus.CONVERGED else "did not pass its gate"
    out.append(f"The fit {ended}: {fit.status}, {fit.message.rstrip('.')}.")
    return out


def disagreement(study: Study) -> str:
    """Say how far the approaches' exponents lie apart, against their own intervals."""
    fit = study.fit
    assert fit is not None
    first: dict[str, FitResult] = {}
    for one in (fit, *fit.others):
        # Other laws are compared by their errors; of approach 2 each kind of curve speaks.
        first.setdefault(one.law if one.law in APPROACHES else one.approach, one)
    found = []
    for name in (key for key in APPROACHES if key in first):
        is_told = first[name].status is not FitStatus.UNIDENTIFIED
        part = first[name].exponents.get("params", {}) if is_told else {}
        if part.get("value") is not None:
            found.append((name.replace("_", " "), float(part["value"]), *ends(part)))
    if len(found) < 2:
        count = "Only one" if found else "No"
        return f"{count} approach gave an exponent, so there is nothing to compare."
    values = [v for _, v, _, _ in found]
    kinds = len({name.partition(" ")[0] for name, *_ in found})
    ways = (
        f"{kinds} approaches" if kinds == len(found) else f"{len(found)} fits of {kinds} approaches"
    )
    text = f"The exponents of N* by {ways} differ by {np.ptp(values):.2g}"
    _, _, low, high = found[0]
    if low is None or high is None or not _numbers.is_interval(low, high):
        return text + "."
    outside = [a for a, v, _, _ in found[1:] if not low <= v <= high]
    if not outside:
        return f"{text}; all lie inside the {found[0][0]} fit's interval."
    return (
        f"{text}; outside the {found[0][0]} fit's interval: {', '.join(outside)}. Approaches 1 and "
        "2 are biased where a valley is wide, off-centre or lopsided, even without noise."
    )


def or_nothing(text: Any) -> str:
    """Return a cell's text, a dash where it is empty."""
    return str(text) if text not in (None, "") else NOTHING
