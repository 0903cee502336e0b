"""Tables as JSON: one object a line, or one array of objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scalekit.importers._json_lines import SUFFIXES, is_array, read_json_lines
from scalekit.importers.base import Imported, Importer, Source


def _recognise(source: Source) -> bool:
    return source.suffix in SUFFIXES or (source.suffix == ".json" and is_array(source))


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    return Imported(read_json_lines(source, text))


IMPORTER = Importer(
    name="jsonl",
    about="a table as JSON, one object a line, or an array of objects in a .json",
    recognise=_recognise,
    read=_read,
    is_general=True,
)
