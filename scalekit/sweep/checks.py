"""What must hold between a run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalekit import registry
from scalekit.errors import did_you_mean
from scalekit.executors.base import count_processes
from scalekit.quantities import write_count
from scalekit.sweep.keys import HORIZON, SPANS
from scalekit.sweep.point import Point, RunProblemError, indivisible
from scalekit.sweep.spec import live_loggers
from scalekit.sweep.start import check_start
from scalekit.sweep.supply import check_supply
from scalekit.sweep.sweep_spec import BUDGET, SweepSpec
from scalekit.sweep.tasks import check_tasks
from scalekit.sweep.width import d_ff_at


def check(p: Point) -> None:
    """Refuse settings that do not go together.

    Raises:
        RunProblemError: The first that does not.
    """
    width, heads, head_dim = p["model.d_model"], p["model.n_heads"], p["model.head_dim"]
    if width != heads * head_dim:
        key = "model.n_heads" if p.is_given("model.n_heads") else "model.d_model"
        what = f"d_model {width} is not n_heads {heads} x head_dim {head_dim}"
        raise RunProblemError(key, what, "leave one of the three open")
    if head_dim % 2:
        what = f"head_dim {head_dim} is odd, and rotary positions turn pairs"
        raise RunProblemError("model.head_dim", what, f"take {head_dim - 1 or 2} or {head_dim + 1}")
    if heads % p["model.n_kv_heads"]:
        raise indivisible("model.n_heads", heads, "model.n_kv_heads", p["model.n_kv_heads"])
    if p["train.batch_tokens"] % p["model.context"]:
        raise indivisible(
            "train.batch_tokens", p["train.batch_tokens"], "model.context", p["model.context"]
        )
    if (
        p["model.ffn_mult"] is not None
        and p.is_given("model.d_ff")
        and p["model.d_ff"] != d_ff_at(p, p["model.d_model"])
    ):
        what = f"says twice how wide the MLP is, with d_ff {p['model.d_ff']}"
        raise RunProblemError("model.ffn_mult", what, "keep one of them")
    _check_parametrization(p)
    _check_schedule(p)
    _check_loggers(p)
    check_start(p)
    check_supply(p)
    check_tasks(p)


def check_processes(p: Point, needs: Mapping[str, Any]) -> None:
    """Refuse a run in so many processes that some of them would have nothing to learn from.

    Raises:
        RunProblemError: More processes than rows a step, or parts of a model where whole matrices
            are needed.
    """
    n, rows = count_processes(needs), p["train.batch_tokens"] // p["model.context"]
    if n > rows:
        what = f"batch_tokens {p['train.batch_tokens']} are {rows} rows a step for {n} processes"
        todo = f"take at most {rows} processes in `resources`, or more tokens a step"
        raise RunProblemError("train.batch_tokens", what, todo)
    whole = {"train.optimizer": "muon", "start.method": "lora"}
    for key, value in whole.items() if needs.get("shard") else ():
        if p[key] == value:
            what = f"{value} needs whole matrices, and shard: true leaves each process a part"
            raise RunProblemError(key, what, "leave shard out of `resources`")


def _check_parametrization(p: Point) -> None:
    name = p["model.parametrization"]
    if name != "standard" and p["model.base_width"] is None:
        what = f"{name} needs the width at which it equals standard"
        raise RunProblemError("model.parametrization", what, "set model.base_width")
    if name == "completep" and p["model.base_depth"] is None:
        what = "completep needs the number of layers at which it equals standard"
        raise RunProblemError("model.parametrization", what, "set model.base_depth")


def _check_loggers(p: Point) -> None:
    known = registry.names("loggers")
    for name in live_loggers(p["log.live"]):
        if name not in known:
            what = f"logger {name!r} is unknown"
            raise RunProblemError("log.live", what, did_you_mean(name, known))


def _check_schedule(p: Point) -> None:
    for span, share in SPANS.items():
        if p[span] is None:
            continue
        if p.is_given(share):
            raise RunProblemError(span, f"{share} says the same again", "keep one of them")
        # A share is of whole steps, so a little less than the run may be all of it.
        if p[span] >= p["D"] or (share == "train.warmup_frac" and p[share] >= 1):
            found, length = write_count(p[span]), write_count(p["D"])
            what = f"{found} tokens are as long as a run of {length}, or longer"
            raise RunProblemError(span, what, "shorten it, or train longer")
    _check_plateau(p)


def _check_plateau(p: Point) -> None:
    """Refuse a warm-up and a cooldown that overlap, where the longer of them was written.

    Raises:
        RunProblemError: They do.
    """
    warm, cool = p["train.warmup_frac"], p["train.decay_frac"]
    if p["train.schedule"] != "wsd" or warm + cool <= 1:
        return
    span, share = max(SPANS.items(), key=lambda pair: p[pair[1]])
    what = f"a warm-up of {100 * warm:.4g}% and a cooldown of {100 * cool:.4g}%"
    what += f" exceed a run of {write_count(p['D'])} tokens"
    raise RunProblemError(share if p[span] is None else span, what, "shorten one of them")


def where_to_write(key: str, spec: SweepSpec, in_case: bool) -> str | None:
    """Say where a setting that a run lacks must stand, if it stands where it does not reach it."""
    same = {*HORIZON, BUDGET} if key in HORIZON else {key}
    apart = "cases are runs of their own, not combined with what is swept"
    if in_case and any(same & {*axis.keys} for axis in spec.axes):
        return f"write it in the case: {apart}"
    if not in_case and any(same & case.values.keys() for case in spec.cases):
        return f"put it in base, grid or zip: {apart}"
    return None
