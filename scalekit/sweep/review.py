"""What is doubtful about a design before it is paid for: sentences with a level and a remedy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from scalekit.quantities import count_words, write_count, write_flops
from scalekit.sweep.design import PriorLaw, confounding, exponent_sd, fill_valley
from scalekit.sweep.spec import RunSpec

WANTED_SIZES = 5
"""Sizes a budget: a parabola has three coefficients, and its minimum needs a side on each hand."""

WANTED_BUDGETS = 4
"""Budgets: two for a line, one for its residual, and the largest held out."""

NOISE = 0.005
"""Relative noise of a loss at which a design's precision is quoted."""

TOLERANCE = 0.01
"""How far the FLOPs of a run may be from those that it asks for, unless its isoFLOP design says."""

_RAY = 1.2  # tokens per parameter, largest over smallest, that still is one ray
_NARROW = 4.0  # ... and that is a ray with some breadth
_USELESS_SD = 0.1  # an exponent near 0.5 that is known to 0.1 decides nothing
_SEARCH = 3  # settings tried at one (size, tokens): a search, not a law


class Level(StrEnum):
    """How much a finding matters."""

    REFUSAL = "refusal"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Check:
    """One finding: what it is about, what was found, what to do."""

    level: Level
    topic: str
    text: str
    todo: str = ""

    def __str__(self) -> str:
        return self.text + (f"; {self.todo}" if self.todo else "")


@dataclass(frozen=True)
class Budget:
    """The runs that are planned at one budget, and the prior's optimum there.

    Attributes:
        group: None; no sweep has groups, but `sweep --format json` has the key.
        sizes: The different params, rising.
        tokens_per_param: Smallest and largest.
        centre: Params around which the valley should be sampled.
    """

    group: None = field(default=None, kw_only=True)
    flops: float
    n_runs: int
    sizes: tuple[float, ...]
    tokens_per_param: tuple[float, float]
    prior_optimum: float
    centre: float


@dataclass(frozen=True)
class Point:
    """What the checks read of a run."""

    N: float
    D: float
    C: float
    budget: float | None
    steps: int
    train: Mapping[str, object]
    model: Mapping[str, Any]

    @property
    def place(self) -> tuple[float, float]:
        """Params and tokens: where the run lies in the law's plane."""
        return self.N, self.D


def read_point(run: RunSpec) -> Point:
    """Take from a run what the checks read."""
    plan, config = run.plan, run.config
    return Point(
        N=float(plan["params"][plan["params_kind"]]),
        D=float(plan["tokens"]),
        C=float(plan["flops"][plan["flops_kind"]]),
        budget=plan["budget"],
        steps=int(plan["steps"]),
        train=config["train"],
        model=config["model"],
    )


def group_budgets(points: Iterable[Point], prior: PriorLaw) -> tuple[Budget, ...]:
    """Gather the runs of each planned budget; runs without one are left out."""
    gathered: dict[float, list[Point]] = defaultdict(list)
    for point in points:
        if point.budget is not None:
            gathered[point.budget].append(point)
    return tuple(_budget(flops, gathered[flops], prior) for flops in sorted(gathered))


