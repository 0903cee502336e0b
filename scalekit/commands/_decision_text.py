"""Answers of a law as lines for a terminal: digits by their interval, the interval beside them.

`fit --predict`, `predict` and `forecast` all print through this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.analysis.digits import own, times, told
from scalekit.analysis.recipes import levels
from scalekit.commands._output import format_table
from scalekit.fit.result import FitResult
from scalekit.quantities import write_count, write_flops, write_ratio

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of answers: its heading, the word of an entry, how the number is written."""

    head: str
    word: str
    kind: str = "plain"


FLOPS = Column("FLOPs", "flops", "flops")
PARAMS = Column("params", "params", "count")
TOKENS = Column("tokens", "tokens", "count")
RATIO = Column("tokens/param", "tokens_per_param")
EPOCHS = Column("epochs", "epochs")
LOSS = Column("loss", "loss")
WASTE = Column("wasted", "waste", "share")

OPTIMUM = (FLOPS, PARAMS, TOKENS, RATIO, EPOCHS, LOSS)
RUN = (FLOPS, PARAMS, TOKENS, RATIO, EPOCHS, LOSS, WASTE)
PRICE = (LOSS, FLOPS, PARAMS, TOKENS, RATIO, EPOCHS)


def optimum_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe the optimum at the asked budgets."""
    return ["optimum", *entry_table(OPTIMUM, entries)]


def miss_lines(entries: Sequence[Entry]) -> list[str]:
    """Say what half and double the optimal size would waste of each budget."""
    said = {}
    for entry in entries:
        parts = [told(entry[w], entry["intervals"].get(w), "share") for w in _MISSES]
        half, double = (f"{value}{_in(ends)}" for value, ends in parts)
        said[write_flops(entry["flops"])] = f"half the size wastes {half} of it, double {double}"
    if len(set(said.values())) == 1:
        # On a frontier that is a power law the waste is the same at every budget.
        return [f"  of a budget, {next(iter(said.values()))}"]
    return [f"  of {flops} FLOPs, {text}" for flops, text in said.items()]


_MISSES = ("waste_at_half", "waste_at_double")


def run_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe runs of given sizes, and what each wastes against the optimum of its budget."""
    lines = ["run" + "s" * (len(entries) > 1), *entry_table(RUN, entries)]
    if len(entries) == 1 and "waste" in entries[0]:
        lines.append(_waste_line(entries[0]))
    return lines


def _waste_line(entry: Entry) -> str:
    best = entry["params"] / entry["params_over_optimum"]
    value, ends = told(entry["waste"], entry["intervals"].get("waste"), "share")
    sure = f" ({ends})" if ends else ""
    return (
        f"  {write_count(entry['params'])} params are {times(entry['params_over_optimum'])} the "
        f"optimal {write_count(best)} at this budget: {value} of it{sure} buy nothing"
    )


def price_lines(entries: Sequence[Entry]) -> list[str]:
    """Describe the cheapest runs that reach the asked losses."""
    return ["cheapest to reach a loss", *entry_table(PRICE, entries)]


def served_lines(entry: Entry) -> list[str]:
    """Describe the model to train for serving, beside the reference whose loss it reaches."""
    before = entry["reference"]
    rows = []
    for name, one in (("reference", before), ("best", entry)):
        ends = one.get("intervals", {})
        params = told(one["params"], ends.get("params"), "count")
        tokens = told(one["tokens"], ends.get("tokens"), "count")
        if one is before:
            params, tokens = ((write_count(one[word]), "") for word in ("params", "tokens"))
        spent = [own(one[w], "flops") for w in ("training_flops", "inference_flops", "flops")]
        ratio = f"{one['tokens_per_param']:.3g}"
        rows.append([name, *params, *tokens, ratio, *spent])
    header = ("", "params", "90 %", "tokens", "90 %", "tokens/param")
    header = (*header, "training FLOPs", "inference FLOPs", "together")
    saved, ends = told(entry["saved"], entry["intervals"].get("saved"), "share")
    loss, loss_ends = told(entry["loss"], entry["intervals"].get("loss"))
    epochs = f" in {entry['epochs']:.3g} epochs" if "epochs" in entry else ""
    return [
        f"to serve {write_count(entry['inference_tokens'])} tokens at loss {loss}{_in(loss_ends)}",
        *format_table(header, rows, indent=2).splitlines(),
        f"  saves {saved}{_in(ends)} of the reference's FLOPs{epochs}; its training alone is "
        f"{times(entry['extrapolation'])} the largest fitted",
        f"  reference: {before['convention']}",
    ]


def _in(ends: str) -> str:
    return f" ({ends})" if ends else ""


