"""A submission's manifest: what the workers of a group need to know, and its runs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from scalekit.executors._slurm_board import Folder
from scalekit.executors._slurm_options import Group
from scalekit.executors.base import Settings


def write_manifest(folder: Folder, group: Group, settings: Settings, root: Path) -> None:
    """Write the manifest and the empty board of a group of runs.

    Args:
        folder: The submission's.
        group: The runs, and how a job works on them.
        settings: Threads; and where the profile names an interpreter, the script has its words.
        root: The sweep's folder, in full.

    Raises:
        OSError: The disk refuses.
    """
    common = _common_words([job.argv for job in group.jobs])
    header = {
        "argv": common[1:] if settings.profile.get("python") else common,
        "root": str(root),
        "pack": group.pack,
        "threads": settings.threads or 1,
        "limit_s": group.seconds,
        "lead_s": group.lead,
        "safety": settings.safety,
    }
    # Runs share a folder of logs, and finding the way to it takes longer than all the rest.
    where = lru_cache(lambda logs: os.path.relpath(logs, root))
    jobs = [
        {
            "run": job.run,
            "argv": job.argv[len(common) :],
            "log": f"{where(job.log.parent)}/{job.log.name}",
            "seconds": job.seconds,
            **({"beside": job.beside} if job.beside else {}),
            **({"after": job.after, "needs": _below(job.needs, root)} if job.after else {}),
        }
        for job in group.jobs
    ]
    folder.write(header, jobs)


def _below(place: Path | None, root: Path) -> str | None:
    return None if place is None else os.path.relpath(place, root)


def python_words(profile: Mapping[str, Any]) -> str:
    """Return the interpreter on the nodes as words of a shell: the profile's, or our own."""
    return profile.get("python") or shlex.quote(sys.executable)


def _common_words(argvs: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the words that all command lines begin with, always leaving a last one to each."""
    shortest, first, last = min(map(len, argvs)), min(argvs), max(argvs)
    n = 0
    while n < shortest - 1 and first[n] == last[n]:
        n += 1
    return first[:n]
