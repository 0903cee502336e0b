"""The table of runs: named columns of one length, one row a run, read and written as CSV.

Columns are numpy arrays, not a DataFrame: importing pandas costs half a second, and most of what
reads a table is arithmetic on columns. `RunTable.frame` gives a DataFrame to who wants one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = [
    "run",
    "source",
    "group",
    "status",
    "budget",
    "params",
    "params_kind",
    "tokens",
    "unique_tokens",
    "flops",
    "flops_kind",
    "loss",
    "loss_unit",
    "loss_sem",
    "step",
    "seed",
    "lr",
    "batch_tokens",
    "code",
    "flags",
]
"""The columns of `data.csv` that every reader may rely on, in order; swept keys follow."""


@dataclass(frozen=True)
class RunTable:
    """Runs as columns.

    Attributes:
        columns: Arrays of shape (n,): float64 where every cell is a number or empty (NaN), else
            objects (str, empty string for a missing cell).
        meta: Where it came from: path, sha256, and what a reader decided (params_kind, ...).
    """

    columns: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def where(self, keep: np.ndarray) -> RunTable:
        """Keep the rows where `keep` (n,) is true, or the rows it indexes, in its order."""
        return RunTable({k: v[keep] for k, v in self.columns.items()}, self.meta)

    def frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))
