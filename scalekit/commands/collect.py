"""`scalekit collect SOURCE... -o data.csv`: one table of the runs of sweeps, tables and logs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit import errors
from scalekit.commands._source import (
    AtOption,
    FactsOption,
    FlopsKindOption,
    ImporterOption,
    LossUnitOption,
    MapOption,
    ParamsKindOption,
    SmoothOption,
    reading_of,
    tell,
)
from scalekit.quantities import count_words

if TYPE_CHECKING:
    from scalekit.results.table import RunTable


def collect(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="sweeps, tables, logs, folders of these"),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="the table, .csv or .tsv; - is stdout; one sweep has its own"
        ),
    ] = None,
    mapping: MapOption = None,
    params_kind: ParamsKindOption = None,
    flops_kind: FlopsKindOption = None,
    loss_unit: LossUnitOption = None,
    at: AtOption = None,
    smooth: SmoothOption = 1,
    facts: FactsOption = None,
    importer: ImporterOption = None,
) -> None:
    """Make one table of runs: ours, or others' tables and logs."""
    from scalekit.results.collect import collect as collect_runs
    from scalekit.results.table import table_text, write_table

    output = output or _own_table(sources)
    reading = reading_of(
        mapping=mapping,
        params_kind=params_kind,
        flops_kind=flops_kind,
        loss_unit=loss_unit,
        at=at,
        smooth=smooth,
        facts=facts,
        importer=importer,
    )
    is_stdout = str(output) == "-"
    table = collect_runs(sources, reading, skip=None if is_stdout else output)
    if is_stdout:
        sys.stdout.write(table_text(table))
    else:
        write_table(table, output)
        print(output)
    _say(table)
    if "status" in table and "unreadable" in table["status"]:
        raise typer.Exit(errors.RUNS_FAILED)


def _own_table(sources: list[Path]) -> Path:
    from scalekit.results.store import SweepFolder

    folder = SweepFolder(sources[0])
    if len(sources) != 1 or not folder.plan_file.exists():
        raise errors.UsageError("collect: no table is named; name the table with -o data.csv")
    return folder.table_file


def _say(table: RunTable) -> None:
    """Tell on stderr what the table holds and what a reader of it must know."""
    parts = [count_words(len(table), "run")]
    if "status" in table:
        words = table["status"].tolist()
        counts = {word: words.count(word) for word in dict.fromkeys(words) if word}
        parts += [f"{n} {word}" for word, n in counts.items()]
    print(", ".join(parts), file=sys.stderr)
    for name, kind in (("params", "params_kind"), ("flops", "flops_kind"), ("loss", "loss_unit")):
        if name in table:
            print(f"{name}: {table.meta[kind]}", file=sys.stderr)
    tell(table)


COMMAND = collect
