"""What an analysis leaves: a table, a fit, figures and reports in a folder, and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalekit.analysis.study import Study
    from scalekit.fit.result import FitResult

TABLE = "data.csv"


def write_all(
    study: Study,
    folder: Path,
    kinds: Sequence[str],
    command: str,
    *,
    doubts: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Write table, fit.json, the figures and the reports, which repeat what was said aloud."""
    from scalekit.fit.run import write_fit
    from scalekit.plots import _write
    from scalekit.reports import _facts
    from scalekit.reports.base import FigureOf
    from scalekit.results.table import write_table

    assert study.table is not None
    assert study.fit is not None
    write_table(study.table, folder / TABLE)
    # The fit names the table that lies beside it, in which all that was mapped stands already.
    asked = {name: study.fit.data.get(name) for name in ("path", "mapping", "reading")}
    data = {**study.fit.data, "path": TABLE, "mapping": {}, "reading": {}, "collected": asked}
    write_fit(replace(study.fit, data=data), folder / "fit.json")
    figures, skipped = [], []
    asked_kinds = list(dict.fromkeys([*kinds, "svg", _write.PAGE]))
    for drawn in _write.draw_all(_write.plot_names(), study, asked_kinds):
        if isinstance(drawn, _write.Skipped):
            skipped.append((drawn.name, drawn.reason))
            continue
        files = drawn.files
        figures.append(
            FigureOf(drawn.name, drawn.title, drawn.caption, files["svg"], files[_write.PAGE])
        )
        # report.md shows the SVG files, so they are always written.
        kept = {kind: files[kind] for kind in files if kind in kinds or kind == "svg"}
        _write.save(replace(drawn, files=kept), folder / "figures")
    facts = _facts.gather(study, figures, skipped, command, doubts=doubts, remarks=remarks)
    _facts.write(facts, folder)


def summary(study: Study, folder: Path) -> list[str]:
    """Say in a few lines what came out and where the report is."""
    from scalekit.reports import _entropy, _wording

    fit = study.fit
    assert fit is not None
    lines = [f"law         {_wording.law_text(fit)}"]
    lines += [f"            {sentence}" for sentence in _wording.headline(study)]
    lines += [f"held out    {_wording.holdout(fit)}"]
    entropy = _entropy.known_entropy(study)
    lines += [f"entropy     {entropy}"] if entropy else []
    lines += [f"approaches  {_wording.disagreement(study)}"]
    lines += [f"status      {fit.status}: {fit.message}"]
    return [*lines, f"report      {folder / 'report.html'}"]


def in_short(fit: FitResult, folder: Path) -> dict[str, Any]:
    """Return the same as a JSON value."""
    value = fit.to_json()
    kept = ("law", "approach", "theta", "intervals", "exponents", "optimum", "status", "message")
    held = {k: v for k, v in fit.holdout.items() if k not in ("rows", "theta")}
    return {
        **{name: value[name] for name in kept},
        "holdout": held,
        "report": str(folder / "report.html"),
        "fit": str(folder / "fit.json"),
    }
