"""`scalekit size`: parameters, FLOPs and memory of a model by every convention, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, format_table, print_csv, print_json
from scalekit.counting import FLOPS_KINDS, MLPS, PARAMS_KINDS, memory_bytes
from scalekit.errors import InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from scalekit.sweep.spec import RunSpec

TOKENS_PER_PARAM = 20
"""Tokens a parameter near the optimum of Hoffmann et al. 2022, arXiv:2203.15556, table 3."""

_SIX_N = "6N_total"
_DEFAULT_BATCH = 16384
_Whole = Annotated[int | None, typer.Option(min=1)]


def size(  # noqa: PLR0917  # typer reads the options from the signature
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a sweep: every shape that it trains")
    ] = None,
    d_model: _Whole = None,
    n_layers: _Whole = None,
    n_heads: _Whole = None,
    head_dim: _Whole = None,
    n_kv_heads: Annotated[int | None, typer.Option(min=1, help="grouped-query attention")] = None,
    d_ff: _Whole = None,
    ffn_mult: Annotated[float | None, typer.Option(min=0.0, help="d_ff over d_model")] = None,
    mlp: Annotated[str, typer.Option(help="swiglu, relu2 or gelu")] = "swiglu",
    vocab: Annotated[int, typer.Option(min=2, help="256 for bytes")] = 256,
    context: Annotated[int, typer.Option(min=2, help="tokens per row")] = 256,
    tied: Annotated[bool, typer.Option("--tied", help="one matrix for embedding and head")] = False,
    qk_norm: Annotated[bool, typer.Option(help="norms of queries and keys")] = True,
    tokens: Annotated[str | None, typer.Option(help="training tokens, like 1.4T")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="tokens held at once, for the memory")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Count a model's parameters, FLOPs and memory by every convention there is."""
    if config is not None:
        if d_model is not None or n_layers is not None:
            raise UsageError("--config: the sweep says the shapes; leave --d-model, --n-layers out")
        runs = _shapes_of_sweep(config)
    else:
        if n_layers is None or (d_model is None and (n_heads is None or head_dim is None)):
            raise UsageError("size: no shape is given; give --d-model and --n-layers, or --config")
        if mlp not in MLPS:
            raise UsageError(f"--mlp {mlp!r}: unknown; {did_you_mean(mlp, MLPS)}")
        given = {
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "head_dim": head_dim,
            "n_kv_heads": n_kv_heads,
            "d_ff": d_ff,
            "ffn_mult": ffn_mult or None,
            "mlp": mlp,
            "vocab": vocab,
            "context": context,
            "tied": tied,
            "qk_norm": qk_norm,
        }
        runs = [_resolve({f"model.{k}": v for k, v in given.items() if v is not None})]
    n_tokens = _tokens(tokens)
    sizes = [_size(run, n_tokens, batch_tokens) for run in runs]
    if form is Format.JSON:
        print_json("size", {"tokens": n_tokens, "models": sizes})
    elif form is Format.CSV:
        rows = [_flat(value) for value in sizes]
        print_csv(list(rows[0]), rows)
    elif config is not None:
        print(_compare(sizes))
    else:
        print("\n".join(_tell(sizes[0], n_tokens)))


def _tokens(text: str | None) -> float | None:
    from scalekit.quantities import read_number

    if text is None:
        return None
    try:
        tokens = read_number(text)
    except InputError as error:
        raise UsageError(f"--tokens {error}") from error
    if tokens <= 0:
        raise UsageError(f"--tokens {text!r}: not above zero; give training tokens like 1.4T")
    return tokens


def _shapes_of_sweep(path: Path) -> list[RunSpec]:
    """Return one run of each shape of a sweep, by rising params."""
    from scalekit.sweep.expand import expand
    from scalekit.sweep.load import load_sweep
    from scalekit.sweep.spec import shape_of

    runs = {shape_of(run.config["model"]): run for run in expand(load_sweep(path)).runs}
    return sorted(runs.values(), key=lambda run: run.plan["params"]["total"])


