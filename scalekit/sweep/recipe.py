"""What of a recipe confounds a law: batch jumps, warm-up, one rate, short runs, one seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from scalekit.quantities import write_count, write_flops
from scalekit.sweep.review import Check, Level, Point

_BATCH_JUMP = 1.9  # rounding to powers of two jumps by 2
_LONG_WARMUP = 0.25
_FEW_STEPS = 100
_OTHER_SHAPE = 1.5  # more than rounding a width makes of it
_ONE_RATE_SPAN = 4.0  # sizes over which one learning rate is no longer near all their optima


def check_recipe(points: Sequence[Point]) -> list[Check]:
    """Look at what would bend a law although every run is right by itself."""
    checks = (
        _batch_jumps, _warmup, _short_runs, _one_rate, _transfer, _no_cooldown, _one_seed,
    )  # fmt: skip
    return [finding for check in checks for finding in check(points)]


def _batch_jumps(points: Sequence[Point]) -> list[Check]:
    batches: dict[float, dict[float, set[float]]] = defaultdict(lambda: defaultdict(set))
    for p in points:
        if p.budget is not None:
            batches[p.budget][p.N].add(_number(p, "batch_tokens"))
    jumps = []
    for flops, by_size in batches.items():
        for (a, one), (b, two) in pairwise(sorted(by_size.items())):
            # Where batches are swept there is no single curve to have a step.
            ratio = max(*one, *two) / min(*one, *two)
            if len(one) == len(two) == 1 and ratio >= _BATCH_JUMP:
                jumps.append((ratio, flops, a, b))
    if not jumps:
        return []
    ratio, flops, a, b = max(jumps)
    more = f" (and {len(jumps) - 1} more)" if len(jumps) > 1 else ""
    text = f"budget {write_flops(flops)}: the batch jumps {ratio:.2g}x between neighbours"
    text += f" {write_count(a)} and {write_count(b)}{more}: a step in the valley"
    return [Check(Level.WARNING, "batch", text, "round the batch finer than to powers of two")]


def _number(point: Point, key: str) -> float:
    value = point.train[key]
    assert isinstance(value, int | float)
    return float(value)


def _warmup(points: Sequence[Point]) -> list[Check]:
    found = []
    longest = max(_number(p, "warmup_frac") for p in points)
    if longest > _LONG_WARMUP:
        text = f"warm-up takes up to {longest:.0%} of training, which costs short runs most"
        source = "(Porian et al. 2024, arXiv:2406.19146)"
        todo = f"keep train.warmup_frac at {_LONG_WARMUP:g} or less"
        found.append(Check(Level.WARNING, "warmup", f"{text} {source}", todo))
    bare = sum(_number(p, "warmup_frac") * p.steps < 1 for p in points)
    if bare:
        text = f"runs that warm up for less than one step: {bare:,} of {len(points):,}"
        found.append(Check(Level.NOTE, "warmup", text, "set train.warmup_frac"))
    return found


def _short_runs(points: Sequence[Point]) -> list[Check]:
    short = [p.steps for p in points if p.steps < _FEW_STEPS]
    if not short:
        return []
    runs = f"{len(short):,} of {len(points):,} runs" if len(points) > 1 else "the only run"
    verb, whose, whom = ("takes", "its", "it") if len(short) == 1 else ("take", "their", "them")
    text = f"{runs} {verb} fewer than {_FEW_STEPS} steps (the shortest {min(short)}):"
    text += f" {whose} loss measures the optimiser's start"
    return [Check(Level.WARNING, "steps", text, f"make train.batch_tokens smaller for {whom}")]


def _one_rate(points: Sequence[Point]) -> list[Check]:
    rates = {_number(p, "lr") for p in points}
    span = max(p.N for p in points) / min(p.N for p in points)
    transfers = any(p.model["parametrization"] != "standard" for p in points)
    if len(rates) > 1 or transfers or span < _ONE_RATE_SPAN:
        return []
    text = f"one learning rate ({rates.pop():g}) for sizes {span:.2g}x apart: what suits some sizes"
    text += " better than others tilts the exponent"
    todo = "derive train.lr from N, or take parametrization mup"
    return [Check(Level.WARNING, "lr", text, todo)]


def _transfer(points: Sequence[Point]) -> list[Check]:
    """Look at whether all of a model's widths grow as the one does that its rates go by."""
    models = [p.model for p in points if p.model["parametrization"] != "standard"]
    shares = {model["d_ff"] / model["d_model"] for model in models}
    heads = {model["head_dim"] for model in models}
    found = []
    if models and max(shares) / min(shares) > _OTHER_SHAPE:
        text = f"d_ff is {min(shares):.3g} to {max(shares):.3g} times d_model, and the rate of what"
        text += " reads from it is set by d_model: it does not transfer"
        todo = "let model.d_ff grow with model.d_model"
        found.append(Check(Level.WARNING, "transfer", text, todo))
    if models and max(heads) / min(heads) > _OTHER_SHAPE:
        text = f"head_dim is {min(heads)} to {max(heads)}: attention keeps its scale from one size"
        text += " to the next only where heads keep theirs"
        todo = "fix model.head_dim and let model.n_heads grow"
        found.append(Check(Level.WARNING, "transfer", text, todo))
    return found


def _no_cooldown(points: Sequence[Point]) -> list[Check]:
    averaged = sum(p.train["average_frac"] is not None for p in points)
    if averaged:
        text = f"averaged weights, evaluated in {averaged:,} of {len(points):,} runs, approximate a"
        text += " cooldown: how far the loss lies above that of one is not known here"
        todo = "cool one of them down beside it, with schedule wsd"
        return [Check(Level.NOTE, "average", text, todo)]
    if any(p.train["schedule"] != "constant" for p in points):
        return []
    text = "the learning rate never falls: a loss before its cooldown can lie farther above the one"
    text += " after it than the valleys are deep"
    return [Check(Level.NOTE, "schedule", text, "take schedule cosine or wsd")]


def _one_seed(points: Sequence[Point]) -> list[Check]:
    seeds = {p.train["seed"] for p in points}
    if len(seeds) > 1:
        return []
    share = 2 * min(p.C for p in points) / sum(p.C for p in points)
    text = f"every run has seed {seeds.pop()}: the noise of a loss is not measured"
    cost = f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"
    todo = f"two more seeds of the cheapest run cost {cost} more"
    return [Check(Level.NOTE, "seeds", text, todo)]
