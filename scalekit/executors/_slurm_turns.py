"""Which runs of a board wait for another: a branch for its trunk, on the same board always."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit.executors._slurm_board import DONE, FAILED, Board, Line
from scalekit.executors._turns import SETTLED, holds_checkpoint

LOOK_SECONDS = 5.0
"""How often a worker looks for what trunks of other workers have saved."""


class BoardTurns:
    """Says of each line of a manifest whether it waits for another one."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]], root: Path, board: Board) -> None:
        numbers = {job["run"]: n for n, job in enumerate(jobs)}
        branches = {n: job for n, job in enumerate(jobs) if job.get("after") in numbers}
        self._trunk = {n: numbers[job["after"]] for n, job in branches.items()}
        self._needs = {n: root / job["needs"] for n, job in branches.items() if job.get("needs")}
        self._board = board
        self._ready: set[int] = set()
        self.look_again()

    def look_again(self) -> None:
        """Forget what was seen: a run of this worker has ended."""
        self._lines: dict[int, Line | None] = {}
        self._looked: set[int] = set()
        self._at = float("-inf")

    def is_ready(self, number: int) -> bool:
        """Whether a run waits for no other, or no longer."""
        if number not in self._trunk or number in self._ready:
            return True
        if time.monotonic() - self._at >= LOOK_SECONDS:
            self._lines, self._looked = self._board.lines(), set()
            self._at = time.monotonic()
        if number not in self._looked:
            self._looked.add(number)
            if self._has_turn(number):
                self._ready.add(number)
        return number in self._ready

    def _has_turn(self, number: int) -> bool:
        line = self._lines.get(self._trunk[number])
        if line is not None and line.state in (DONE, FAILED) and line.code in SETTLED:
            return True
        return number in self._needs and holds_checkpoint(self._needs[number])
