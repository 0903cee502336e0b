"""What Weights & Biases exports: the table of runs, a chart's CSV, a run's history.

Four shapes are told apart by their columns. The runs table of the web page has `Name`, `State`,
`Created`, ...; a chart's CSV has a column `RUN - METRIC` with its `__MIN` and `__MAX` for each run;
a history from the API has `_step` and `_timestamp` or `_runtime`; the documentation's export script
writes `summary`, `config` and `name`, of which two are dictionaries as Python prints them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError
from scalekit.importers._cells import flatten
from scalekit.importers._curve_table import (
    find_divergence,
    forget_abandoned,
    forget_superseded,
    loss_names,
)
from scalekit.importers._history import join_columns
from scalekit.importers._json_lines import SUFFIXES as JSON_SUFFIXES
from scalekit.importers._json_lines import is_array, read_json_lines
from scalekit.importers._parquet import MAGIC, read_parquet
from scalekit.importers._separated import INDEX, SUFFIXES, header, read_separated
from scalekit.importers.base import Imported, Importer, Source

if TYPE_CHECKING:
    import numpy as np

_TABLE = {"Agent", "Created", "ID", "Notes", "Runtime", "State", "Sweep", "Tags", "User"}
_SCRIPT = {"summary", "config", "name"}
_STATES = {
    "finished": "done",
    "running": "running",
    "pending": "pending",
    "crashed": "failed",
    "failed": "failed",
    "killed": "stopped",
    "preempted": "stopped",
    "preempting": "stopped",
}
_LOW, _HIGH = "__MIN", "__MAX"


def _recognise(source: Source) -> bool:
    if source.suffix in SUFFIXES:
        names = set(header(source))
        return _is_table(names) or _is_history(names) or names >= _SCRIPT or _is_chart(names)
    head = source.head
    if source.suffix in JSON_SUFFIXES or is_array(source):
        return b'"_step"' in head and (b'"_timestamp"' in head or b'"_runtime"' in head)
    return False


def _is_table(names: set[str]) -> bool:
    # Three of the page's own columns, and not two: a table of anybody's may have Name and Notes.
    return "Name" in names and len(names & _TABLE) >= 3


def _is_history(names: set[str]) -> bool:
    return "_step" in names and bool(names & {"_timestamp", "_runtime"})


def _is_chart(names: set[str]) -> bool:
    return any(" - " in n and {n + _LOW, n + _HIGH} <= names for n in names)


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    columns, remarks = _columns(source, {*text, "Name", "ID"})
    names = set(columns)
    if _is_table(names):
        return _read_table(source, columns, remarks)
    if _is_history(names):
        return _read_history(source, columns, remarks)
    if names >= _SCRIPT:
        return _read_script(source, columns, remarks)
    if _is_chart(names):
        return _read_chart(source, columns, remarks)
    raise InputError(
        f"{source.path}: none of what W&B exports; name a table of runs, a chart's CSV, or a "
        "history with _step and _timestamp"
    )


def _columns(source: Source, text: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    if source.suffix == ".parquet" or source.head.startswith(MAGIC):
        return read_parquet(source, text), []
    if source.suffix in JSON_SUFFIXES or is_array(source):
        return read_json_lines(source, text), []
    return read_separated(source, text)


def _read_table(source: Source, columns: dict[str, np.ndarray], remarks: list[str]) -> Imported:
    names = [str(name) for name in columns["Name"]]
    ids = columns.get("ID")
    notes = []
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and ids is not None:
        names = [f"{name} {run}" for name, run in zip(names, ids, strict=True)]
    elif twice:
        notes.append(
            f"{source.path}: {len(twice)} names are those of several runs, such as {twice[0]!r}; "
            "export the column ID too"
        )
    given: dict[str, Any] = {"run": names}
    if "State" in columns:
        states = [str(word).lower() for word in columns["State"]]
        given["status"] = [_STATES.get(word, word) for word in states]
    return Imported(
        {**given, **columns},
        remarks=[
            *remarks,
            f"{source.path}: a value is a run's summary, the last one logged as a rule",
        ],
        notes=notes,
    )


def _read_history(source: Source, columns: dict[str, np.ndarray], remarks: list[str]) -> Imported:
    """Take the script's own `step` where every row has one, else W&B's."""
    notes: list[str] = []
    own = columns.get("step")
    is_whole = own is not None and own.dtype != object and not any(map(isnan, own))
    about = "the script's own" if is_whole else "W&B's _step, which counts calls of its log"
    steps = columns["step" if is_whole else "_step"]
    found: dict[str, Any] = {**columns, "step": steps}
    if _is_one_run(columns):
        if is_whole:
            # W&B goes on counting where the script went back to its checkpoint.
            kept = {name for name in columns if name.startswith("_")} | {"step", INDEX}
            found, abandoned = forget_abandoned(found, steps, kept)
            found, forgotten = forget_superseded(found, steps, kept)
            if abandoned:
                notes.append(
                    f"{source.path}: the run was resumed; {abandoned} values that it had logged "
                    "beyond that place, and not again, are left out"
                )
            if forgotten:
                notes.append(
                    f"{source.path}: the run was resumed; {forgotten} values that it logged again "
                    "count as logged last"
                )
        found |= _divergence(source, columns, notes)
    return Imported(found, about={"step": about}, remarks=remarks, notes=notes, is_history=True)


def _is_one_run(columns: Mapping[str, np.ndarray]) -> bool:
    """Whether rows are one run's, in its order: W&B's own step never goes back within one."""
    counted = columns["_step"]
    is_rising = counted.dtype != object and bool((counted[1:] >= counted[:-1]).all())
    return is_rising and not columns.keys() & {"run", "name", "run_id"}


def _divergence(
    source: Source, columns: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, list[str]]:
    """Return the status of a run whose loss ends in no number, and note it; else nothing."""
    losses = loss_names(columns)
    words, _ = _columns(source, losses)
    lost = find_divergence({name: words[name] for name in losses})
    if not lost or "status" in columns:
        return {}
    notes.append(f"{source.path}: the run ends with {lost}; it is called diverged")
    return {"status": ["diverged"] * len(columns["_step"])}


def _read_script(source: Source, columns: dict[str, np.ndarray], remarks: list[str]) -> Imported:
    rows = []
    for number in range(len(columns["name"])):
        row: dict[str, Any] = {"run": str(columns["name"][number])}
        for part in ("config", "summary"):
            value = _literal(str(columns[part][number]), f"{source.path}: {part} {number + 1}")
            row |= dict(flatten({str(k): v for k, v in value.items()}, f"{part}."))
        rows.append({name: [value] for name, value in row.items()})
    return Imported(join_columns(rows), remarks=remarks)


def _literal(words: str, where: str) -> Mapping[str, Any]:
    """Read a dictionary as Python prints it; `nan` and `inf` are numbers there.

    Raises:
        InputError: Anything but a dictionary of plain values.
    """
    try:
        tree = ast.parse(words.strip(), mode="eval")
        value = ast.literal_eval(ast.fix_missing_locations(_Numbers().visit(tree)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: not a dictionary; export the runs again") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a dictionary; export the runs again")
    return value


class _Numbers(ast.NodeTransformer):
    """Turns the names nan and inf into the numbers that they print."""

    def visit_Name(self, node: ast.Name) -> ast.expr:  # ast calls it by this name
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node


def _read_chart(source: Source, columns: dict[str, np.ndarray], remarks: list[str]) -> Imported:
    """Turn a column a run into rows a run and step."""
    names = list(columns)
    metrics = [n for n in names if " - " in n and {n + _LOW, n + _HIGH} <= columns.keys()]
    axis = names[0]
    parts: dict[str, dict[str, list[Any]]] = {}
    notes = [f"{source.path}: a chart's points are sampled by W&B, and smoothed if it was"]
    for name, (run, metric) in _split_names(metrics, source, notes).items():
        steps = columns[axis].tolist()
        part = parts.setdefault(run, {"run": [run] * len(steps), axis.lower(): steps})
        part[metric] = columns[name].tolist()
    known = {axis, *(name + end for name in metrics for end in ("", _LOW, _HIGH))}
    rest = [name for name in names if name not in known]
    if rest:
        shown = ", ".join(rest[:5]) + (", ..." if len(rest) > 5 else "")
        remarks.append(f"{source.path}: {len(rest)} columns are no metric of a run: {shown}")
    return Imported(
        join_columns(list(parts.values())),
        about={"step": f"the chart's axis {axis!r}"},
        remarks=remarks,
        notes=notes,
        is_history=True,
    )


def _split_names(
    names: Sequence[str], source: Source, notes: list[str]
) -> dict[str, tuple[str, str]]:
    """Part each name into run and metric; either may hold a dash between spaces itself.

    What the chart says elsewhere settles it: a run's own `_step`, a name with one dash. Where
    nothing does, the last dash parts them, and a note says so.
    """
    splits = {name: list(_splits(name)) for name in names}
    plain = [found[0] for found in splits.values() if len(found) == 1]
    counted = {run for found in splits.values() for run, metric in found if metric == "_step"}
    runs, metrics = {run for run, _ in plain}, {metric for _, metric in plain}
    chosen = {}
    for name, found in splits.items():
        told = [pair for pair in found if pair[0] in counted]
        told = told or [pair for pair in found if pair[1] in metrics]
        told = told or [pair for pair in found if pair[0] in runs]
        chosen[name] = (told or found)[-1]
        if not told:
            notes.append(
                f"{source.path}: {name!r} is taken for {chosen[name][1]!r} of run "
                f"{chosen[name][0]!r}; rename the column if it is not"
            )
    return chosen


def _splits(name: str) -> Iterator[tuple[str, str]]:
    words = name.split(" - ")
    return ((" - ".join(words[:k]), " - ".join(words[k:])) for k in range(1, len(words)))


IMPORTER = Importer(
    name="wandb",
    about="a table of runs, a chart or a history that Weights & Biases exported",
    recognise=_recognise,
    read=_read,
)
