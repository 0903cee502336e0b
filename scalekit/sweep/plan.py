"""A plan: what a sweep will cost, what it can tell, and what is doubtful, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scalekit.sweep.design import BESIROGLU, PriorLaw
from scalekit.sweep.estimate import Estimate, Speed, estimate_runs
from scalekit.sweep.expand import Dropped, Expansion
from scalekit.sweep.ladder import Saving, saving
from scalekit.sweep.propose import available_sizes
from scalekit.sweep.ranges import check_ranges
from scalekit.sweep.recipe import check_recipe
from scalekit.sweep.review import (
    TOLERANCE,
    Budget,
    Check,
    Level,
    Point,
    check_budgets,
    check_identified,
    check_steps,
    exponent_precision,
    group_budgets,
    read_point,
)
from scalekit.sweep.spec import own_share
from scalekit.sweep.stacks import Stacking


@dataclass(frozen=True)
class DroppedRows:
    """Rows that are not run for one reason, with the first of them."""

    reason: str
    count: int
    first: Dropped


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        flops: Training FLOPs of all runs, by `flops_kind`; what branches share counts once.
        tokens: Tokens of all runs, in the same way.
        params: Smallest and largest, by `params_kind`.
        tokens_per_param: Smallest and largest.
        ladder: What branching saves, or None where nothing branches.
        stacking: Which of the runs to start train as one batched model.
        exponent_sd: What `checks` says of the exponent's precision under the prior law.
    """

    name: str
    n_runs: int
    params_kind: str
    flops_kind: str
    flops: float
    tokens: float
    params: tuple[float, float]
    tokens_per_param: tuple[float, float]
    budgets: tuple[Budget, ...]
    dropped: tuple[DroppedRows, ...]
    checks: tuple[Check, ...]
    exponent_sd: float
    estimate: Estimate
    ladder: Saving | None = None
    stacking: Stacking = field(default_factory=Stacking)

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that speak against running this at all."""
        return tuple(c for c in self.checks if c.level is Level.REFUSAL)


def plan_sweep(
    expansion: Expansion,
    *,
    at_once: int = 1,
    speed: Speed | None = None,
    prior: PriorLaw = BESIROGLU,
    stacking: Stacking | None = None,
) -> Plan:
    """Count, check and cost the runs of a sweep.

    Args:
        expansion: The runs and the rows that were dropped.
        at_once: Runs, or stacks, that go side by side.
        speed: What finished runs of this sweep showed; None before there are any.
        prior: The law that stands in for measurements.
        stacking: Which runs train as one batched model.
    """
    stacking = stacking or Stacking()
    runs, spec = expansion.runs, expansion.spec
    points = [read_point(run) for run in runs]
    shares = [own_share(run.plan) for run in runs]
    ratios = [p.D / p.N for p in points]
    budgets = group_budgets(points, prior)
    return Plan(
        name=spec.name,
        n_runs=len(runs),
        params_kind=runs[0].plan["params_kind"],
        flops_kind=runs[0].plan["flops_kind"],
        flops=sum(p.C * share for p, share in zip(points, shares, strict=True)),
        tokens=sum(p.D * share for p, share in zip(points, shares, strict=True)),
        params=(min(p.N for p in points), max(p.N for p in points)),
        tokens_per_param=(min(ratios), max(ratios)),
        budgets=budgets,
        dropped=_group_dropped(expansion.dropped),
        checks=_check(expansion, points, budgets, prior),
        exponent_sd=exponent_precision(points, prior),
        estimate=estimate_runs(
            runs,
            at_once=at_once,
            profile=spec.profile,
            speed=speed or Speed(),
            stacking=stacking,
        ),
        ladder=saving(runs),
        stacking=stacking,
    )


def _check(
    expansion: Expansion, points: Sequence[Point], budgets: Sequence[Budget], prior: PriorLaw
) -> tuple[Check, ...]:
    isoflop = expansion.spec.isoflop
    found = [
        *check_identified(points, prior),
        *check_steps(points, isoflop.tolerance if isoflop else TOLERANCE),
        *check_budgets(budgets, lambda: available_sizes(expansion.spec), prior),
        *check_recipe(points),
        *check_ranges((rule.text for rule in expansion.spec.derive.values()), points),
    ]
    order = list(Level)
    return tuple(sorted(found, key=lambda check: order.index(check.level)))


def _group_dropped(dropped: Sequence[Dropped]) -> tuple[DroppedRows, ...]:
    groups: dict[str, list[Dropped]] = {}
    for row in dropped:
        groups.setdefault(_kind_of(row), []).append(row)
    return tuple(DroppedRows(kind, len(rows), rows[0]) for kind, rows in groups.items())


def _kind_of(row: Dropped) -> str:
    """Say why a row was dropped without the row's own numbers."""
    if row.because:
        return row.because
    if row.reason.startswith("same as run"):
        return "the same as another run"
    return row.reason.split(", with ")[0]
