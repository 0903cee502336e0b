"""Gather all that a report says from a study, its figures and the command that made it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.reports import _citations, _entropy, _provenance, _tables, _wording
from scalekit.reports._checklist import checklist
from scalekit.reports.base import Facts, FigureOf, Report
from scalekit.results.store import write_whole

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult


def gather(
    study: Study,
    figures: Sequence[FigureOf],
    skipped: Sequence[tuple[str, str]],
    command: str,
    *,
    doubts: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Facts:
    """Turn a study with a fit into facts; nothing here computes a number that is not in it.

    Args:
        study: What the report is of.
        figures: In order.
        skipped: Name of and reason for each figure that could not be drawn.
        command: What makes the report again.
        doubts: Of the runs and of how they were read, a sentence each.
        remarks: What was not done, and why.
    """
    fit = study.fit
    assert fit is not None
    fits = (fit, *fit.others)
    laws = [f.law for f in fits if f.approach == "parametric"]
    keys = _citations.used(
        [f.approach for f in fits], fit.law, study.params_kind, bootstrap=bool(fit.draws)
    )
    told = [*doubts, *_provenance.doubts(study), *fit.warnings, *_warnings_of_others(fit)]
    told = [_wording.plain_powers(sentence) for sentence in told if sentence]
    return Facts(
        title=study.name or "Scaling law",
        subtitle=_wording.subtitle(study),
        headline=_wording.headline(study),
        law=_wording.law_text(fit),
        law_note=_wording.law_note(fit),
        is_trusted=fit.is_trusted,
        holdout=_wording.holdout(fit),
        entropy=_entropy.known_entropy(study),
        warnings=[_begin(sentence) for sentence in dict.fromkeys(told)],
        parameters=_tables.parameters(fit),
        optimum=_tables.optimum(study),
        approaches=_tables.approaches(study, remarks),
        disagreement=_wording.disagreement(study),
        figures=tuple(figures),
        skipped=tuple(skipped),
        runs=_tables.runs(study),
        dropped=_tables.dropped(fit),
        options=_tables.options(fit),
        provenance=_provenance.provenance(study),
        checklist=checklist(study),
        command="\n".join(_commands(study, command)),
        bibtex=_citations.bibtex(keys, laws),
    )


def _begin(sentence: str) -> str:
    """Begin with a capital, but for a path, which is a name.

    >>> _begin("the runs differ"), _begin("runs.csv: 2 rows")
    ('The runs differ', 'runs.csv: 2 rows')
    """
    is_word = sentence.split(maxsplit=1)[0].isalpha()
    return sentence[0].upper() + sentence[1:] if is_word else sentence


def _warnings_of_others(fit: FitResult) -> list[str]:
    """List what the other fits warn of, each under its approach, and its law where that differs."""
    found = []
    for one in fit.others:
        who = _wording.APPROACHES.get(one.law) or _wording.APPROACHES.get(one.approach, one.law)
        who = f"{one.law}, {who}" if one.approach == "parametric" else who
        found += [f"{who}: {warning}" for warning in one.warnings]
    return found


def _commands(study: Study, command: str) -> list[str]:
    """List what makes the report again, the runs included where they are a sweep's."""
    path = str(study.table.meta.get("path", "")) if study.table is not None else ""
    words = ["scalekit", "sweep", f"{path}/sweep.yaml", "--out", path]
    sweep = [shlex.join(words)] if study.plan else []
    return [shlex.join(["cd", str(Path.cwd())]), *sweep, command]


def write(facts: Facts, folder: Path) -> list[Path]:
    """Write every kind of report into a folder; return the paths."""
    paths = []
    for name in registry.names("reports"):
        report: Report = registry.find("reports", name)
        for path, text in report.files(facts).items():
            write_whole(folder / path, text)
            paths.append(folder / path)
    return paths
