"""scalekit plot: draw figures of a fit, a table or a sweep, each with a CSV of what it shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._source import tell_remarks
from scalekit.errors import InputError


def plot(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="a fit.json, a table of runs or a sweep's folder"),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="figures; all that can be drawn unless named"),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the figures")] = Path(
        "figures"
    ),
    formats: Annotated[
        str, typer.Option("-t", "--type", help="formats, of pdf, svg, png")
    ] = "pdf,svg,png",
) -> None:
    """Draw figures of a fit, a table or a sweep."""
    from scalekit.analysis.gather import gather
    from scalekit.plots import _write

    asked = names or []
    chosen = _write.chosen_names(asked)
    kinds = _write.chosen_formats(formats)
    study, notes = gather(source)
    if study.table is not None:
        tell_remarks(study.table)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    skipped = []
    for drawn in _write.draw_all(chosen, study, kinds):
        if isinstance(drawn, _write.Skipped):
            skipped.append(drawn)
            print(f"skipped {drawn.name}: {drawn.reason}", file=sys.stderr)
            continue
        for path in _write.save(drawn, out):
            print(path)
    if len(skipped) == len(chosen):
        raise InputError(
            f"{source}: no figure can be drawn, {skipped[0].name}: {skipped[0].reason}; "
            "fit it first with scalekit fit, or name a source with more in it"
        )


COMMAND = plot
