"""What a fit rests on, as lines for a terminal: design, noise, rivals, roll-out, comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalekit.analysis.digits import times
from scalekit.analysis.words import is_tied
from scalekit.commands._decision_text import form_words
from scalekit.commands._output import format_table
from scalekit.fit.result import FitResult
from scalekit.quantities import write_count, write_flops


def evidence_lines(fit: FitResult) -> list[str]:
    """Describe what one fit rests on, each line only where the fit knows it."""
    known = fit.diagnostics
    lines = []
    if known.get("design"):
        lines.append(_design(known["design"]))
    if known.get("noise_parts"):
        lines.append(_noise(known["noise_parts"]))
    if known.get("objectives") and not is_tied(fit):
        told = [f"{n} {v['exponent_params']:.4f}" for n, v in known["objectives"].items()]
        lines.append(f"beside    N* ~ C^a by other objectives: {', '.join(told)}")
    if known.get("influence", {}).get("runs"):
        lines.append(_influence(known["influence"], is_tied(fit)))
    if known.get("bias"):
        lines.append(_bias(known["bias"]))
    lines += dict.fromkeys(line for entry in fit.optimum for line in _split(entry))
    return lines


def _design(design: Mapping[str, Any]) -> str:
    parts = [f"{design['n_points']} different points, rank {design['rank']} of {design['n_free']}"]
    if design.get("tokens_per_param"):
        low, high = design["tokens_per_param"]
        text = f"tokens per parameter {low:.3g} to {high:.3g}"
        reach = design.get("ratio_over_optimum")
        if reach:
            text += f", {reach[0]:.2g} to {reach[1]:.2g} times the optimum"
        parts.append(text)
    if design.get("exponent_sd") is not None:
        parts.append(f"leaves a at {design['exponent_sd']:.2g} for 0.5 % noise")
    return "design    " + "; ".join(parts)


def _noise(parts: Mapping[str, Any]) -> str:
    text = f"noise     {parts['total']:.2%} a run"
    if parts.get("evaluation") is not None:
        text += _evaluation(parts["evaluation"], parts["total"])
    if parts.get("repeats") is not None:
        text += f"; repeats differ by {parts['repeats']:.2%} ({parts['repeats_dof']} to spare)"
    return text


def _evaluation(error: float, total: float) -> str:
    """Say what is assumed of the evaluation's error, and what the scatter would be otherwise."""
    text = f"; the evaluation's error, {error:.2%}, is taken as shared, by one validation set"
    if error >= total:
        return text
    rest = (total**2 - error**2) ** 0.5
    return f"{text}: were it each run's own, {rest:.2%} would be left for seeds and law"


def _influence(known: Mapping[str, Any], tied: bool) -> str:
    first = known["runs"][0]
    names = ", ".join(first["runs"][:3]) + (", ..." if len(first["runs"]) > 3 else "")
    moved = "" if tied else f" and a moves by {first['shift_in_errors']:+.2f} standard errors"
    return (
        f"influence of {known['n_left_out']}, {names} counts most: without it N* at "
        f"{write_flops(known['flops'])} FLOPs is {first['params_ratio']:.3f} times as large{moved}"
    )


def _bias(bias: Mapping[str, Any]) -> str:
    misses = [f"{e['params']:+.1%} at {write_flops(e['flops'])} FLOPs" for e in bias["optimum"]]
    return (
        f"bias      on noiseless {bias['law']} runs at these sizes: N* {', '.join(misses)}, "
        f"a {bias['exponent_params']:+.4f}"
    )


def _split(entry: Mapping[str, Any]) -> list[str]:
    """Say what a run at an optimum may miss by, and how far the forms of laws spread there."""
    at = f"at {write_flops(entry['flops'])} FLOPs ({times(entry['extrapolation'])})"
    lines = []
    parts = entry.get("errors")
    if parts:
        told = [f"{name} {value:.2%}" for name, value in parts.items() if value is not None]
        lines.append(f"errors    of one run's loss {at}: {', '.join(told)}")
    form = entry.get("form")
    if form and "loss" in form:
        lines.append(f"forms     {at}: {form_words(form)}")
    return lines


def compare_lines(rows: Sequence[Mapping[str, Any]], sentences: Sequence[str]) -> list[str]:
    """Put every fit of a table side by side, and say what decides between them."""
    far = next((r["flops"] for r in rows if r["flops"] is not None), None)
    at = f" at {write_flops(far)}" if far else ""
    header = ("law", "status", "a", "90 % interval", "held out", "AICc", f"N*{at}", f"loss{at}")
    cells = [
        (
            row["law"],
            str(row["status"]),
            _or_dash(row["exponent_params"], ".4f"),
            _interval(row["low"], row["high"]),
            _or_dash(row["held_out"], ".3%"),
            _or_dash(row["aicc"], ".1f"),
            "-" if row["params"] is None else write_count(row["params"], digits=4),
            _or_dash(row["loss"], ".5g"),
        )
        for row in rows
    ]
    # A column that no fit fills is left out: laws of other columns have no optimum.
    kept = [k for k in range(len(header)) if any(row[k] != "-" for row in cells)]
    header, cells = (
        tuple(header[k] for k in kept),
        [tuple(row[k] for k in kept) for row in cells],
    )
    return ["side by side", *format_table(header, cells, indent=2).splitlines(), *sentences]


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "-"
    return "set beforehand" if low == high else f"{low:.4f} to {high:.4f}"


def rollout_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tell how each law, fitted below each cut, predicted what lay above it."""
    header = ("up to", "law", "runs", "a", "next budget", "all above", "reach", "no law", "status")
    cells = [
        (
            write_flops(e["cut"]),
            e["law"],
            f"{e['n_train']} + {e['n_test']}",
            _or_dash(e["exponent_params"], ".4f"),
            _or_dash(e["next_mape"], ".3%"),
            _or_dash(e["mape"], ".3%"),
            times(e["extrapolation"] or None),
            _or_dash(e["baseline_mape"], ".3%"),
            str(e["status"]),
        )
        for e in entries
    ]
    return ["roll-out, mean absolute errors", *format_table(header, cells, indent=2).splitlines()]


def _or_dash(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
