"""JSON into columns: one object a line, or one array of objects; nested keys become dotted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError
from scalekit.importers._cells import CHUNK_ROWS, Chunk, flatten, gather
from scalekit.importers._text import open_text
from scalekit.importers.base import Source

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".jsonl", ".ndjson")


def read_json_lines(source: Source, text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Read JSON objects, a row each; a key that a row lacks is missing there.

    Raises:
        InputError: The file is empty or is not such JSON, or a key stands twice; the message names
            the line.
    """
    columns = gather(lambda: _chunks(source), text)
    if not columns:
        raise InputError(f"{source.path}: no columns in it; write one JSON object a line")
    return columns


def is_array(source: Source) -> bool:
    """Whether a file is one JSON array of objects."""
    return "".join(source.head_text[:200].split())[:2] == "[{"


def parse(where: str, raw: str) -> Any:
    """Parse JSON.

    Raises:
        InputError: Not JSON, nested too deeply, an object with a key twice, or text that cannot
            be written again.
    """
    try:
        value = json.loads(raw, object_pairs_hook=_unique)
        if "\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except _TwiceError as error:
        raise InputError(f"{where}: key {error.args[0]!r} stands twice; rename one") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(f"{where}: holds {half!r}, half a character; mend it") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON, {error}; mend or drop the line") from error


class _TwiceError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _chunks(source: Source) -> Iterator[Chunk]:
    rows: list[dict[str, Any]] = []
    is_empty = True
    for where, value in _values(source):
        is_empty = False
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object; write one run a line")
        pairs = [(name.strip(), cell) for name, cell in flatten(value)]
        if any(not name for name, _ in pairs):
            raise InputError(f"{where}: a key without a name; name it")
        try:
            rows.append(_unique(pairs))
        except _TwiceError as error:
            raise InputError(f"{where}: key {error.args[0]!r} stands twice; rename one") from error
        if len(rows) == CHUNK_ROWS:
            yield _turned(rows)
            rows = []
    if is_empty:
        raise InputError(f"{source.path}: the file is empty; collect the runs again")
    if chunk := _turned(rows):
        yield chunk


def _values(source: Source) -> Iterator[tuple[str, Any]]:
    with open_text(source) as file:
        if is_array(source):
            for number, value in enumerate(parse(str(source.path), file.read()), start=1):
                yield f"{source.path}: object {number}", value
            return
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield f"{source.path}:{number}", parse(f"{source.path}:{number}", raw)


def _turned(rows: list[dict[str, Any]]) -> Chunk:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
