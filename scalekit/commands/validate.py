"""`scalekit validate FILE...`: read and expand sweep files, and say every mistake."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scalekit import errors
from scalekit.commands._output import Format, FormatOption, print_csv, print_json

_COLUMNS = ["file", "line", "column", "what", "todo"]


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="sweep files")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="change a setting, as in sweep"),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Check sweep files without running anything; every mistake with its position."""
    results = [_check(file, sets or [], aloud=form is Format.TABLE) for file in files]
    if form is Format.JSON:
        print_json("validate", {"files": results})
    elif form is Format.CSV:
        print_csv(_COLUMNS, [problem for result in results for problem in result["problems"]])
    if any(result["problems"] for result in results):
        raise typer.Exit(errors.REFUSED)


def _check(file: Path, sets: list[str], *, aloud: bool) -> dict[str, Any]:
    """Read and expand one file; the answer for people is printed as it is found."""
    from scalekit.config.problems import ConfigError
    from scalekit.sweep.expand import expand
    from scalekit.sweep.load import load_sweep

    try:
        expansion = expand(load_sweep(file, sets))
    except ConfigError as error:
        if aloud:
            print(error, file=sys.stderr)
        problems = [
            {
                "file": problem.place.source.name,
                "line": problem.place.line,
                "column": problem.place.column,
                "what": problem.what,
                "todo": problem.todo,
            }
            for problem in error.problems
        ]
        return {"file": str(file), "runs": 0, "dropped": 0, "problems": problems}
    n_runs, n_dropped = len(expansion.runs), len(expansion.dropped)
    if aloud:
        dropped = f", {n_dropped} dropped" if n_dropped else ""
        print(f"{file}: {n_runs} run{'s' if n_runs > 1 else ''}{dropped}")
    return {"file": str(file), "runs": n_runs, "dropped": n_dropped, "problems": []}


COMMAND = validate
