"""What a run is asked to do: the models of a sweep file's parts, and the fully resolved RunSpec.

Fields marked optional here may be left out in a sweep file; `sweep.expand` resolves them all, so a
RunSpec holds no None that a trainer would have to interpret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scalekit.counting import Shape


class Part(BaseModel):
    """A strict, frozen part of a sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelSpec(Part):
    """Architecture and shape."""

    arch: str = Field(default="gpt", description="a member of models/, by file name")
    d_model: int | None = Field(default=None, gt=0, description="width of the residual stream")
    n_layers: int | None = Field(default=None, gt=0)
    head_dim: int | None = Field(default=None, gt=0, description="d_model / n_heads unless given")
    n_heads: int | None = Field(default=None, gt=0, description="d_model / head_dim unless given")
    n_kv_heads: int | None = Field(
        None, gt=0, description="grouped-query attention; n_heads unless given"
    )
    d_ff: int | None = Field(default=None, gt=0, description="from ffn_mult unless given")
    ffn_mult: float | None = Field(default=None, gt=0, description="d_ff / d_model")
    mlp: Literal["swiglu", "relu2", "gelu"] = "swiglu"
    qk_norm: bool = True
    tied: bool = Field(default=False, description="one matrix for input embedding and output head")
    rope_theta: float = Field(default=10000.0, gt=0)
    vocab: int | None = Field(default=None, gt=0, description="from the data unless given")
    context: int = Field(default=256, gt=1, description="tokens per row")
    parametrization: Literal["standard", "mup", "completep"] = "standard"
    base_width: int | None = Field(
        default=None, gt=0, description="width at which mup and completep equal standard"
    )
    base_depth: int | None = Field(
        default=None, gt=0, description="layers at which completep equals standard"
    )


class SyntheticSpec(Part):
    """A source whose entropy is known exactly."""

    kind: Literal["graphwalk", "specbigram"] = "graphwalk"
    symbols: int = Field(default=256, gt=1)
    degree: int = Field(default=16, gt=0, description="mean out-degree of graphwalk")
    decay: float = Field(default=0.75, gt=0, description="spectral decay of specbigram")
    seed: int = Field(default=0, ge=0, description="which source; not which sample of it")


class DataSpec(Part):
    """Where tokens come from."""

    source: str = Field(default="stdlib", description="a member of datasets/, by file name")
    tokenizer: str = "bytes"
    path: str | None = Field(
        default=None, description="folder of shards, or of such folders for a mixture"
    )
    weights: str | None = Field(
        default=None, description="a mixture's shares of the tokens: web=0.7, code=0.3"
    )
    fingerprint: str | None = Field(
        default=None, description="resolved at planning: what the path holds"
    )
    unique_tokens: int | None = Field(
        default=None, gt=0, description="use only that many training tokens"
    )
    unique_from: Literal["start", "everywhere"] = Field(
        default="start",
        description="of which unique_tokens are: the first, or rows drawn from the whole split, "
        "of which a larger number holds a smaller one's",
    )
    max_epochs: float = Field(
        default=1.0, gt=0, description="more than one allows repetition, by name"
    )
    val_tokens: int = Field(default=131072, gt=0, description="size of the fixed held-out set")
    synthetic: SyntheticSpec = SyntheticSpec()


class TrainSpec(Part):
    """How the run is trained. Of tokens, steps, flops and tokens_per_param at most one is given."""

    tokens: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    flops: float | None = Field(default=None, gt=0)
    tokens_per_param: float | None = Field(default=None, gt=0)
    batch_tokens: int = Field(default=16384, gt=0)
    lr: float = Field(default=3e-3, gt=0)
    min_lr_frac: float = Field(
        default=0.1, ge=0, le=1, description="last learning rate over the peak, of cosine and wsd"
    )
    schedule: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = "cosine"
    warmup_frac: float = Field(default=0.05, ge=0, lt=1)
    warmup_tokens: float | None = Field(
        default=None, ge=0, description="instead of warmup_frac: the same however long the run"
    )
    decay_frac: float = Field(default=0.2, ge=0, le=1, description="cooldown share of wsd")
    decay_tokens: float | None = Field(default=None, ge=0, description="instead of decay_frac")
    decay_shape: Literal["linear", "sqrt"] = Field(
        default="linear", description="cooldown shape of wsd"
    )
    average_frac: float | None = Field(
        default=None,
        gt=0,
        le=0.5,
        description="evaluate averaged weights, this share of the run old in the mean",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon moves hidden matrices, and adamw the rest"
    )
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    seed: int = Field(default=0, ge=0, description="initialisation and order of the data")
    dtype: Literal["float32", "bfloat16"] = "float32"


