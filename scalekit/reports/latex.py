"""Tables for a paper: booktabs, one file each, to be taken in with input."""

from __future__ import annotations

from collections.abc import Mapping

from scalekit.reports.base import Facts, Report, TableOf

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "α": r"$\alpha$",  # noqa: RUF001
    "β": r"$\beta$",
    "κ": r"$\kappa$",
    "±": r"$\pm$",
    # In TeX's own encoding these three print as other signs.
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}


def files(facts: Facts) -> Mapping[str, str]:
    """Return `tables/NAME.tex`: parameters, optimum, approaches, left_out and runs."""
    tables = {
        "parameters": _first(facts.parameters, 3),
        "optimum": facts.optimum,
        "approaches": _first(facts.approaches, 5),
        "left_out": facts.dropped,
        "runs": facts.runs,
    }
    return {f"tables/{name}.tex": _table(table) for name, table in tables.items() if table.rows}


def _first(table: TableOf, count: int) -> TableOf:
    """Keep the first columns: what follows is for a page, not for a column of print."""
    return TableOf(table.columns[:count], [row[:count] for row in table.rows])


def _table(table: TableOf) -> str:
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}",
        r"\toprule",
        " & ".join(map(escape, table.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Write a text so that TeX prints it.

    >>> escape("50 % of N_1")
    '50 \\% of N\\_1'
    >>> escape("--drop")
    '-{}-drop'
    """
    # Two hyphens would become a dash.
    return "".join(_SPECIAL.get(c, c) for c in text).replace("--", "-{}-")


REPORT = Report("latex", files)
