"""What others' training left, as a table of runs: join facts, map, settle, choose checkpoints.

A sweep's own table is joined and mapped alike; what its records say needs no settling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError
from scalekit.importers._history import join_columns
from scalekit.importers.base import Imported, Importer
from scalekit.results.columns import require
from scalekit.results.facts import Facts
from scalekit.results.history import CURVE, FINAL, choose, parse_at
from scalekit.results.meaning import Wanted, settle
from scalekit.results.reading import Reading
from scalekit.results.sources import Files
from scalekit.results.table import (
    RunTable,
    in_order,
    map_columns,
    raw_names,
    stated_kinds,
)

if TYPE_CHECKING:
    import numpy as np


def read_files(files: Files, reading: Reading, facts: Facts | None) -> Imported:
    """Read one run's files or one table, words kept as they are written where they stay words.

    Raises:
        InputError: The files are not what their importer reads.
    """
    text = raw_names(reading.mapping)
    if facts is not None:
        text.add(reading.mapping.get("run", "run"))
    return files.importer.read(files.sources, text)


def join_histories(told: Sequence[tuple[Files, Imported]], run: str) -> Imported:
    """Put the curves of several runs below each other, with the run and source of every row.

    Args:
        told: What one importer read.
        run: The column that names the runs where the files do.
    """
    parts, about, units = [], {}, {}
    for files, read in told:
        n_rows = len(next(iter(read.columns.values())))
        given = {} if run in read.columns else {"run": [files.run] * n_rows}
        given["source"] = [files.where] * n_rows
        parts.append({**given, **read.columns})
        about |= read.about
        units |= read.loss_units
    if len(parts) == 1:
        columns: Mapping[str, Any] = parts[0]
    else:
        columns = join_columns([{n: list(cells) for n, cells in p.items()} for p in parts])
    return Imported(
        columns,
        units,
        flops_kind=told[0][1].flops_kind,
        about=about,
        remarks=[remark for _, read in told for remark in read.remarks],
        notes=[note for _, read in told for note in read.notes],
        is_history=True,
    )


def settle_table(
    importer: Importer,
    read: Imported,
    reading: Reading,
    *,
    facts: Facts | None,
    wanted: Wanted,
    where: str,
) -> RunTable:
    """Turn what an importer read into a table of runs.

    Returns:
        One row a run, unless the reading asks for more. `meta["assumed"]` and `meta["notes"]` say
        what it rests on and what is doubtful about it, `meta["remarks"]` what else was done.

    Raises:
        InputError: Something is open that an option settles.
    """
    cells = dict(read.columns)
    if facts is not None:
        cells |= facts.of(cells, reading.mapping.get("run", "run"), where)
    settled = settle(map_columns(cells, reading.mapping, where), read, reading, where, wanted)
    columns: Mapping[str, np.ndarray] = settled.columns
    assumed, notes = settled.assumed, [*read.notes]
    if not importer.is_general:
        assumed.insert(0, f"read as {importer.name}, {importer.about}")
    if read.is_history or _is_history(columns, reading, where):
        require(RunTable(columns, {"path": where}), [wanted.response])
        at = parse_at(reading.at or FINAL)
        chosen = choose(columns, at, reading.smooth, where, wanted.response)
        columns = chosen.columns
        assumed += chosen.assumed
        notes += chosen.notes
    elif reading.at not in (None, CURVE) or reading.smooth > 1:
        notes.append(f"{where}: its rows are runs; --at and --smooth change nothing")
    meta = {"path": where, "remarks": read.remarks, "notes": notes, "assumed": assumed}
    return RunTable(in_order(columns), {**meta, **stated_kinds(columns)})


def settle_sweep(
    table: RunTable, reading: Reading, *, facts: Facts | None, wanted: Wanted
) -> RunTable:
    """Do to a sweep's table what options ask of any: join facts, map, name the unit of a loss.

    Returns:
        The table itself where they ask nothing. `meta["notes"]` also names options that change
        nothing here, and `meta["remarks"]` says what mapped columns are taken to be.

    Raises:
        InputError: As `settle_table`.
    """
    where, notes = str(table.meta["path"]), list(table.meta["notes"])
    idle = [
        *(["--at"] if reading.at is not None else []),
        *(["--smooth"] if reading.smooth > 1 else []),
        *(["--importer"] if reading.importer is not None else []),
    ]
    if idle:
        verb = "changes" if len(idle) == 1 else "change"
        told = f"{where}: a sweep's runs stand for their last evaluation"
        notes.append(f"{told}; {' and '.join(idle)} {verb} nothing")
    meta = {**table.meta, "notes": notes}
    if not reading.mapping and reading.loss_unit is None and facts is None:
        return RunTable(table.columns, meta)
    cells = dict(table.columns)
    if facts is not None:
        cells |= facts.of(cells, reading.mapping.get("run", "run"), where)
    columns = map_columns(cells, reading.mapping, where)
    settled = settle(columns, Imported(cells), reading, where, wanted)
    columns = in_order(settled.columns)
    return RunTable(columns, {**meta, "remarks": settled.assumed, **stated_kinds(columns)})


def _is_history(columns: Mapping[str, np.ndarray], reading: Reading, where: str) -> bool:
    """Whether a table's rows are checkpoints; refuse where it is not said which to take."""
    if not {"run", "step"} <= columns.keys():
        return False
    # Rows without a name, as another table's in a joined one, are of no common run.
    pairs = zip(columns["run"].tolist(), columns["step"].tolist(), strict=True)
    named = [(run, step) for run, step in pairs if str(run) not in ("", "nan")]
    runs = [run for run, _ in named]
    if len(set(runs)) == len(runs):
        return False
    steps = len(set(named))
    if steps == len(set(runs)):
        return False
    if reading.at is None:
        raise InputError(
            f"{where}: {len(runs)} rows of {len(set(runs))} runs at different steps; say which "
            "stand for a run with --at final, or take them all with --at every"
        )
    return True