def entry_table(columns: Sequence[Column], entries: Sequence[Entry]) -> list[str]:
    """Set entries as a table: what none of them has is left out."""
    kept = [c for c in columns if any(e.get(c.word) is not None for e in entries)]
    header: list[str] = []
    cells: list[list[str]] = [[] for _ in entries]
    for column in kept:
        has_interval = any(column.word in e.get("intervals", {}) for e in entries)
        header += [column.head, "90 %"] if has_interval else [column.head]
        for entry, row in zip(entries, cells, strict=True):
            row.extend(_cells(column, entry)[: 2 if has_interval else 1])
        if column.word == "loss" and any("loss_prediction" in e["intervals"] for e in entries):
            header.append("one run")
            for entry, row in zip(entries, cells, strict=True):
                row.append(told(entry["loss"], entry["intervals"].get("loss_prediction"))[1])
    header.append("extrapolation")
    for entry, row in zip(entries, cells, strict=True):
        row.append(times(entry.get("extrapolation")))
    return format_table(header, cells, indent=2).splitlines()


def _cells(column: Column, entry: Entry) -> list[str]:
    value = entry.get(column.word)
    if value is None:
        return ["-", ""]
    ends = entry["intervals"].get(column.word)
    if ends is None and column.word != "loss":
        # It was asked, or follows from what was: no more digits than a reader wants.
        write = {"count": lambda x: write_count(x, digits=4), "flops": write_flops}
        return [write.get(column.kind, lambda x: own(x, column.kind))(value), ""]
    return list(told(float(value), ends, column.kind))


def doubt_lines(entries: Sequence[Entry]) -> list[str]:
    """Say of each answer what it reaches beyond the fitted runs, and where no optimum was found."""
    lines = []
    for entry in entries:
        far = [f"{_WORDS.get(word, word)} {_off(ratio)}" for word, ratio in _unsaid(entry)]
        if far:
            lines.append(f"{_name(entry)}: outside the fitted runs, {', '.join(far)}")
        if "flops" in entry["intervals"] and _is_endless(entry):
            lines.append(
                f"loss {entry['loss']:g}: lies inside the interval of the irreducible loss; it may "
                "be out of reach of any compute"
            )
        if entry.get("at_search_end"):
            lines.append(
                f"{_name(entry)}: no optimum inside what was searched, the law's loss only falls "
                "towards one end; train no size for what it says there"
            )
    return list(dict.fromkeys(lines))  # what was asked twice is doubted once


def _is_endless(entry: Entry) -> bool:
    high = entry["intervals"]["flops"]["high"]
    return high is None or not math.isfinite(high)


_WORDS = {
    "flops": "FLOPs",
    "tokens_per_param": "tokens/param",
    "unique_tokens": "unique tokens",
    "model.d_model": "width",
    "model.n_layers": "depth",
}


def _unsaid(entry: Entry) -> list[tuple[str, float]]:
    """List what lies outside, without the budget above all others: the column says that."""
    outside = entry.get("outside", {})
    return [(w, r) for w, r in outside.items() if w != "flops" or r < 1]


def _off(ratio: float) -> str:
    if ratio > 1:
        return f"{times(ratio)} the largest"
    return f"{write_ratio(float(f'{ratio:.2g}'))} of the smallest"


def _name(entry: Entry) -> str:
    if entry.get("params") is None or entry.get("tokens") is None:
        return f"{write_flops(entry['flops'])} FLOPs" if entry.get("flops") else "this run"
    return f"{write_count(entry['params'])} params on {write_count(entry['tokens'])} tokens"


def form_lines(entries: Sequence[Entry]) -> list[str]:
    """Say how far the laws with a say spread at each answer."""
    formed = (entry for entry in entries if entry.get("form"))
    return list(dict.fromkeys(f"{_name(e)}: {form_words(e['form'])}" for e in formed))


def form_words(form: Mapping[str, Any]) -> str:
    """Name the laws with a say and what they span: N* of an optimum, and the loss."""
    parts = []
    if "params" in form:
        low, high = (write_count(v, digits=3) for v in form["params"])
        parts.append(f"N* {low} to {high}")
    low, high = (f"{v:.4g}" for v in form["loss"])
    return f"{', '.join([*parts, f'loss {low} to {high}'])} over {', '.join(form['laws'])}"


def basis_lines(fit: FitResult, method: str | None, *, is_table: bool = True) -> list[str]:
    """Say how params, FLOPs and loss are counted, and what the intervals are if there are any.

    `is_table` says whether the answer has the columns that `entry_table` adds.
    """
    data = fit.data
    kinds = [
        f"params {data.get('params_kind', 'unstated')}",
        f"FLOPs {data.get('flops_kind', 'unstated')}",
        f"loss {data.get('loss_unit', 'unstated')}",
    ]
    names = levels(fit)
    if names:
        kinds.insert(0, f"recipe {names[int(fit.diagnostics.get('given', {}).get('r', 1)) - 1]}")
    reach = "; extrapolation is over the largest fitted FLOPs" if is_table else ""
    said = [f"{', '.join(kinds)}{reach}"]
    if method is None:
        return [*said, "no intervals: the fit holds no covariance"]
    single = "; one run: the prediction interval of a single run" if is_table else ""
    return [*said, f"90 % intervals by {method}{single}"]
