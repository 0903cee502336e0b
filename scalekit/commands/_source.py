"""The options that say how a source made elsewhere is read, and what is told of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scalekit.results.reading import Reading
    from scalekit.results.table import RunTable

MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map", help="columns, renamed or computed: params=wte+body,loss=val_loss; repeatable"
    ),
]
ParamsKindOption = Annotated[
    str | None,
    typer.Option(
        "--n-kind", help="how params are counted: total, non_embedding, non_embedding_head"
    ),
]
FlopsKindOption = Annotated[
    str | None, typer.Option("--flops-kind", help="how flops are counted: exact, 6N_total, ...")
]
LossUnitOption = Annotated[
    str | None, typer.Option("--loss-unit", help="unit of the loss: nats, bits, bpb, npb, bpc")
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", help="which checkpoint of a log: final, best, every, step=10k, tokens=1e9"
    ),
]
SmoothOption = Annotated[
    int, typer.Option("--smooth", min=1, help="mean of how many losses of a log, the last ones")
]
FactsOption = Annotated[
    Path | None,
    typer.Option("--facts", help="a table of what logs do not say, joined by its column run"),
]
ImporterOption = Annotated[
    str | None,
    typer.Option("--importer", help="read files as this: nanogpt, wandb, ..., or your own .py"),
]


def reading_of(
    *,
    mapping: Sequence[str] | None = None,
    params_kind: str | None = None,
    flops_kind: str | None = None,
    loss_unit: str | None = None,
    at: str | None = None,
    smooth: int = 1,
    facts: Path | None = None,
    importer: str | None = None,
) -> Reading:
    """Put the options together.

    Raises:
        UsageError: An option that does not exist or contradicts itself.
    """
    from scalekit.results.mapping import parse_mapping
    from scalekit.results.reading import Reading

    return Reading(
        parse_mapping(mapping or []),
        params_kind,
        flops_kind,
        loss_unit,
        at,
        smooth,
        None if facts is None else str(facts),
        importer,
    ).checked()


def tell_assumed(table: RunTable) -> None:
    """Tell on stderr what the numbers of others are taken to be, and what was done with files."""
    for sentence in table.meta.get("assumed", ()):
        print(f"note: {sentence}", file=sys.stderr)
    tell_remarks(table)


def tell_remarks(table: RunTable) -> None:
    """Tell on stderr what was done with files, as with those left out."""
    for sentence in table.meta.get("remarks", ()):
        print(f"note: {sentence}", file=sys.stderr)


def tell(table: RunTable) -> None:
    """Tell on stderr what the numbers of others are taken to be, and what is doubtful."""
    tell_assumed(table)
    for note in table.meta.get("notes", ()):
        print(f"warning: {note}", file=sys.stderr)