def _budget(flops: float, runs: Sequence[Point], prior: PriorLaw) -> Budget:
    sizes = tuple(sorted({p.N for p in runs}))
    ratios = [p.D / p.N for p in runs]
    # FLOPs a token and parameter are 6 only where attention, head and embedding are small.
    costs = sorted(p.C / (p.N * p.D) for p in runs)
    optimum = prior.optimum(flops, costs[len(costs) // 2])
    centre = optimum
    if optimum < prior.params_from:
        # The law may point far below its own runs; then the user's sizes say how far to go.
        centre = min(max(optimum, sizes[0]), sizes[-1])
    return Budget(flops, len(runs), sizes, (min(ratios), max(ratios)), optimum, centre)


Available = Callable[[], Mapping[float, str]]
"""Lists params that this sweep's settings can give beside its own, each with those settings."""


def check_budgets(budgets: Sequence[Budget], available: Available, prior: PriorLaw) -> list[Check]:
    """Look at the number of budgets, the sizes at each, and where each valley should lie."""
    if not budgets:
        return []
    found = []
    if len(budgets) < WANTED_BUDGETS:
        text = f"{count_words(len(budgets), 'budget')}, a frontier with a held-out end needs"
        todo = "add budgets, each 2 to 4 times the one before"
        found.append(Check(Level.WARNING, "budgets", f"{text} {WANTED_BUDGETS}", todo))
    found += _few_sizes([b for b in budgets if len(b.sizes) < WANTED_SIZES], available)
    return found + _edges(budgets, prior)


def _named(budgets: Sequence[Budget]) -> str:
    return f"budget{'s' * (len(budgets) > 1)} " + ", ".join(write_flops(b.flops) for b in budgets)


def _few_sizes(budgets: Sequence[Budget], available: Available) -> list[Check]:
    if not budgets:
        return []
    counts = sorted({len(b.sizes) for b in budgets})
    n = " or ".join(str(c) for c in counts)
    text = f"{_named(budgets)}: {n} size{'s' * (counts[-1] > 1)}, a valley needs"
    ways = available()
    chosen: tuple[float, ...] = ()
    for b in budgets:
        # One size may serve several budgets, so each sees what the ones before it asked for.
        chosen += fill_valley((*b.sizes, *chosen), b.centre, WANTED_SIZES, ways)
    known = [f"{ways[N]} ({write_count(N, digits=2)})" for N in sorted(chosen)]
    todo = [f"to the sizes {', '.join(known)}"] if known else []
    for b in budgets:
        chosen += fill_valley((*b.sizes, *chosen), b.centre, WANTED_SIZES)
    near = [write_count(N, digits=2) for N in sorted(set(chosen) - set(ways))]
    todo += [f"sizes near {', '.join(near)} params"] if near else []
    text = f"{text} {WANTED_SIZES}"
    return [Check(Level.WARNING, "sizes", text, f"add {' and '.join(todo)}")]


def _edges(budgets: Sequence[Budget], prior: PriorLaw) -> list[Check]:
    found = []
    for side in ("below", "above"):
        off = [b for b in budgets if _side(b) == side]
        if not off:
            continue
        ends = dict.fromkeys(write_count(b.prior_optimum, digits=2) for b in (off[0], off[-1]))
        text = f"{_named(off)}: {prior.name} put the optimum at {' to '.join(ends)} params,"
        text += f" {side} all sizes; the minimum may lie on the edge"
        if off[-1].prior_optimum < prior.params_from:
            todo = f"their smallest model had {write_count(prior.params_from)}: at this scale trust"
            todo += " your own first valley over it"
            found.append(Check(Level.NOTE, "edge", text, todo))
        else:
            found.append(Check(Level.WARNING, "edge", text, f"add sizes {side} the present ones"))
    return found


def _side(b: Budget) -> str | None:
    if b.sizes[0] < b.prior_optimum < b.sizes[-1]:
        return None
    return "below" if b.prior_optimum <= b.sizes[0] else "above"


def check_steps(points: Iterable[Point], tolerance: float) -> list[Check]:
    """Look at whether whole steps meet the FLOPs that runs ask for, as an isoFLOP design does.

    What misses by more than half a step is no matter of steps: a width was chosen for it.
    """
    misses = [(p.C / p.budget - 1, p) for p in points if p.budget]
    off = [(m, p) for m, p in misses if tolerance < abs(m) <= (0.5 + 1e-6) / (p.steps or 1)]
    if not off:
        return []
    worst, p = max(off, key=lambda pair: abs(pair[0]))
    assert p.budget is not None
    text = f"whole steps miss the FLOPs of {count_words(len(off), 'run')} by more than"
    text += f" {tolerance:.0%}, most where {count_words(p.steps, 'step')} are {write_flops(p.C)},"
    text += f" {worst:+.1%} off {write_flops(p.budget)}"
    todo = "take smaller batches or more FLOPs, or do not take them for runs of one budget"
    return [Check(Level.WARNING, "rounding", text, todo)]


def check_identified(points: Sequence[Point], prior: PriorLaw) -> list[Check]:
    """Look at whether params and tokens vary apart from each other, and how precisely."""
    sizes, places = {p.N for p in points}, sorted({p.place for p in points})
    if len(sizes) == 1:
        text = (
            f"one size, {count_words(len(places), 'token count')}: no law in params can be fitted"
        )
        todo = "fine for a search of settings; a law needs more sizes"
        return [Check(Level.NOTE, "law", text, todo)]
    ratios = [D / N for N, D in places]
    spread = max(ratios) / min(ratios)
    if spread <= _RAY:
        return [_ray(points, places, prior)]
    found = []
    if spread < _NARROW:
        text = f"tokens per parameter vary by {spread:.2g}x only"
        todo = "spread them by 10x or more: smaller models trained longer, larger ones shorter"
        found.append(Check(Level.WARNING, "spread", text, todo))
    return [*found, _precision(exponent_precision(points, prior), min(sizes), prior)]


def exponent_precision(points: Iterable[Point], prior: PriorLaw) -> float:
    """Return the sd of the exponent of N*(C) under the prior; a seed is a run, a setting is not."""
    # Of several learning rates at one place only the best informs a law.
    distinct = {(*p.place, p.train["seed"]) for p in points}
    return exponent_sd(prior, [(N, D) for N, D, _ in distinct], NOISE)


def _ray(points: Sequence[Point], places: Sequence[tuple[float, float]], prior: PriorLaw) -> Check:
    ratios = sorted(D / N for N, D in places)
    middle = ratios[len(ratios) // 2]
    condition = confounding(prior, places)
    text = (
        f"every run has D = {middle:.3g} N, one ray: A, B and the exponents cannot be told apart "
        f"(condition number {condition:.2g} under {prior.name}), however many runs are added"
    )
    todo = f"train some sizes on {middle / 4:.2g} or {middle * 4:.2g} tokens a parameter"
    settings: dict[tuple[float, float], set[tuple[object, ...]]] = defaultdict(set)
    for p in points:
        settings[p.place].add(tuple(v for k, v in sorted(p.train.items()) if k != "seed"))
    # Three learning rates and more at each size look for the best one, which a ray may well do.
    is_search = min(len(tried) for tried in settings.values()) >= _SEARCH
    return Check(Level.WARNING if is_search else Level.REFUSAL, "unidentified", text, todo)


def _precision(sd: float, smallest: float, prior: PriorLaw) -> Check:
    if sd >= _USELESS_SD:
        value = "not at all" if sd > 1 else f"to ±{sd:.2g} only"
        text = f"with {NOISE:.1%} noise this design would give the exponent of N*(C) {value}"
        todo = "vary params and tokens apart from each other, over more decades"
        return Check(
            Level.WARNING, "precision", f"{text} if the law were that of {prior.name}", todo
        )
    text = f"with {NOISE:.1%} noise this design would give the exponent of N*(C) to ±{sd:.1g}"
    text += f" if the law were that of {prior.name}"
    if smallest < prior.params_from:
        text += f", whose smallest model had {write_count(prior.params_from)} params"
    return Check(Level.NOTE, "precision", text)
