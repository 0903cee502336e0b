"""The sections of a sweep file that are not keys of a run: what may stand in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from scalekit.config.validate import GIGABYTES, SECONDS
from scalekit.counting import FLOPS_KINDS, PARAMS_KINDS
from scalekit.errors import InputError
from scalekit.executors.base import count_processes
from scalekit.quantities import read_duration, read_number
from scalekit.sweep.spec import Part

_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"


def _folder_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError("name must be letters, digits, '_', '.' and '-'; it names a folder")
    return name


def _ends_a_limit(unit: str) -> bool:
    for read in (read_number, read_duration):
        try:
            read(f"1{unit}")
        except InputError:
            continue
        return True
    return "kwh".endswith(unit.casefold())


class CountSpec(Part):
    """What N and C mean in this sweep."""

    params: Literal[PARAMS_KINDS] = Field(  # type: ignore[valid-type]
        default="non_embedding_head", description="which count of parameters N is"
    )
    flops: Literal[FLOPS_KINDS] = Field(  # type: ignore[valid-type]
        default="exact", description="which count of training FLOPs C is"
    )
    tolerance: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="how far FLOPs may miss when d_model is chosen from tokens and FLOPs",
    )


class IsoflopSection(Part):
    """Sizes trained at equal FLOPs."""

    budgets: list[Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="training FLOPs of a run"
    )
    sizes: Any = Field(description="model keys with lists, walked together")
    tolerance: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="a run whose whole steps miss its budget by more is dropped",
    )


class WhereRule(Part):
    """Which runs to keep."""

    keep: str = Field(description="an expression that is true for the runs to keep")
    because: str = Field(default="", description="why the others are dropped")


class ResourceRule(Part):
    """What a run needs; the first rule whose `when` holds is taken."""

    when: str | None = Field(default=None, description="an expression; always, where left out")
    gpus: int = Field(default=0, ge=0, description="GPUs a run")
    nodes: int = Field(default=1, gt=0)
    cpus: int | None = Field(default=None, gt=0, description="CPU cores a run")
    memory_gb: Annotated[float, GIGABYTES] | None = Field(default=None, gt=0)
    pack: int = Field(default=1, gt=0, description="runs that share one job's resources")
    stack: int | Literal["auto"] = Field(
        default="auto",
        description="runs of one shape trained as one batched model; auto: as the profile measured",
    )
    processes: int | None = Field(
        default=None, gt=0, description="processes a run; one a GPU and one a node unless given"
    )
    shard: bool = Field(
        default=False, description="each process keeps a part of the model only (FSDP2)"
    )
    recompute: Literal["none", "mlps", "blocks"] = Field(
        default="none", description="activations computed again in the backward pass, not kept"
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        gt=0,
        description="tokens a process learns from at once; by memory unless given",
    )
    compile: Literal["none", "blocks"] = Field(
        default="none", description="blocks by torch.compile, one for all, where they learn"
    )
    cuda_graph: bool = Field(
        default=False, description="the GPU replays a recording of a step's gradients"
    )

    @field_validator("stack")
    @classmethod
    def _one_at_least(cls, stack: int | str) -> int | str:
        if isinstance(stack, int) and stack < 1:
            raise ValueError("'stack' must be at least 1; change it, 1 stacks nothing")
        return stack

    @model_validator(mode="after")
    def _one_process_a_gpu(self) -> ResourceRule:
        if self.gpus and self.processes and self.processes != self.gpus:
            raise ValueError(
                f"processes {self.processes} with gpus {self.gpus}: each has a GPU of its own; "
                "leave processes out"
            )
        many = count_processes(
            {"gpus": self.gpus, "nodes": self.nodes, "processes": self.processes}
        )
        if self.pack > 1 and max(self.gpus, self.nodes) > 1:
            raise ValueError(
                f"pack {self.pack} with gpus {self.gpus} and nodes {self.nodes}: runs share one "
                "GPU or the cores of one node; leave pack out, or take one GPU"
            )
        if self.cuda_graph and many > 1:
            raise ValueError(
                f"cuda_graph with {many} processes: they wait for each other within a step, which "
                "is not recorded; leave cuda_graph out, or take one process"
            )
        if many % self.nodes:
            raise ValueError(
                f"{many} processes are no whole number for each of {self.nodes} nodes; "
                "change processes or nodes"
            )
        return self


class TimeSpec(Part):
    """How long a job may take."""

    limit: Annotated[float, SECONDS] | Literal["auto"] = Field(
        default="auto", description="a duration, or auto: from the plan's estimate"
    )
    safety: float = Field(default=1.5, ge=1, description="auto is the estimate times this")

    @field_validator("limit")
    @classmethod
    def _some_time(cls, limit: float | str) -> float | str:
        # For sbatch 0 is no limit at all.
        if limit == 0:
            raise ValueError("'limit' must be above 0; change it, or write auto")
        return limit


class ExecutorSpec(Part):
    """Where runs are executed."""

    kind: str = Field(default="local", description="a member of executors/, by file name")
    profile: str | None = Field(default=None, description="the site's file in profiles/")
    max_parallel: int | None = Field(default=None, gt=0, description="runs or jobs at a time")
    threads: int | None = Field(default=None, gt=0, description="CPU threads a run")


class StackSpeed(Part):
    """How fast runs of one shape were as one batched model, measured on a GPU of the site."""

    params: float = Field(gt=0, description="non-embedding parameters of a model")
    runs: int = Field(gt=1, description="runs of the stack")
    speedup: float = Field(
        gt=0, description="tokens per second of all together over those of one at a time"
    )


class Profile(Part):
    """A site: names, prices and powers that do not belong into a sweep."""

    name: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    setup: list[str] = Field(default=[], description="shell lines before the run")
    sbatch: list[str] = Field(
        default=[], description="further options of sbatch, like --exclusive or --mem-per-gpu=40G"
    )
    python: str | None = Field(default=None, description="the interpreter on the nodes")
    gpus_per_node: int | None = Field(default=None, gt=0)
    cpus_per_gpu: int | None = Field(default=None, gt=0)
    max_array_size: int | None = Field(default=None, gt=0)
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    currency: str = "USD"
    peak_flops: float | None = Field(default=None, gt=0, description="FLOP/s of one GPU")
    mfu: float | None = Field(default=None, gt=0, le=1, description="expected share of the peak")
    gpu_watts: float | None = Field(default=None, gt=0)
    stacks: list[StackSpeed] | None = Field(
        default=None, description="measured stacks, for `stack: auto`, time and cost"
    )
    pue: float | None = Field(default=None, ge=1, description="site energy over IT energy")
    grid_intensity: float | None = Field(default=None, ge=0, description="gCO2e per kWh")

    @field_validator("currency")
    @classmethod
    def _told_from_other_units(cls, currency: str) -> str:
        # `--budget 500USD` is told from FLOPs, a time and energy by its end.
        if not currency.strip() or any(map(_ends_a_limit, (currency.lower(), currency.upper()))):
            raise ValueError("'currency' must be the unit of money alone; change it, such as USD")
        return currency


class ProfileFile(Profile):
    """A profile file: a site, and what it says of the sections of every sweep."""

    executor: Any = Field(default=None, description="settings over the sweep's `executor`")
    resources: Any = Field(default=None, description="instead of the sweep's `resources`")
    time: Any = Field(default=None, description="settings over the sweep's `time`")


class SweepFile(Part):
    """A whole sweep file, its keys of runs still as nodes."""

    scalekit: Literal[1] = Field(description="version of the format")
    name: Annotated[str, AfterValidator(_folder_name)] = Field(
        description="its folder's name", json_schema_extra={"pattern": f"^{_NAME}$"}
    )
    description: str = Field(default="", description="what this sweep asks")
    extends: Any = Field(default=None, description="files to merge this one over")
    base: Any = Field(default=None, description="what all runs share")
    grid: Any = Field(default=None, description="every combination of these lists")
    zip: Any = Field(default=None, description="lists of one length, walked together")
    cases: Any = Field(default=None, description="single runs beside the others")
    isoflop: IsoflopSection | None = None
    ladder: Any = Field(
        default=None, description="rising lengths of training: one trunk, a branch for each"
    )
    derive: Any = Field(default=None, description="settings computed from others")
    where: list[WhereRule] | None = None
    resources: list[ResourceRule] | None = None
    time: TimeSpec = TimeSpec()
    executor: ExecutorSpec = ExecutorSpec()
    profile: Profile | None = Field(
        default=None, description="a profile written out, as in a sweep's own folder"
    )
    count: CountSpec = CountSpec()