def _resolve(model: Mapping[str, Any]) -> RunSpec:
    """Resolve a shape by the rules that a sweep's runs go through.

    Raises:
        InputError: Settings that do not go together.
    """
    from scalekit.config.problems import ConfigError, Place, Source
    from scalekit.sweep.expand import expand
    from scalekit.sweep.sections import CountSpec, ExecutorSpec, TimeSpec
    from scalekit.sweep.sweep_spec import Option, SweepSpec

    # A source without end and a single step: only the model is asked about.
    rest = {
        "data.source": "synthetic",
        "data.synthetic.symbols": model["model.vocab"],
        "train.batch_tokens": model["model.context"],
        "train.steps": 1,
    }
    spec = SweepSpec(
        path=Path(),
        place=Place(Source("size", ""), 1, 1),
        name="size",
        description="",
        count=CountSpec(),
        base=Option({**rest, **model}, {}),
        grid=(),
        zip=None,
        cases=(),
        isoflop=None,
        derive={},
        where=(),
        resources=(),
        time=TimeSpec(),
        executor=ExecutorSpec(),
        profile=None,
    )
    try:
        return expand(spec).runs[0]
    except ConfigError as error:
        said = "\n".join(f"size: {problem.message}" for problem in error.problems)
        raise InputError(said) from error


def _size(run: RunSpec, tokens: float | None, batch_tokens: int | None) -> dict[str, Any]:
    from scalekit.sweep.spec import shape_of

    shape, plan = shape_of(run.config["model"]), run.plan
    per_token = plan["flops_per_token"]
    # As near to the usual batch as whole rows allow.
    batch = batch_tokens or shape.context * max(1, round(_DEFAULT_BATCH / shape.context))
    state, activations = memory_bytes(shape, batch_tokens=batch)
    return {
        "shape": asdict(shape),
        "params": dict(plan["params"]),
        "flops_per_token": dict(per_token),
        "ratio_to_6N_total": {kind: per_token[kind] / per_token[_SIX_N] for kind in FLOPS_KINDS},
        "flops": tokens and {kind: per_token[kind] * tokens for kind in FLOPS_KINDS},
        "twenty_tokens_per_param": {
            kind: {
                "tokens": TOKENS_PER_PARAM * plan["params"][kind],
                "flops": TOKENS_PER_PARAM * plan["params"][kind] * per_token["exact"],
            }
            for kind in PARAMS_KINDS
        },
        "memory": {
            "state_gb": state / 1e9,
            "activations_gb": activations / 1e9,
            "batch_tokens": batch,
        },
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}" if prefix != "shape." else key
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{name}.")
        elif item is not None:
            flat[name] = item
    return flat


def _tell(value: Mapping[str, Any], tokens: float | None) -> list[str]:
    """Say everything about one model."""
    from scalekit.quantities import write_count, write_flops

    shape = value["shape"]
    words = [f"{k} {v}" for k, v in shape.items() if k not in ("mlp", "tied", "qk_norm")]
    words += [shape["mlp"], "tied" if shape["tied"] else "untied"]
    words += ["qk_norm"] if shape["qk_norm"] else []
    optimum = value["twenty_tokens_per_param"]
    params = [
        [
            kind,
            f"{n:,}",
            write_count(optimum[kind]["tokens"]),
            write_flops(optimum[kind]["flops"]),
        ]
        for kind, n in value["params"].items()
    ]
    heads = ["params", "", f"tokens at {TOKENS_PER_PARAM} each", "exact FLOPs of that"]
    flops = [
        [
            kind,
            f"{n:,.0f}",
            f"{value['ratio_to_6N_total'][kind]:.3f}",
            *([write_flops(value["flops"][kind])] if tokens else []),
        ]
        for kind, n in value["flops_per_token"].items()
    ]
    over = [f"for {write_count(tokens)} tokens"] if tokens else []
    memory = value["memory"]
    return [
        ", ".join(words),
        "",
        format_table(heads, params),
        "",
        format_table(["FLOPs per token", "", f"over {_SIX_N}", *over], flops),
        "",
        f"memory about {memory['state_gb']:.3g} GB for weights, gradients and AdamW, and "
        f"{memory['activations_gb']:.3g} GB for the activations of "
        f"{memory['batch_tokens']:,} tokens, in float32",
    ]


def _compare(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Set the shapes of a sweep side by side."""
    from scalekit.quantities import write_count

    header = ["n_layers", "d_model", *PARAMS_KINDS, *(f"{k}/{_SIX_N}" for k in FLOPS_KINDS)]
    rows = [
        [
            str(value["shape"]["n_layers"]),
            str(value["shape"]["d_model"]),
            *(write_count(value["params"][kind]) for kind in PARAMS_KINDS),
            *(f"{value['ratio_to_6N_total'][kind]:.3f}" for kind in FLOPS_KINDS),
        ]
        for value in sizes
    ]
    return format_table(header, rows)


COMMAND = size
