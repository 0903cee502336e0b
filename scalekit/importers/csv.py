"""Tables as CSV or TSV, gzip'd too."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scalekit.importers._separated import SUFFIXES, read_separated
from scalekit.importers.base import Imported, Importer, Source


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    columns, remarks = read_separated(source, text)
    return Imported(columns, remarks=remarks)


IMPORTER = Importer(
    name="csv",
    about="a table as .csv or .tsv, also gzip'd",
    recognise=lambda source: source.suffix in SUFFIXES,
    read=_read,
    is_general=True,
)
