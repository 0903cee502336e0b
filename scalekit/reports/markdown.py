"""The report as Markdown, as a repository shows it; figures are the files beside it."""

from __future__ import annotations

from collections.abc import Mapping

from scalekit.reports.base import Facts, Report, TableOf


def files(facts: Facts) -> Mapping[str, str]:
    """Return the page as `report.md`."""
    parts = [
        f"# {facts.title}",
        facts.subtitle,
        f"`{facts.law}`",
        *facts.headline,
        facts.holdout,
        facts.entropy,
        *facts.law_note,
        _bullets("## Warnings", facts.warnings),
        "## The law and what it says to train",
        _table(facts.parameters),
        _table(facts.optimum),
        "### Approaches side by side",
        _table(facts.approaches),
        facts.disagreement,
        "## Figures",
        *(
            f"![{f.title}](figures/{f.name}.svg)\n\n**{f.title}.** {f.caption}"
            for f in facts.figures
        ),
        _bullets("Not drawn:", [f"{name}: {reason}" for name, reason in facts.skipped]),
        "## Provenance",
        _table(TableOf(("what", "value"), facts.provenance)),
        f"To make this again:\n\n```sh\n{facts.command}\n```",
        "## Checklist",
        "The questions of Li et al. 2025 (arXiv:2502.18969); a blank is not recorded anywhere.",
        *_checklist(facts),
        "## Rows left out",
        _table(facts.dropped),
        "## Options and checks of the fit",
        _table(facts.options),
        "## Runs",
        _table(facts.runs),
        f"## Sources of the methods\n\n```bibtex\n{facts.bibtex}\n```",
    ]
    return {"report.md": "\n\n".join(p for p in parts if p) + "\n"}


def _checklist(facts: Facts) -> list[str]:
    out = []
    for part, answers in facts.checklist.items():
        lines = [
            f"- [{'x' if a.answer else ' '}] {a.question} {_safe(a.answer) or '**blank**'}"
            for a in answers
        ]
        out += [f"### {part}", "\n".join(lines)]
    return out


def _bullets(title: str, sentences) -> str:
    if not sentences:
        return ""
    return title + "\n\n" + "\n".join(f"- {_safe(s)}" for s in sentences)


def _table(table: TableOf) -> str:
    lines = []
    if table.rows:
        lines = [_row(table.columns), "|" + "---|" * len(table.columns), *map(_row, table.rows)]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines).strip()


def _row(cells) -> str:
    return "| " + " | ".join(_safe(str(c)) for c in cells) + " |"


def _safe(text: str) -> str:
    r"""Write a text so that Markdown shows it: no bar parts a cell, no name is a tag.

    >>> _safe("a|b <x>")
    'a\\|b \\<x>'
    """
    return text.replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


REPORT = Report("markdown", files)
