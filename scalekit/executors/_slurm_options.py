"""From what runs need to what a job is given: groups of equal needs, and how long they may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.errors import InputError
from scalekit.executors._slurm_limits import Limits
from scalekit.executors.base import Job, Settings, count_processes

LEAD_SECONDS = 120
"""How long before its limit a job is told: checkpoints are written then, and Slurm looks at limits
twice a minute only."""

START_SECONDS = 120.0
"""What `time: auto` allows for the start of a job: modules, imports, data."""

LEAST_LIMIT = 600.0
"""The shortest limit that `time: auto` asks for: shorter jobs are all start and no work."""


@dataclass(frozen=True)
class Group:
    """Runs of equal needs, which share an array.

    Attributes:
        jobs: The runs or stacks, the longest first.
        pack: How many of them a job works on at a time.
        limit: Seconds a job may take, or None for the partition's default.
        gpus: GPUs a job, shared by its runs.
        cpus: Cores a job, on all its nodes together.
        memory_gb: Memory a job, as the cores, or None for the partition's default.
        nodes: Nodes a job.
        processes: Processes a run.
        default: Seconds a job may take where `limit` is None, or None where that has no end.
    """

    jobs: tuple[Job, ...]
    pack: int
    limit: float | None
    gpus: int
    cpus: int
    memory_gb: float | None
    nodes: int
    processes: int = 1
    default: float | None = None

    @property
    def cpus_per_node(self) -> int:
        """Cores that a job has on each node: as many for every process there."""
        on_each = max(1, self.processes // self.nodes)
        return math.ceil(math.ceil(self.cpus / self.nodes) / on_each) * on_each

    @property
    def seconds(self) -> float | None:
        """How long a job may take, or None where that has no end."""
        return self.default if self.limit is None else self.limit

    @property
    def lead(self) -> int:
        """How many seconds before its limit a job is told to save and stop."""
        return LEAD_SECONDS if self.seconds is None else min(LEAD_SECONDS, int(self.seconds / 4))


def group_jobs(jobs: Sequence[Job], settings: Settings, limits: Limits) -> list[Group]:
    """Put runs of equal needs together, in the order in which such needs first occur."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        key = tuple(sorted((k, v) for k, v in job.resources.items() if v is not None))
        groups.setdefault(key, []).append(job)
    return [_group(members, settings, limits) for members in groups.values()]


def _group(jobs: Sequence[Job], settings: Settings, limits: Limits) -> Group:
    needs, profile = jobs[0].resources, settings.profile
    gpus = int(needs.get("gpus") or 0)
    nodes = _nodes(gpus, int(needs.get("nodes") or 1), profile)
    processes = count_processes({**needs, "nodes": nodes})
    # Runs share one GPU; what needs several takes them for itself, as in the local pool.
    pack = int(needs.get("pack") or 1) if gpus <= 1 and nodes == 1 else 1
    threads = processes * (settings.threads or 1)
    a_run = needs.get("cpus") or max(threads, _cpus_of_gpus(gpus, pack, profile))
    memory = needs.get("memory_gb")
    return Group(
        jobs=tuple(sorted(jobs, key=lambda job: (-(job.seconds or 0.0), -job.flops))),
        pack=pack,
        limit=_limit(jobs, settings, limits),
        gpus=gpus,
        cpus=int(a_run) * pack,
        memory_gb=None if memory is None else float(memory) * pack,
        nodes=nodes,
        processes=processes,
        default=limits.default_seconds,
    )


def _cpus_of_gpus(gpus: int, pack: int, profile: Mapping[str, Any]) -> int:
    return math.ceil(gpus * (profile.get("cpus_per_gpu") or 0) / pack)


def _nodes(gpus: int, nodes: int, profile: Mapping[str, Any]) -> int:
    on_one = profile.get("gpus_per_node")
    return max(nodes, math.ceil(gpus / on_one)) if on_one else nodes


def _limit(jobs: Sequence[Job], settings: Settings, limits: Limits) -> float | None:
    """Return the seconds that a job may take: as asked, or long enough for the longest run.

    A run that needs more than the partition allows saves at the limit and is continued.
    """
    asked = jobs[0].resources.get("time_s")
    if asked is not None:
        return float(asked)
    known = [job.seconds for job in jobs if job.seconds is not None]
    if not known:
        return None
    wanted = max(LEAST_LIMIT, max(known) * settings.safety + START_SECONDS)
    return wanted if limits.seconds is None else min(wanted, limits.seconds)


def check_group(group: Group, limits: Limits, profile: Mapping[str, Any]) -> None:
    """Refuse what would wait in the queue for ever.

    Raises:
        InputError: More time than the partition allows, or GPUs that nodes cannot share evenly.
    """
    run = group.jobs[0].run
    where = f"partition {profile['partition']!r}" if profile.get("partition") else "this cluster"
    if group.limit is not None and limits.seconds is not None and group.limit > limits.seconds:
        raise InputError(
            f"run {run}: time.limit {group.limit / 60:g} minutes, {where} allows "
            f"{limits.seconds / 60:g}; lower it: a run saves at the limit and is continued"
        )
    for n, what in ((group.gpus, "GPUs"), (group.processes, "processes")):
        if n % group.nodes:
            raise InputError(
                f"run {run}: {n} {what} are no whole number for each of {group.nodes} nodes; "
                f"change resources.{what.lower()} or resources.nodes"
            )
