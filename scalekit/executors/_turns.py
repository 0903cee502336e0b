"""Jobs that wait for another: a branch starts when its trunk has saved for it, or has ended."""

from __future__ import annotations

import os
from pathlib import Path

from scalekit.errors import OK, RUNS_FAILED
from scalekit.executors.base import Job

SETTLED = (OK, RUNS_FAILED)
"""Exit codes of a run that has its end; any other leaves it, and its branches, to be continued."""


def holds_checkpoint(place: Path) -> bool:
    """Whether a run's folder of checkpoints holds one; what a kill left half written is hidden."""
    try:
        return any(not name.startswith(".") for name in os.listdir(place))  # noqa: PTH208
    except OSError:
        return False


class Turns:
    """What has become of the jobs of one submission that others wait for."""

    def __init__(self) -> None:
        self._settled: set[str] = set()
        self._gone: set[str] = set()

    def ended(self, run: str, code: int) -> None:
        """Note a job's exit code."""
        (self._settled if code in SETTLED else self._gone).add(run)

    def dropped(self, run: str) -> None:
        """Note a job that is not started."""
        self._gone.add(run)

    def is_ready(self, job: Job) -> bool:
        """Whether a job waits for nothing any more."""
        if not job.after or job.after in self._settled:
            return True
        return job.needs is not None and holds_checkpoint(job.needs)

    def is_hopeless(self, job: Job) -> bool:
        """Whether what a job waits for will not come in this submission."""
        return job.after in self._gone and not self.is_ready(job)
