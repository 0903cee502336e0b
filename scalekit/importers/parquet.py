"""Tables as parquet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scalekit.importers._parquet import MAGIC, read_parquet
from scalekit.importers.base import Imported, Importer, Source


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    return Imported(read_parquet(source, text))


IMPORTER = Importer(
    name="parquet",
    about="a table as parquet; needs pyarrow",
    recognise=lambda source: source.suffix == ".parquet" or source.head.startswith(MAGIC),
    read=_read,
    is_general=True,
)
