"""A cluster as its scheduler describes it, and the profile that follows from that."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scalekit.errors import SystemTroubleError, did_you_mean
from scalekit.executors._slurm_limits import read_limits
from scalekit.executors._slurm_queue import call


@dataclass(frozen=True)
class Partition:
    """A partition, its nodes taken for alike: where they differ, the smallest numbers.

    Attributes:
        gpu: The GPUs' name as the cluster has it; empty where it has none.
        memory_gb: Of a node.
        limit: The longest time limit, as sinfo writes it.
    """

    name: str
    is_default: bool
    nodes: int
    cpus: int
    memory_gb: float
    gpus: int
    gpu: str
    limit: str


def read_partitions() -> list[Partition]:
    """Ask sinfo for the partitions that one may use, the default first.

    Raises:
        SystemTroubleError: There is no Slurm here, or it does not answer.
    """
    found: dict[str, Partition] = {}
    for line in call(["sinfo", "-h", "-o", "%P|%G|%c|%m|%l|%D"]).splitlines():
        if line.count("|") != 5:
            continue
        name, gres, cpus, memory, limit, nodes = line.split("|")
        gpu = re.search(r"gpu:(?:([^:,(]+):)?(\d+)", gres)
        one = Partition(
            name.rstrip("*"),
            name.endswith("*"),
            int(nodes),
            int(cpus.rstrip("+")),
            int(memory.rstrip("+")) * 2**20 / 1e9,
            int(gpu[2]) if gpu else 0,
            (gpu[1] or "gpu") if gpu else "",
            limit,
        )
        found[one.name] = _both(found[one.name], one) if one.name in found else one
    return sorted(found.values(), key=lambda partition: not partition.is_default)


def _both(a: Partition, b: Partition) -> Partition:
    return Partition(
        a.name,
        a.is_default,
        a.nodes + b.nodes,
        min(a.cpus, b.cpus),
        min(a.memory_gb, b.memory_gb),
        min(a.gpus, b.gpus),
        a.gpu or b.gpu,
        a.limit,
    )


def write_profile(name: str, partition: str | None) -> str:
    """Write the text of a profile for a partition, or for the default one.

    Raises:
        SystemTroubleError: There is no Slurm here, or not this partition.
    """
    partitions = read_partitions()
    names = [one.name for one in partitions]
    chosen = next((one for one in partitions if partition in (None, one.name)), None)
    if chosen is None:
        raise SystemTroubleError(
            f"partition {partition!r}: not on this cluster; {did_you_mean(partition or '', names)}"
        )
    limits = read_limits({"partition": chosen.name})
    return "\n".join([*_lines(name, chosen, limits.array + 1), *_others(partitions, chosen)]) + "\n"


def _lines(name: str, chosen: Partition, array: int) -> Iterator[str]:
    yield f"# {name}: as Slurm describes the partition {chosen.name}; what it cannot know is below."
    yield f"name: {name}"
    yield f"partition: {chosen.name}"
    account = _account()
    yield f"account: {account}" if account else "# account: your project's"
    if chosen.gpus:
        yield f"gpus_per_node: {chosen.gpus}  # {chosen.gpu}"
        yield f"cpus_per_gpu: {max(1, chosen.cpus // chosen.gpus)}  # of {chosen.cpus} cores a node"
    yield f"max_array_size: {array}"
    yield "executor: {kind: slurm}"
    yield "setup: []  # shell lines before a run, like: module load cuda"
    yield "# python: the interpreter on the nodes, if it is not the one that submits"
    if chosen.gpus:
        yield "# peak_flops: of one GPU; without it no plan can say how long runs take"
        yield "# price_per_gpu_hour: and gpu_watts, pue, grid_intensity: what runs cost"


def _others(partitions: Sequence[Partition], chosen: Partition) -> Iterator[str]:
    yield "# Partitions here:"
    for one in partitions:
        gpus = f"{one.gpus} x {one.gpu}, " if one.gpus else ""
        mark = "  <- this" if one is chosen else ""
        yield (
            f"#   {one.name}: {one.nodes} nodes of {gpus}{one.cpus} cores, "
            f"{one.memory_gb:.0f} GB, limit {one.limit}{mark}"
        )


def _account() -> str | None:
    ask = ["sacctmgr", "-n", "-P", "show", "user", getpass.getuser(), "format=DefaultAccount"]
    try:
        return call(ask).strip() or None
    except SystemTroubleError:
        return None
