"""`scalekit collect SOURCE... -o data.csv`: one table of the runs of sweeps, tables and logs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit import errors

if TYPE_CHECKING:
    from scalekit.results.table import RunTable


def collect(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="a sweep's folder, a table, a log")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="the table, .csv or .tsv; - is stdout; one sweep has its own"
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="columns of a table, renamed or computed: params=wte+body"),
    ] = None,
    params_kind: Annotated[
        str | None,
        typer.Option(
            "--n-kind", help="how params are counted: total, non_embedding, non_embedding_head"
        ),
    ] = None,
    flops_kind: Annotated[
        str | None, typer.Option("--flops-kind", help="how flops are counted: exact, 6N_total, ...")
    ] = None,
) -> None:
    """Make one table of runs: ours, or others' tables and logs."""
    from scalekit.results.collect import collect as collect_runs
    from scalekit.results.mapping import parse_mapping
    from scalekit.results.table import table_text, write_table

    output = output or _own_table(sources)
    table = collect_runs(
        sources,
        params_kind=params_kind,
        flops_kind=flops_kind,
        mapping=parse_mapping(mapping or []),
    )
    if str(output) == "-":
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
        raise errors.UsageError("collect: where to?; name the table with -o data.csv")
    return folder.table_file


def _say(table: RunTable) -> None:
    """Tell on stderr what the table holds and what a reader of it must know."""
    parts = [f"{len(table)} runs"]
    if "status" in table:
        words = table["status"].tolist()
        counts = {word: words.count(word) for word in dict.fromkeys(words) if word}
        parts += [f"{n} {word}" for word, n in counts.items()]
    print(", ".join(parts), file=sys.stderr)
    for name, kind in (("params", "params_kind"), ("flops", "flops_kind"), ("loss", "loss_unit")):
        if name in table:
            print(f"{name}: {table.meta[kind]}", file=sys.stderr)
    for note in table.meta["notes"]:
        print(f"warning: {note}", file=sys.stderr)


COMMAND = collect
