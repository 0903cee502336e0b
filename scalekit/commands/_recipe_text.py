"""What recipes are worth against each other, as lines for a terminal."""

from __future__ import annotations

from scalekit.analysis.digits import number, span
from scalekit.commands._output import format_table
from scalekit.fit.result import FitResult, FitStatus


def recipe_lines(fit: FitResult) -> list[str]:
    """Describe each recipe's worth with its intervals; nothing for a law without recipes."""
    from scalekit.analysis.recipes import WORTH, efficiencies, levels

    if not levels(fit) or fit.status is FitStatus.UNIDENTIFIED:
        return []
    entries = efficiencies(fit)
    header = ("", *(word for name in WORTH for word in (name, "")))
    rows = []
    for entry in entries:
        row = [entry["recipe"]]
        for name in WORTH:
            ends = entry["intervals"].get(name)
            limits = (ends["low"], ends["high"]) if ends else (None, None)
            row += [number(entry[name], *limits), f"({span(ends)})"]
        rows.append(row)
    return [
        f"recipes   worth in units of {entries[0]['reference']}, which the optimum is of",
        *format_table(header, rows, indent=2).splitlines(),
    ]
