"""What a cluster allows: asked of it at each submission, never assumed."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekit.errors import SystemTroubleError, did_you_mean
from scalekit.executors._slurm_queue import call
from scalekit.executors._slurm_self import read_left


@dataclass(frozen=True)
class Limits:
    """What the cluster allows.

    Attributes:
        array: Jobs in an array.
        jobs: Jobs that the controller keeps of everybody.
        seconds: Longest time limit of the partition, or None; of several the shortest, for a job
            starts in any of them.
        default_seconds: Its time limit where none is asked for, or None; of several as well.
        room: Jobs that this person may still submit, or None where nothing limits them.
    """

    array: int
    jobs: int
    seconds: float | None
    default_seconds: float | None
    room: int | None


def read_limits(profile: Mapping[str, Any]) -> Limits:
    """Ask the cluster for its limits, and whether the partition is there.

    Raises:
        SystemTroubleError: No Slurm here, it does not answer, or it has no such partition.
    """
    said = call(["scontrol", "show", "config"])
    config = dict(re.findall(r"^(\w+) *= (.*?) *$", said, re.MULTILINE))
    partitions = _partitions(profile.get("partition"))
    array = int(config.get("MaxArraySize", 1001))
    return Limits(
        # An index must be smaller than MaxArraySize.
        array=max(1, min(array, profile.get("max_array_size") or array) - 1),
        jobs=int(config.get("MaxJobCount", 10000)),
        seconds=_shortest(partitions, "MaxTime"),
        default_seconds=_shortest(partitions, "DefaultTime", "MaxTime"),
        room=_room(profile) if "limits" in config.get("AccountingStorageEnforce", "") else None,
    )


def _room(profile: Mapping[str, Any]) -> int | None:
    """Return how many jobs this person may still submit.

    Limits of a whole group are not looked at: what the others have submitted is not known here.
    """
    me = getpass.getuser()
    try:
        limits = [int(text) for text in _submit_limits(me, profile) if text.isdigit()]
    except SystemTroubleError:
        return None  # sbatch will say what it refuses
    if not limits:
        return None
    there = len(call(["squeue", "-h", "-r", "-u", me, "-o", "%i"]).splitlines())
    if there >= min(limits):
        raise SystemTroubleError(
            f"your limit of {min(limits)} submitted jobs is used up, {there} are in the queue; "
            "wait for some to end and run the same command again"
        )
    return min(limits) - there


def _submit_limits(me: str, profile: Mapping[str, Any]) -> list[str]:
    """Return the limits of a person and of the quality of service; empty texts where none is."""
    ask = ["sacctmgr", "-n", "-P", "show"]
    said = call([*ask, "assoc", f"user={me}", "format=Account,MaxSubmitJobs,DefaultQOS"])
    mine = [row for row in _rows(said) if profile.get("account") in (None, row[0])]
    names = {profile["qos"]} if profile.get("qos") else {row[2] or "normal" for row in mine}
    qualities = _rows(call([*ask, "qos", "format=Name,MaxSubmitJobsPerUser"]))
    return [row[1] for row in mine] + [row[1] for row in qualities if row[0] in names]


def _rows(said: str) -> list[list[str]]:
    return [line.split("|") for line in said.splitlines() if line]


def _partitions(names: str | None) -> list[dict[str, str]]:
    """Return the partitions of these names, or the default one; none where there is no default."""
    said = call(["scontrol", "show", "partition", "--oneliner"])
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines() if line]
    if names is None:
        return [partition for partition in found if partition.get("Default") == "YES"]
    known = {partition.get("PartitionName", ""): partition for partition in found}
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise SystemTroubleError(
                f"partition {name!r}: not on this cluster; {did_you_mean(name, list(known))}"
            )
    return [known[name] for name in chosen]


def _shortest(partitions: Sequence[Mapping[str, str]], *keys: str) -> float | None:
    """Return the least of the partitions' limits: each one's first that is a number."""
    each = ([read_left(one[key]) for key in keys if key in one] for one in partitions)
    known = (next((seconds for seconds in some if seconds is not None), None) for some in each)
    return min((seconds for seconds in known if seconds is not None), default=None)
