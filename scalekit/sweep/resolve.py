"""How each setting and quantity of a run follows from others: shape, counts, tokens, steps."""

from __future__ import annotations

from typing import Any

from scalekit.sweep.keys import DEFAULTS, SPANS
from scalekit.sweep.point import (
    SHAPE,
    Counted,
    MissingSettingError,
    Point,
    Rule,
    RunProblemError,
    counted,
    indivisible,
)
from scalekit.sweep.start import count_what_learns
from scalekit.sweep.supply import vocab
from scalekit.sweep.sweep_spec import BUDGET
from scalekit.sweep.width import choose_a_size, d_ff_at, horizon, too_many, width_for


def _d_model(p: Point) -> int:
    if p.is_given("model.n_heads") and p.is_given("model.head_dim"):
        return p["model.n_heads"] * p["model.head_dim"]
    if len(horizon(p)) < 2:
        todo = "set it, or tokens and FLOPs both"
        raise MissingSettingError("model.d_model", "model.d_model is not set", todo)
    return width_for(p)


def _n_layers(p: Point) -> int:
    raise MissingSettingError("model.n_layers", "model.n_layers is not set", "set it")


def _head_dim(p: Point) -> int:
    width = p["model.d_model"]
    if not p.is_given("model.n_heads"):
        return min(64, width)
    heads = p["model.n_heads"]
    if width % heads:
        raise indivisible("model.d_model", width, "model.n_heads", heads)
    return width // heads


def _n_heads(p: Point) -> int:
    width, head_dim = p["model.d_model"], p["model.head_dim"]
    if width % head_dim:
        raise indivisible("model.d_model", width, "model.head_dim", head_dim)
    return width // head_dim


def _d_ff(p: Point) -> int:
    return d_ff_at(p, p["model.d_model"])


def _counted(p: Point) -> Counted:
    return count_what_learns(p, counted(*[p["model." + field] for field in SHAPE]))


def _asked(p: Point) -> float:
    """Return D before it is rounded to whole steps."""
    given = horizon(p)
    if not given:
        raise MissingSettingError(
            "train.tokens",
            "nothing says how long to train",
            "set one of train.tokens, steps, flops, tokens_per_param, or isoflop",
        )
    if len(given) > 1:
        has_heads = p.is_given("model.n_heads") and p.is_given("model.head_dim")
        if not choose_a_size(given) or p.is_given("model.d_model") or has_heads:
            raise too_many(given)
        p["model.d_model"]  # chosen so that what was asked goes together
    if "train.tokens" in given:
        return given["train.tokens"]
    if "train.steps" in given:
        return given["train.steps"] * p["train.batch_tokens"]
    if "train.tokens_per_param" in given:
        return given["train.tokens_per_param"] * p["N"]
    return given.get("train.flops", p[BUDGET]) / p["flops_per_token"]


def _steps(p: Point) -> int:
    if p["train.steps"] is not None and len(horizon(p)) == 1:
        return p["train.steps"]  # without asking for D, so that a batch may be derived from steps
    asked, batch = p["asked D"], p["train.batch_tokens"]
    steps = p["train.steps"] or round(asked / batch)
    if steps < 1 and p[BUDGET] is None:
        raise RunProblemError(
            "train.batch_tokens",
            f"{asked:.4g} tokens are less than half a batch, found batch_tokens {batch}",
            "train longer or take smaller batches",
        )
    return max(1, steps)


def _share_of(span: str, share: str) -> Rule:
    def rule(p: Point) -> float:
        if p[span] is None:
            return DEFAULTS[share]
        return round(p[span] / p["train.batch_tokens"]) / p["steps"]

    return rule


RULES: dict[str, Rule] = {
    "model.d_model": _d_model,
    "model.n_layers": _n_layers,
    "model.head_dim": _head_dim,
    "model.n_heads": _n_heads,
    "model.n_kv_heads": lambda p: p["model.n_heads"],
    "model.d_ff": _d_ff,
    "model.vocab": vocab,
    "counted": _counted,
    "N": lambda p: p["counted"].params[p.count.params],
    "N_total": lambda p: p["counted"].params["total"],
    "N_embedding": lambda p: p["counted"].params["total"] - p["counted"].params["non_embedding"],
    "flops_per_token": lambda p: p["counted"].flops_per_token[p.count.flops],
    "asked D": _asked,
    "asked C": lambda p: p["asked D"] * p["flops_per_token"],
    "asked D / N": lambda p: p["asked D"] / p["N"],
    "steps": _steps,
    "D": lambda p: p["steps"] * p["train.batch_tokens"],
    "C": lambda p: p["D"] * p["flops_per_token"],
    "D / N": lambda p: p["D"] / p["N"],
    **{share: _share_of(span, share) for span, share in SPANS.items()},
}
"""How each value follows from others, where it is not given."""

UNGIVEN: dict[str, Any] = {
    BUDGET: None,
    **{name: value for name, value in DEFAULTS.items() if name not in RULES},
}
"""A run of which nothing was said."""
