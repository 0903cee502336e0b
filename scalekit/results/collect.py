"""Make one table of what runs reported: a sweep's folder, tables and logs made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.counting import FLOPS_KINDS, PARAMS_KINDS
from scalekit.errors import InputError, UsageError, did_you_mean
from scalekit.results.rows import sweep_rows
from scalekit.results.store import SweepFolder
from scalekit.results.table import (
    KINDS,
    UNSTATED,
    RunTable,
    as_words,
    make_table,
    read_table,
    stated_kinds,
    table_text,
)

if TYPE_CHECKING:
    import numpy as np

Rows = Sequence[Mapping[str, Any]]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Foreign:
    """What an importer read from others' logs: one mapping a run, and what it found out."""

    rows: Rows
    notes: Sequence[str] = ()


def collect(
    sources: Iterable[Path | str],
    *,
    params_kind: str | None = None,
    flops_kind: str | None = None,
    mapping: Mapping[str, str] | None = None,
    foreign: Callable[[Path], Foreign] | None = None,
) -> RunTable:
    """Make one table of the runs of all sources.

    Args:
        sources: Folders of sweeps, tables (read with `mapping`), or logs that `foreign` reads.
        params_kind: Which count of parameters the column `params` holds, a name of
            `counting.PARAMS_KINDS`; the plan's choice unless given. For a table made elsewhere
            that states no kind, this states it.
        flops_kind: The same for the column `flops`.
        mapping: Columns to rename or compute in tables made elsewhere.
        foreign: Reads a log that is neither a sweep nor a table.

    Returns:
        The runs, by source in the order given, planned order within. `meta["notes"]` says in
        sentences what a reader of the numbers must know: unreadable records, runs left out.

    Raises:
        InputError: A source cannot be read, or cannot give the count asked for.
        UsageError: No such kind.
    """
    _check_kind(params_kind, PARAMS_KINDS, "--n-kind")
    _check_kind(flops_kind, FLOPS_KINDS, "--flops-kind")
    asked = {"params": params_kind, "flops": flops_kind}
    tables = []
    for source in map(Path, sources):
        if SweepFolder(source).plan_file.exists():
            rows, notes = sweep_rows(SweepFolder(source), asked)
            tables.append(make_table(rows, {"path": str(source), "notes": notes}))
        elif source.suffix.lower() in SUFFIXES:
            tables.append(_recounted(read_table(source, mapping), asked))
        elif foreign is None:
            raise InputError(f"{source}: neither a sweep's folder nor a table; name one of these")
        else:
            read = foreign(source)
            table = make_table(read.rows, {"path": str(source), "notes": tuple(read.notes)})
            tables.append(_recounted(table, asked))
    if not tables:
        raise UsageError("collect: no source; name a sweep's folder or a table")
    return _joined(tables)


def _check_kind(kind: str | None, kinds: Sequence[str], option: str) -> None:
    if kind is not None and kind not in kinds:
        raise UsageError(f"{option} {kind!r}: unknown; {did_you_mean(kind, kinds)}")


def _recounted(table: RunTable, asked: Mapping[str, str | None]) -> RunTable:
    """Give a table made elsewhere the counts asked for, or state what it does not state."""
    import numpy as np

    columns = dict(table.columns)
    for name, kind in asked.items():
        stated = table.meta.get(KINDS[name], UNSTATED)
        if kind is None or kind == stated:
            continue
        if f"{name}_{kind}" in table:
            columns[name] = table[f"{name}_{kind}"]
        elif stated != UNSTATED:
            raise InputError(
                f"{table.meta['path']}: {name} are counted as {stated}, not {kind}; map the other "
                f"count with --map {name}=COLUMN"
            )
        columns[KINDS[name]] = np.full(len(table), kind, dtype=object)
    return RunTable(columns, table.meta)


def _joined(tables: Sequence[RunTable]) -> RunTable:
    columns = tables[0].columns if len(tables) == 1 else _stacked(tables)
    table = RunTable(columns)
    notes = [note for t in tables for note in t.meta.get("notes", ())]
    text = table_text(table).encode()
    meta = {
        "path": ", ".join(str(t.meta["path"]) for t in tables),
        # The hash that the written table will have.
        "sha256": hashlib.sha256(text).hexdigest(),
        "notes": tuple(notes),
        **stated_kinds(columns),
    }
    return RunTable(columns, meta)


def _stacked(tables: Sequence[RunTable]) -> dict[str, np.ndarray]:
    import numpy as np

    stacked = {}
    for name in dict.fromkeys(name for table in tables for name in table.columns):
        parts = [table[name] if name in table else np.full(len(table), np.nan) for table in tables]
        if all(part.dtype != object for part in parts):
            stacked[name] = np.concatenate(parts)
        else:
            stacked[name] = np.concatenate([as_words(part) for part in parts])
    return stacked
