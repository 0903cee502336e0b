"""`predict` for a law of something else than the loss, and for an accuracy through a loss."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.commands._output import Format, print_csv, print_json
from scalekit.errors import UsageError

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult

_OPTIONS = {"N": "params", "D": "tokens", "C": "flops", "L": "loss"}


def answer(
    fit: FitResult, through: Path | None, asked: Mapping[str, str | None], shown: Format
) -> None:
    """Print what a law predicts at the options of `predict` that were given, by name.

    Raises:
        UsageError: An option says nothing to the law.
    """
    from scalekit.analysis.respond import respond, respond_through
    from scalekit.commands.fit import read_positive
    from scalekit.fit.prepare import law_of
    from scalekit.fit.run import read_fit

    first = fit if through is None else read_fit(through)
    takes = set(law_of(first).inputs)
    inputs = {}
    for symbol, option in _OPTIONS.items():
        text = asked.get(option)
        if text is None:
            continue
        if symbol not in takes:
            inner = ", ".join(law_of(first).inputs)
            way = "; give --loss, or --through the fit that predicts it" if "L" in takes else ""
            raise UsageError(
                f"--{option}: {first.law} is a law of {inner}{way or '; leave it out'}"
            )
        inputs[symbol] = read_positive(f"--{option}", text)
    entry = respond(fit, inputs) if through is None else respond_through(fit, first, inputs)
    _show(entry, law_of(fit).response, shown)


def _show(entry: Mapping[str, Any], response: str, shown: Format) -> None:
    from scalekit.analysis.digits import number, span

    ends, outside = entry["intervals"], entry["outside"]
    if shown is Format.JSON:
        print_json("predict", {"predictions": [entry]})
    elif shown is Format.CSV:
        row = {k: value for k, value in entry.items() if k not in ("intervals", "outside")}
        for name, pair in ends.items():
            row |= {f"{name}_low": pair["low"], f"{name}_high": pair["high"]}
        print_csv(list(row), [row])
    else:
        where = ", ".join(
            f"{name} {number(value)}"
            for name, value in entry.items()
            if name not in (response, "intervals", "outside", "through")
        )
        own, one_more = ends.get(response), ends.get(f"{response}_prediction")
        print(f"{response} at {where}: {number(entry[response])}")
        print(f"  90 % interval {span(own)}, of one more observation {span(one_more)}")
    for name, ratio in outside.items():
        print(
            f"warning: {name} is {ratio:.3g} times that of the nearest fitted run; the interval "
            "holds only if the law does",
            file=sys.stderr,
        )
