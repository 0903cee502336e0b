"""A table of what logs do not say, joined to them by the name of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError
from scalekit.quantities import count_words
from scalekit.results.table import read_table

if TYPE_CHECKING:
    import numpy as np


class Facts:
    """A table with a column `run` and what is known of each run: params, tokens a step, ...

    Raises:
        InputError: The table cannot be read, has no column `run`, or a run twice.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.table = read_table(Path(path))
        if "run" not in self.table:
            raise InputError(f"{path}: no column 'run'; name in it the runs that the facts are of")
        self.rows: dict[str, int] = {}
        for row, run in enumerate(self.table["run"].tolist()):
            if self.rows.setdefault(run, row) != row:
                raise InputError(f"{path}: run {run!r} stands twice; keep one row a run")
        self.asked: list[str] = []

    def of(
        self, cells: Mapping[str, Sequence[Any] | np.ndarray], run: str, where: str
    ) -> dict[str, np.ndarray]:
        """Return the facts for each row (n,) of a source, missing where its run is not known.

        Args:
            cells: The source's columns.
            run: The column of these that names the runs.
            where: What a message names.

        Raises:
            InputError: The source names no runs, or has a fact's column.
        """
        import numpy as np

        if run not in cells:
            raise InputError(
                f"{where}: no column {run!r} to join {self.path} by; map it with --map run=COLUMN"
            )
        clash = sorted(cells.keys() & (self.table.columns.keys() - {"run"}))
        if clash:
            raise InputError(
                f"{self.path}: {clash[0]!r} is a column of {where} too; rename it in the facts"
            )
        names = [str(name) for name in cells[run]]
        self.asked += dict.fromkeys(names)
        rows = np.array([self.rows.get(name, -1) for name in names])
        found = {}
        for name, column in self.table.columns.items():
            if name != "run":
                missing = "" if column.dtype == object else np.nan
                found[name] = np.where(rows < 0, missing, column[rows])
        return found

    def left_over(self) -> list[str]:
        """Say which runs had no facts, and which facts no run.

        Raises:
            InputError: No run that was read has facts.
        """
        known = self.rows.keys()
        if self.asked and known.isdisjoint(self.asked):
            raise InputError(
                f"{self.path}: none of its runs was read, {_shown(self.asked)} were; name the runs "
                "as these"
            )
        found = []
        if without := [run for run in dict.fromkeys(self.asked) if run not in known]:
            found.append(
                f"{self.path}: has nothing of {count_words(len(without), 'run')}: {_shown(without)}"
            )
        if unused := [run for run in known if run not in set(self.asked)]:
            found.append(f"{self.path}: {len(unused)} of its runs were not found: {_shown(unused)}")
        return found


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
