"""Make one table of what runs reported: a sweep's folder, tables and logs made elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit.errors import InputError
from scalekit.results.doubts import doubts, join_doubts, partly_stated
from scalekit.results.facts import Facts
from scalekit.results.history import FINAL, choose, parse_at
from scalekit.results.meaning import Wanted, settle
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
    map_columns,
    raw_names,
    require,
    stated_kinds,
    text_hash,
)

if TYPE_CHECKING:
    import numpy as np

_PLAIN = Reading()


def collect(
    sources: Iterable[Path | str], reading: Reading = _PLAIN, *, skip: Path | None = None
) -> RunTable:
    """Make one table of the runs of all sources.

    Args:
        sources: Folders of sweeps, tables, logs, folders of these, and patterns.
        reading: What the user said of them.
        skip: A file that is not read although it lies there: the output.

    Returns:
        The runs, by source in the order given, planned order within. `meta["assumed"]` says in
        sentences what the numbers of others are taken to be, `meta["notes"]` what a reader of
        them must know: unreadable records, runs and files left out. `meta["sha256"]` is the hash
        that the written table will have.

    Raises:
        InputError: A source cannot be read, or leaves something open that an option settles.
        UsageError: No such kind, unit or checkpoint.
    """
    sources = [str(source) for source in sources]
    where = ", ".join(sources)
    tables, notes = _tables(sources, reading.checked(), skip, where, Wanted())
    table = _joined(tables, notes, reading, where)
    return replace(table, meta={**table.meta, "sha256": text_hash(table)})


def read_runs(
    source: Path | str,
    reading: Reading = _PLAIN,
    *,
    response: str = "loss",
    needs_params: bool = True,
) -> RunTable:
    """Read what one fit is made from.

    Like `collect`, but for a single table made elsewhere `meta["sha256"]` is the file's own.

    Args:
        source: A sweep's folder, a table, a log, a folder of these or a pattern.
        reading: What the user said of it.
        response: The column that is fitted; another than `loss` is taken as it stands.
        needs_params: Whether the fit is of params, so that they must be known.

    Raises:
        InputError: As `collect`.
        UsageError: As `collect`.
    """
    wanted = Wanted(response, needs_params)
    tables, notes = _tables([source], reading.checked(), None, str(source), wanted)
    table = _joined(tables, notes, reading, str(source))
    path = Path(source)
    found = file_hash(path) if path.is_file() else text_hash(table)
    return replace(table, meta={**table.meta, "sha256": found, "response": response})


@dataclass(frozen=True)
class _Part:
    """What one sweep or some files hold; `importer` is nobody for a sweep."""

    table: RunTable
    importer: str = ""
    is_history: bool = False


def _tables(
    sources: Iterable[Path | str],
    reading: Reading,
    skip: Path | None,
    where: str,
    wanted: Wanted,
) -> tuple[list[RunTable], list[str]]:
    found, notes = find_sources(sources, importer=reading.importer, skip=skip)
    facts = None if reading.facts is None else Facts(reading.facts)
    parts = [
        _sweep(one, reading)
        if isinstance(one, SweepFolder)
        else _foreign(one, reading, facts, wanted)
        for one in found
    ]
    notes += facts.left_over() if facts else []
    parts = _chosen(parts, reading, where, wanted)
    foreign = [part.table for part in parts if part.importer]
    if foreign:
        notes += doubts(foreign[0].columns if len(foreign) == 1 else _stacked(foreign), where)
    return [part.table for part in parts], notes


def _sweep(folder: SweepFolder, reading: Reading) -> _Part:
    asked = {"params": reading.params_kind, "flops": reading.flops_kind}
    rows, notes = sweep_rows(folder, asked)
    return _Part(make_table(rows, {"path": str(folder.root), "notes": notes}))


def _foreign(files: Files, reading: Reading, facts: Facts | None, wanted: Wanted) -> _Part:
    """Read files made elsewhere: join facts, map, settle what columns mean."""
    where, run = files.where, reading.mapping.get("run", "run")
    text = raw_names(reading.mapping) | ({run} if facts else set())
    read = files.importer.read(files.sources, text)
    cells = dict(read.columns)
    if read.is_history and run not in cells:
        cells["run"] = [files.run] * len(next(iter(cells.values())))
    if facts is not None:
        cells |= facts.of(cells, run, where)
    settled = settle(map_columns(cells, reading.mapping, where), read, reading, where, wanted)
    is_history = read.is_history or _is_history(settled.columns, reading, where)
    notes = [*read.notes, *settled.notes, *partly_stated(settled.columns, where)]
    if not is_history and (reading.at or reading.smooth > 1):
        notes.append(f"{where}: its rows are runs; --at and --smooth change nothing")
    who = files.importer
    told = [] if who.is_general else [f"read as {who.name}, {who.about}"]
    meta = {"path": where, "notes": notes, "assumed": [*told, *settled.assumed]}
    table = RunTable(in_order(settled.columns), {**meta, **stated_kinds(settled.columns)})
    return _Part(table, who.name, is_history)


def _chosen(parts: Sequence[_Part], reading: Reading, where: str, wanted: Wanted) -> list[_Part]:
    """Join the histories that one importer read, and take the checkpoints that were asked for."""
    groups: dict[object, list[_Part]] = {}
    for place, part in enumerate(parts):
        groups.setdefault(part.importer if part.is_history else place, []).append(part)
    found = []
    for group in groups.values():
        if not group[0].is_history:
            found += group
            continue
        tables = [part.table for part in group]
        table = tables[0] if len(tables) == 1 else _joined(tables, (), reading, where)
        require(table, [wanted.response])
        at = parse_at(reading.at or FINAL)
        chosen = choose(table.columns, at, reading.smooth, where, wanted.response)
        meta = {
            **table.meta,
            "assumed": [*table.meta["assumed"], *chosen.assumed],
            "notes": [*table.meta["notes"], *chosen.notes],
        }
        found.append(replace(group[0], table=RunTable(in_order(chosen.columns), meta)))
    return found


def _is_history(columns: Mapping[str, np.ndarray], reading: Reading, where: str) -> bool:
    """Whether a table's rows are checkpoints; refuse where it is not said which to take."""
    if not {"run", "step"} <= columns.keys():
        return False
    runs = columns["run"].tolist()
    if len(set(runs)) == len(runs):
        return False
    steps = len(set(zip(runs, columns["step"].tolist(), strict=True)))
    if steps == len(set(runs)):
        return False
    if reading.at is None:
        raise InputError(
            f"{where}: {len(runs)} rows of {len(set(runs))} runs at different steps; say which "
            "stand for a run with --at final, or take them all with --at every"
        )
    return True


def _joined(
    tables: Sequence[RunTable], notes: Sequence[str], reading: Reading, path: str
) -> RunTable:
    columns = tables[0].columns if len(tables) == 1 else _stacked(tables)
    assumed = [(t.meta["path"], told) for t in tables for told in t.meta.get("assumed", ())]
    meta = {
        "path": path,
        "notes": (
            *notes,
            *(note for t in tables for note in t.meta.get("notes", ())),
            *(join_doubts(tables) if len(tables) > 1 else ()),
        ),
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
    source = np.full(len(table), Path(table.meta["path"]).name, dtype=object)
    return replace(table, columns={**table.columns, "source": source})
