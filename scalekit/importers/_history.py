"""A run's curve put together from what a log says of it, step by step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from scalekit.errors import InputError

NUMBER = r"(nan|-?inf|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
"""A number as programs print it, to be found in a line."""
STEP = r"(\d{1,15})"
"""A step's number."""
WHOLE = r"(\d[\d,]{0,30})"
"""A whole number, perhaps with commas between thousands."""

LOSS = re.compile(r"loss|bpb", re.IGNORECASE)
"""What the name of a loss has in it."""


def read_whole(digits: str) -> int:
    """Read a whole number that `WHOLE` found."""
    return int(digits.replace(",", ""))


class History:
    """Values of one run by step; what a resumed run logs again supersedes what it had logged.

    Attributes:
        where: What a message names.
        run: What the run is called.
        facts: What holds for the whole run, by column.
        remarks: What was done and leaves nothing to doubt, in sentences.
        notes: What a reader must doubt, in sentences.
        superseded: How many steps were logged again by a resumed run.
    """

    def __init__(self, where: str, run: str) -> None:
        self.where = where
        self.run = run
        self.facts: dict[str, Any] = {}
        self.remarks: list[str] = []
        self.notes: list[str] = []
        self._rows: dict[int, dict[str, Any]] = {}
        self._last = 0
        self.superseded = 0
        self._twice = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, place: str, values: Mapping[str, Any]) -> None:
        """Add what was logged at a step; `place` is the line, as a message names it.

        Raises:
            InputError: The step is the start again: a second run in one log.
        """
        if step == 0 < self._last:
            raise InputError(
                f"{place}: step 0 after step {self._last}, a second run in one log; split it"
            )
        if step < self._last:
            gone = [known for known in self._rows if known >= step]
            for known in gone:
                del self._rows[known]
            self.superseded += len(gone)
        self._last = step
        row = self._rows.setdefault(step, {})
        self._twice += any(name in row and row[name] != value for name, value in values.items())
        row.update(values)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns, a row a step, with `step`, `run` and the facts.

        A run whose last logged loss is not finite has the status `diverged`.

        Raises:
            InputError: Nothing was logged.
        """
        if not self._rows:
            raise InputError(f"{self.where}: no step with a number in it; name the log of a run")
        if self.superseded:
            self.notes.append(
                f"{self.where}: run {self.run!r} was resumed; {self.superseded} steps that it "
                "logged again count as logged last"
            )
        if self._twice:
            self.notes.append(
                f"{self.where}: run {self.run!r} has other values for {self._twice} of its steps "
                "further down; the later ones count"
            )
        self._mark_divergence()
        steps = sorted(self._rows)
        names = dict.fromkeys(name for step in steps for name in self._rows[step])
        found: dict[str, list[Any]] = {"run": [self.run] * len(steps), "step": list(steps)}
        for name, value in self.facts.items():
            found[name] = [value] * len(steps)
        for name in names:
            found[name] = [self._rows[step].get(name) for step in steps]
        return found

    def _mark_divergence(self) -> None:
        last: dict[str, float] = {}
        for step in sorted(self._rows):
            for name, value in self._rows[step].items():
                if LOSS.search(name) and isinstance(value, float):
                    last[name] = value
        lost = [name for name, value in last.items() if not isfinite(value)]
        if lost:
            self.facts["status"] = "diverged"
            self.notes.append(
                f"{self.where}: run {self.run!r} ends with {lost[0]} {last[lost[0]]}; it is called "
                "diverged"
            )


def join_columns(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Put the columns of several runs below each other; a name that one lacks is missing there."""
    joined: dict[str, list[Any]] = {name: [] for part in parts for name in part}
    for part in parts:
        n_rows = len(next(iter(part.values())))
        for name, cells in joined.items():
            cells.extend(part.get(name, [None] * n_rows))
    return joined