class StartSpec(Part):
    """What a run begins with: fresh numbers, or the weights that another run ended with."""

    folder: str | None = Field(default=None, description="the sweep's folder of that run")
    run: str | None = Field(
        default=None, description="its id; the one run with this model there unless given"
    )
    step: int | None = Field(default=None, description="resolved at planning: its last step")
    method: Literal["full", "lora"] = Field(
        default="full", description="what learns: every weight, or low-rank adapters"
    )
    rank: int = Field(default=8, gt=0, description="of each adapter of lora")
    alpha: float = Field(default=8.0, gt=0, description="adapters are scaled by alpha / rank")
    targets: tuple[
        Literal["all", "attention", "mlp", "q", "k", "v", "out", "gate", "up", "down"], ...
    ] = Field(default=("q", "v"), min_length=1, description="maps that have adapters in lora")


class LogSpec(Part):
    """What is reported and saved on the way. Not science: it does not enter a run's id."""

    every: int = Field(default=10, gt=0, description="steps between step lines")
    evals: int = Field(
        default=8, gt=0, description="held-out evaluations over the run, the last included"
    )
    checkpoint_seconds: float = Field(default=60.0, gt=0, description="seconds between checkpoints")
    checkpoint_steps: int | None = Field(
        default=None, gt=0, description="steps between checkpoints"
    )
    keep_weights: bool = Field(
        default=False,
        description="keep the last weights, to export them or for runs that start from them",
    )
    live: str | None = Field(
        default=None, description="members of loggers/ that show the run as it goes, by commas"
    )


class EvalSpec(Part):
    """What a run is measured by beside its held-out loss. Not science either."""

    tasks: tuple[str, ...] = Field(
        default=(), description="files of JSON lines, or lm_eval:NAME, scored by likelihood"
    )
    tasks_at: Literal["end", "every"] = Field(
        default="end", description="score tasks at the last evaluation, or at every one"
    )


NOT_SCIENCE = ("log", "eval", "data.path", "start.folder")
"""Keys of a config that do not enter a run's id."""


class RunConfig(Part):
    """All that a run is asked to do: the `config` of a run record."""

    model: ModelSpec
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    start: StartSpec = StartSpec()
    log: LogSpec = LogSpec()
    eval: EvalSpec = EvalSpec()


@dataclass(frozen=True)
class RunSpec:
    """One run, fully resolved: a line of `plan.jsonl`.

    Attributes:
        id: The first 10 hex digits of the sha256 of the canonical science config.
        config: Every field of `RunConfig`, resolved: n_heads, head_dim, n_kv_heads, d_ff, vocab
            and train.tokens (= steps x batch_tokens) and train.steps are numbers.
        plan: `params` and `flops_per_token` and `flops` by every convention of `counting`,
            `tokens`, `steps`, `params_kind` and `flops_kind` (the choice made), `budget` (planned
            FLOPs or None), `group` (a label or None), `estimate` (seconds). A branch has its
            trunk under `parent` and under `branch_step` the last step that is the trunk's; a trunk
            has the branch steps by run under `branches`. One that starts from another run has
            `start` (that run, its step and tokens) and `trainable_params`.
        resources: What the executor needs: gpus, cpus, nodes, memory_gb, pack, time_s.
    """

    id: str
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    resources: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the line of `plan.jsonl` as a value."""
        return {
            "schema": "scalekit.plan/1",
            "id": self.id,
            "config": self.config,
            "plan": self.plan,
            "resources": self.resources,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> RunSpec:
        """Read a line of `plan.jsonl` back."""
        return cls(line["id"], line["config"], line["plan"], line["resources"])


def own_share(plan: Mapping[str, Any]) -> float:
    """Return the share of a run's steps that it takes itself: a branch's others are its trunk's."""
    step = plan.get("branch_step", 0)
    return 1.0 - step / plan["steps"] if step else 1.0


def share_done(plan: Mapping[str, Any], step: int) -> float:
    """Return the share of its own steps that a run has done at a step."""
    first = plan.get("branch_step", 0)
    return min(1.0, max(0, step - first) / max(1, plan["steps"] - first))


def live_loggers(text: str | None) -> tuple[str, ...]:
    """Return the loggers that a `log.live` names.

    >>> live_loggers("wandb, tensorboard"), live_loggers(None)
    (('wandb', 'tensorboard'), ())
    """
    return tuple(dict.fromkeys((text or "").replace(",", " ").split()))


def shape_of(model: Mapping[str, Any]) -> Shape:
    """Build the shape that `counting` and `models` need from a resolved model config."""
    return Shape(**{name: model[name] for name in Shape.__dataclass_fields__})


def adapters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `targets` and the `rank` of a resolved config's adapters, if those are to learn.

    >>> adapters_of({"start": {"method": "full", "targets": ("q", "v"), "rank": 8}})
    {}
    """
    start = config.get("start") or {}
    if start.get("method") != "lora":
        return {}
    return {"targets": tuple(start["targets"]), "rank": int(start["rank"])}
