"""Make one table of what runs reported: a sweep's folder, tables and logs made elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit.results.doubts import doubts, join_doubts, mixed_code, partly_stated, unknown_kinds
from scalekit.results.facts import Facts
from scalekit.results.foreign import (
    join_histories,
    read_files,
    settle_sweep,
    settle_table,
)
from scalekit.results.mapping import kept_rows
from scalekit.results.meaning import Wanted
from scalekit.results.reading import Reading
from scalekit.results.rows import sweep_rows
from scalekit.results.sources import Files, find_sources
from scalekit.results.store import SweepFolder
from scalekit.results.table import (
    RunTable,
    as_words,
    file_hash,
    in_order,
    make_table,
    stated_kinds,
    text_hash,
)

if TYPE_CHECKING:
    import numpy as np

    from scalekit.importers.base import Imported

_PLAIN = Reading()


def collect(
    sources: Iterable[Path | str],
    reading: Reading = _PLAIN,
    *,
    skip: Path | None = None,
    drop: Sequence[str] = (),
) -> RunTable:
    """Make one table of the runs of all sources.

    Args:
        sources: Folders of sweeps, tables, logs, folders of these, and patterns.
        reading: What the user said of them.
        skip: A file that is not read although it lies there: the output.
        drop: Columns or expressions whose true rows a fit will leave out. They stay in the table,
            and nothing is doubted of them.

    Returns:
        The runs, by source in the order given, planned order within. `meta["assumed"]` says in
        sentences what the numbers of others are taken to be, `meta["remarks"]` what else was done,
        as with files left out, and `meta["notes"]` what a reader must doubt or see to: unreadable
        records, runs left out. `meta["sha256"]` is the hash that the written table will have.

    Raises:
        InputError: A source cannot be read, or leaves something open that an option settles.
        UsageError: No such kind, unit or checkpoint.
    """
    sources = [str(source) for source in sources]
    where = ", ".join(sources)
    table = _table(sources, reading, skip, where, Wanted(drop=drop))
    return replace(table, meta={**table.meta, "sha256": text_hash(table)})


def read_runs(
    source: Path | str,
    reading: Reading = _PLAIN,
    *,
    response: str = "loss",
    needs_params: bool = True,
    drop: Sequence[str] = (),
) -> RunTable:
    """Read what one fit is made from.

    Like `collect`, but for a single table made elsewhere `meta["sha256"]` is the file's own.

    Args:
        source: A sweep's folder, a table, a log, a folder of these or a pattern.
        reading: What the user said of it.
        response: The column that is fitted; another than `loss` is taken as it stands.
        needs_params: Whether the fit is of params, so that they must be known.
        drop: As `collect`.

    Raises:
        InputError: As `collect`.
        UsageError: As `collect`.
    """
    wanted = Wanted(response, needs_params, drop)
    table = _table([source], reading, None, str(source), wanted)
    path = Path(source)
    found = file_hash(path) if path.is_file() else text_hash(table)
    return replace(table, meta={**table.meta, "sha256": found, "response": response})


def _table(
    sources: Iterable[Path | str],
    reading: Reading,
    skip: Path | None,
    where: str,
    wanted: Wanted,
) -> RunTable:
    tables, remarks, notes = _tables(sources, reading.checked(), skip, wanted, where)
    table = _joined(tables, reading, where)
    remarks += [remark for one in tables for remark in one.meta.get("remarks", ())]
    notes += [note for one in tables for note in one.meta.get("notes", ())]
    notes += _doubts(tables, table, wanted.drop, where)
    told = {"remarks": tuple(remarks), "notes": tuple(notes)}
    return replace(table, meta={**table.meta, **told})


def _doubts(
    tables: Sequence[RunTable], joined: RunTable, drop: Sequence[str], where: str
) -> list[str]:
    """Say what is doubtful about the rows that nobody drops."""
    import numpy as np

    kept = kept_rows(joined.columns, drop, where)
    parts = np.split(kept, np.cumsum([len(table) for table in tables])[:-1])
    used = [_restated(one, part) for one, part in zip(tables, parts, strict=True) if part.any()]
    # Of a sweep, states tell what is missing: only the numbers of others are doubted.
    foreign = [np.full(len(table), "assumed" in table.meta) for table in tables]
    rows = np.flatnonzero(kept & np.concatenate(foreign))
    found = doubts(joined.columns, where, rows) if len(rows) else []
    for one in (table for table in used if "assumed" in table.meta):
        found += unknown_kinds(one.columns, one.meta["path"])
        found += partly_stated(one.columns, one.meta["path"])
    found += join_doubts(used) if len(used) > 1 else []
    return found + mixed_code(joined.where(kept).columns, where)


def _restated(table: RunTable, kept: np.ndarray) -> RunTable:
    """Keep rows of a table, and say anew how those count."""
    if kept.all():
        return table
    part = table.where(kept)
    return replace(part, meta={**part.meta, **stated_kinds(part.columns)})


def _tables(
    sources: Iterable[Path | str],
    reading: Reading,
    skip: Path | None,
    wanted: Wanted,
    where: str,
) -> tuple[list[RunTable], list[str], list[str]]:
    """Read every source: a table a sweep or foreign table, and one for all logs of a format.

    Returns:
        The tables, and in sentences what was left out and what is doubtful.
    """
    found, remarks = find_sources(sources, importer=reading.importer, skip=skip)
    facts = None if reading.facts is None else Facts(reading.facts)
    groups: dict[object, SweepFolder | list[tuple[Files, Imported]]] = {}
    for place, one in enumerate(found):
        if isinstance(one, SweepFolder):
            groups[place] = one
            continue
        read = read_files(one, reading, facts)
        key = one.importer.name if read.is_history else place
        groups.setdefault(key, []).append((one, read))  # type: ignore[union-attr]
    has_others = not all(isinstance(one, SweepFolder) for one in found)
    tables = []
    for group in groups.values():
        if isinstance(group, SweepFolder):
            table = _sweep(group, reading)
            if not has_others:  # whom else the options are about
                table = settle_sweep(table, reading, facts=facts, wanted=wanted)
            tables.append(table)
            continue
        (files, read), place = group[0], where if len(group) > 1 else group[0][0].where
        if read.is_history:
            read = join_histories(group, reading.mapping.get("run", "run"))
        tables.append(
            settle_table(files.importer, read, reading, facts=facts, wanted=wanted, where=place)
        )
    return tables, remarks, facts.left_over() if facts else []


def _sweep(folder: SweepFolder, reading: Reading) -> RunTable:
    asked = {"params": reading.params_kind, "flops": reading.flops_kind}
    rows, notes = sweep_rows(folder, asked)
    return make_table(rows, {"path": str(folder.root), "notes": notes})


def _joined(tables: Sequence[RunTable], reading: Reading, path: str) -> RunTable:
    columns = tables[0].columns if len(tables) == 1 else _stacked(tables)
    assumed = [(t.meta["path"], told) for t in tables for told in t.meta.get("assumed", ())]
    meta = {
        "path": path,
        "assumed": _told_once(assumed, len(tables)),
        "mapping": dict(reading.mapping),
        "reading": {k: v for k, v in reading.to_json().items() if k != "mapping"},
        **stated_kinds(columns),
    }
    return RunTable(columns, meta)


def _told_once(told: Sequence[tuple[str, str]], n_tables: int) -> tuple[str, ...]:
    """Say what holds for all tables once, and what holds for some with their names."""
    places: dict[str, list[str]] = {}
    for place, sentence in told:
        places.setdefault(sentence, []).append(place)
    return tuple(
        sentence
        if len(where) == n_tables
        else f"{', '.join(where[:3])}{f' and {len(where) - 3} more' if len(where) > 3 else ''}: "
        f"{sentence}"
        for sentence, where in places.items()
    )


def _stacked(tables: Sequence[RunTable]) -> dict[str, np.ndarray]:
    import numpy as np

    tables = [_with_source(table) for table in tables]
    stacked = {}
    for name in dict.fromkeys(name for table in tables for name in table.columns):
        parts = [table[name] if name in table else np.full(len(table), np.nan) for table in tables]
        if all(part.dtype != object for part in parts):
            stacked[name] = np.concatenate(parts)
        else:
            stacked[name] = np.concatenate([as_words(part) for part in parts])
    return in_order(stacked)


def _with_source(table: RunTable) -> RunTable:
    """Name the source in every row, now that there are several."""
    import numpy as np

    if "source" in table:
        return table
    source = np.full(len(table), str(table.meta["path"]), dtype=object)
    return replace(table, columns={**table.columns, "source": source})
