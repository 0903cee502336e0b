"""TensorBoard's event files: scalars by tag and step, read without TensorBoard.

A run is a folder; a resumed run adds a file to it. What a tag logs again replaces what it had.
Message and field numbers are those of TensorFlow's event.proto, summary.proto and tensor.proto, and
of the hparams plugin.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from scalekit.errors import InputError
from scalekit.importers._history import History
from scalekit.importers._protobuf import fields, real, signed
from scalekit.importers._tfrecord import HEAD, Records, length
from scalekit.importers.base import Imported, Importer, Source

Scalar = tuple[str, int, float]
"""A tag, a step and a value."""

_NAME = ".tfevents."
_VERSION = b"brain.Event:"
_START = "_hparams_/session_start_info"
# TensorProto.DataType, and how struct calls its elements.
_TYPES = {1: "f", 2: "d", 3: "i", 9: "q", 19: "e"}
# TensorProto's fields of one number each, by data type.
_VALUES = {1: 5, 2: 6, 3: 7, 9: 10}


def _recognise(source: Source) -> bool:
    if _NAME in source.name:
        return True
    size = length(source.head[:HEAD])
    return size is not None and _VERSION in source.head[HEAD : HEAD + size]


@dataclass
class _Told:
    """What one file holds."""

    scalars: list[Scalar] = field(default_factory=list)
    hparams: dict[str, Any] = field(default_factory=dict)
    other: Counter[str] = field(default_factory=Counter)
    order: float = float("inf")
    torn: int = 0


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    told = [(_events(source), source) for source in sources]
    told.sort(key=lambda found: (found[0].order, found[1].path.name))
    first = sources[0]
    where = str(first.path if len(sources) == 1 else first.path.parent)
    history = History(where, first.run)
    other: Counter[str] = Counter()
    for one, source in told:
        other.update(one.other)
        history.facts |= {f"hparams.{name}": value for name, value in one.hparams.items()}
        if one.torn:
            history.notes.append(
                f"{source.path}: the last {one.torn} bytes are no whole record, as a killed "
                "program leaves them; they are left out"
            )
    written, abandoned = _without_abandoned([one.scalars for one, _ in told])
    rows, history.superseded = _rows(scalar for scalars in written for scalar in scalars)
    history.superseded += abandoned
    for step in sorted(rows):
        history.add(step, where, rows[step])
    if other:
        tags = ", ".join(list(other)[:5]) + (", ..." if len(other) > 5 else "")
        history.remarks.append(f"{where}: {len(other)} tags hold no scalars, left out: {tags}")
    return Imported(
        history.columns(),
        about={"step": "the step that the program gave TensorBoard"},
        remarks=history.remarks,
        notes=history.notes,
        is_history=True,
    )


def _without_abandoned(files: Sequence[list[Scalar]]) -> tuple[list[list[Scalar]], int]:
    """Cut files, in the order of writing, where a newer one takes the run up again.

    An evaluation that was written after that place is of the run that was given up, also where
    the newer file has none of that step yet.

    Returns:
        The files, and how many scalars were cut off that the newer one does not replace by tag.
    """
    found: list[list[Scalar]] = []
    lost = 0
    for scalars in files:
        first = {tag: step for tag, step, _ in reversed(scalars)}
        for place, old in enumerate(found):
            end = _taken_up(old, first)
            lost += sum(tag not in first or step < first[tag] for tag, step, _ in old[end:])
            # What the newer file writes again is left to `_rows`, which counts it.
            found[place] = old[:end] + [s for s in old[end:] if s[1] >= first.get(s[0], inf)]
        found.append(scalars)
    return found, lost


def _taken_up(old: Sequence[Scalar], first: Mapping[str, int]) -> int:
    """Find where in a file the run was that a newer file goes on from; its end unless it goes back.

    Every tag of both files may say it, and the latest place counts, since a tag such as
    `hp_metric` is written at step 0 by every start. One step makes no curve, and says nothing.
    """
    places: dict[str, int] = {}
    steps: dict[str, set[int]] = {}
    for place, (tag, step, _) in enumerate(old):
        steps.setdefault(tag, set()).add(step)
        if step >= first.get(tag, inf):
            places.setdefault(tag, place)
    shared = [tag for tag, known in steps.items() if tag in first and len(known) > 1]
    return max((places.get(tag, len(old)) for tag in shared), default=len(old))


def _rows(scalars: Iterable[Scalar]) -> tuple[dict[int, dict[str, float]], int]:
    """Put scalars, in the order of writing, into rows by step.

    Where a tag goes back, the run was resumed: what the tag had from there on is forgotten. Other
    tags are not, since evaluations may be written to a file of their own; see `_without_abandoned`
    for those of the same file.

    Returns:
        The rows, and how many values were forgotten.
    """
    tags: dict[str, dict[int, float]] = {}
    last: dict[str, int] = {}
    forgotten = 0
    for tag, step, value in scalars:
        known = tags.setdefault(tag, {})
        if step <= last.get(tag, -1):
            gone = [old for old in known if old >= step]
            forgotten += len(gone)
            for old in gone:
                del known[old]
        known[step] = value
        last[tag] = step
    rows: dict[int, dict[str, float]] = {}
    for tag, known in tags.items():
        for step, value in known.items():
            rows.setdefault(step, {})[tag] = value
    return rows, forgotten


def _events(source: Source) -> _Told:
    told = _Told()
    with source.open() as file:
        records = Records(file, str(source.path))
        for record in records:
            try:
                _read_event(record, told)
            except (ValueError, struct.error, UnicodeDecodeError) as error:
                raise InputError(
                    f"{source.path}: a record is no event, {error}; name TensorBoard's event files"
                ) from error
        told.torn = records.torn
    return told


def _read_event(record: bytes, told: _Told) -> None:
    step, values = 0, []
    for number, value in fields(record):
        if number == 1:
            told.order = min(told.order, real(value))
        elif number == 2 and isinstance(value, int):
            step = signed(value)
        elif number == 5 and isinstance(value, bytes):
            values += [inner for kind, inner in fields(value) if kind == 1]
    for value in values:
        if not isinstance(value, bytes):
            raise ValueError("a summary without a value")
        tag, scalar, metadata = _read_value(value)
        if tag == _START:
            told.hparams |= _read_hparams(metadata)
        elif scalar is not None:
            told.scalars.append((tag, step, scalar))
        elif not tag.startswith("_hparams_/"):
            told.other[tag] += 1


def _read_value(data: bytes) -> tuple[str, float | None, bytes]:
    """Read a Summary.Value: its tag, its number if it is one, and its metadata."""
    tag, scalar, metadata = "", None, b""
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode()
        elif number == 2:
            scalar = real(value)
        elif number == 8 and isinstance(value, bytes):
            scalar = _read_tensor(value)
        elif number == 9 and isinstance(value, bytes):
            metadata = value
    return tag, scalar, metadata


def _read_tensor(data: bytes) -> float | None:
    """Read a TensorProto of one number; None for anything else."""
    found = dict(fields(data))
    kind, content = found.get(1), found.get(4)
    form = _TYPES.get(kind) if isinstance(kind, int) else None
    if form is None or _elements(found.get(2, b"")) != 1:
        return None
    if isinstance(content, bytes) and content:
        return float(struct.unpack(f"<{form}", content)[0])
    value = found.get(_VALUES.get(int(kind or 0), -1))
    if isinstance(value, int):
        return float(signed(value))
    if isinstance(value, bytes) and form in "fd":
        return float(struct.unpack(f"<{form}", value)[0])
    return None


def _elements(shape: int | bytes) -> int:
    """Count the elements of a TensorShapeProto: the product of its dimensions' sizes."""
    count = 1
    if isinstance(shape, bytes):
        for number, value in fields(shape):
            if number == 2 and isinstance(value, bytes):
                sizes = [size for kind, size in fields(value) if kind == 1]
                count *= int(sizes[0]) if sizes and isinstance(sizes[0], int) else 0
    return count


def _read_hparams(metadata: bytes) -> Mapping[str, Any]:
    """Read the hyperparameters that a run began with, from SummaryMetadata.plugin_data.content."""
    found: dict[str, Any] = {}
    for entry in _inside(metadata, 1, 2, 3, 1):
        pair = dict(fields(entry))
        name, value = pair.get(1, b""), pair.get(2, b"")
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise ValueError("a hyperparameter without a name")
        for number, inner in fields(value):
            if number == 2:
                found[name.decode()] = real(inner)
            elif number == 3 and isinstance(inner, bytes):
                found[name.decode()] = inner.decode()
            elif number == 4:
                found[name.decode()] = bool(inner)
    return found


def _inside(data: bytes, *path: int) -> Iterator[bytes]:
    """Walk the messages at a path of field numbers."""
    if not path:
        yield data
        return
    for number, value in fields(data):
        if number == path[0] and isinstance(value, bytes):
            yield from _inside(value, *path[1:])


IMPORTER = Importer(
    name="tensorboard",
    about="TensorBoard's event files",
    recognise=_recognise,
    read=_read,
    run_folder=lambda path: path.parent,
)
