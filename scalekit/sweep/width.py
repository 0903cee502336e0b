"""Choose a width so that a model's tokens and FLOPs go together; two of three give the third."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scalekit.quantities import write_flops
from scalekit.sweep.point import SHAPE, Counted, Point, RunProblemError, counted
from scalekit.sweep.sweep_spec import BUDGET

_MULTIPLE = 8  # of d_ff with swiglu, whose 8/3 is rarely whole
_WIDEST = 2**17


def horizon(p: Point) -> dict[str, float]:
    """Return what was asked of how long to train, by key."""
    given = {
        "train.tokens": p["train.tokens"],
        "train.steps": p["train.steps"],
        "train.flops": p["train.flops"],
        "train.tokens_per_param": p["train.tokens_per_param"],
        BUDGET: p[BUDGET],
    }
    return {key: value for key, value in given.items() if value is not None}


def choose_a_size(given: Mapping[str, float]) -> bool:
    """Whether these are FLOPs and tokens, which leave one size that takes both."""
    return len(given) == 2 and ("train.flops" in given) != (BUDGET in given)


def too_many(given: Mapping[str, float]) -> RunProblemError:
    """Say that more than one setting says how long to train."""
    words = ["isoflop.budgets" if key == BUDGET else key for key in given]
    return RunProblemError(
        next(key for key in given if key != BUDGET),
        f"says twice how long to train, found {' and '.join(words)}",
        "keep one of them, or leave model.d_model open and keep tokens and FLOPs",
    )


def d_ff_at(p: Point, width: int) -> int:
    """Return the width of the MLP that goes with a width of the model."""
    mult, swiglu = p["model.ffn_mult"], p["model.mlp"] == "swiglu"
    exact = width * (mult or (8 / 3 if swiglu else 4))
    return _MULTIPLE * math.ceil(exact / _MULTIPLE - 1e-9) if swiglu else max(1, round(exact))


def width_for(p: Point) -> int:
    """Choose d_model so that tokens and FLOPs fit, in multiples of what the heads allow."""
    if p.is_given("model.head_dim"):
        unit = p["model.head_dim"]
    elif p.is_given("model.n_heads"):
        unit = 2 * p["model.n_heads"]
    else:
        raise RunProblemError("model.d_model", "is open and so is head_dim", "set model.head_dim")
    given = horizon(p)
    if not choose_a_size(given):
        raise too_many(given)
    wanted = given["train.flops"] if "train.flops" in given else given[BUDGET]

    def flops(width: int) -> float:
        shape = _counted_at(p, width)
        if "train.tokens" in given:
            tokens = given["train.tokens"]
        elif "train.steps" in given:
            tokens = given["train.steps"] * p["train.batch_tokens"]
        else:
            tokens = given["train.tokens_per_param"] * shape.params[p.count.params]
        return tokens * shape.flops_per_token[p.count.flops]

    low, high = 1, _WIDEST // unit
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if flops(middle * unit) < wanted else (low, middle)
    around = [width * unit for width in (low - 1, low) if width > 0]
    best = min(around, key=lambda width: abs(math.log(flops(width) / wanted)))
    if abs(flops(best) / wanted - 1) > p.count.tolerance:
        near = " and ".join(f"{width} gives {write_flops(flops(width))}" for width in around)
        raise RunProblemError(
            "model.d_model",
            f"no multiple of {unit} gives {write_flops(wanted)} FLOPs with these tokens, {near}",
            "take a smaller head_dim, or widen count.tolerance",
            also=tuple(given),
        )
    return best


def _counted_at(p: Point, width: int) -> Counted:
    """Count the shape that the run would have at a width."""
    if p.is_given("model.n_heads"):
        heads = p["model.n_heads"]
        head_dim = width // heads
    else:
        head_dim = p["model.head_dim"]
        heads = width // head_dim
    shape = {
        "d_model": width,
        "n_heads": heads,
        "head_dim": head_dim,
        "n_kv_heads": p["model.n_kv_heads"] if p.is_given("model.n_kv_heads") else heads,
        "d_ff": p["model.d_ff"] if p.is_given("model.d_ff") else d_ff_at(p, width),
    }
    return counted(*[shape[f] if f in shape else p["model." + f] for f in SHAPE])
