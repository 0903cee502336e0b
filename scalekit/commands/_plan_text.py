"""A plan as a person reads it, as one JSON value, and as a row a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from scalekit.commands._output import format_table
from scalekit.quantities import LARGEST_WHOLE, write_count, write_duration, write_flops
from scalekit.sweep.cost import Cost
from scalekit.sweep.explain import setting
from scalekit.sweep.keys import HORIZON, SPANS
from scalekit.sweep.ladder import Saving
from scalekit.sweep.plan import Plan
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Stacking
from scalekit.sweep.sweep_spec import SweepSpec

SHOWN_FIRST, SHOWN_LAST = 6, 3
"""Runs in the table for people; the other formats list all."""

COLUMNS = (
    "run",
    "budget",
    "params",
    "tokens",
    "flops",
    "tokens_per_param",
    "n_layers",
    "d_model",
    "steps",
    "batch_tokens",
    "lr",
    "seed",
    "seconds",
)


_SAME_AS = {**SPANS, "model.ffn_mult": "model.d_ff"}
"""Settings that are resolved in others, which then tell runs apart."""


def plan_rows(spec: SweepSpec, runs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    """Return a row a run: its numbers, and every other swept setting under its dotted key.

    Of a ladder also the trunk of each branch and its last step there, as in a table of runs.
    """
    known = {"model.n_layers", "model.d_model", "train.batch_tokens", "train.lr", "train.seed"}
    said = dict.fromkeys(_SAME_AS.get(key, key) for key in swept_keys(spec))
    swept = [key for key in said if key not in known and key not in HORIZON]
    rows = [_row(run) | {key: setting(run.config, key) for key in swept} for run in runs]
    if spec.ladder is None:
        return rows
    at = {"trunk": "parent", "branch_step": "branch_step"}
    return [
        row | {name: run.plan.get(key) for name, key in at.items()}
        for row, run in zip(rows, runs, strict=True)
    ]


def swept_keys(spec: SweepSpec) -> list[str]:
    """List the settings that differ between runs by the sweep's own words, in its order."""
    # Rungs are told apart by their tokens.
    axes = [axis for axis in spec.axes if axis is not spec.ladder]
    keys = [key for axis in axes for key in axis.keys if key != "budget"]
    keys += [key for case in spec.cases for key in case.values]
    return list(dict.fromkeys(keys))


def _row(run: RunSpec) -> dict[str, Any]:
    plan, model, train = run.plan, run.config["model"], run.config["train"]
    params = plan["params"][plan["params_kind"]]
    return {
        "run": run.id,
        "budget": plan["budget"],
        "params": params,
        "tokens": plan["tokens"],
        "flops": plan["flops"][plan["flops_kind"]],
        "tokens_per_param": plan["tokens"] / params,
        "n_layers": model["n_layers"],
        "d_model": model["d_model"],
        "steps": plan["steps"],
        "batch_tokens": train["batch_tokens"],
        "lr": train["lr"],
        "seed": train["seed"],
        "seconds": plan["estimate"],
    }


def plan_value(plan: Plan) -> dict[str, Any]:
    """Return everything of a plan but its runs, for JSON."""
    return {
        **asdict(plan),
        "dropped": [
            {
                "reason": row.reason,
                "count": row.count,
                "first": {"settings": dict(row.first.config), "found": row.first.reason},
            }
            for row in plan.dropped
        ],
    }


def plan_lines(plan: Plan, spec: SweepSpec, runs: Sequence[RunSpec]) -> Iterator[str]:
    """Yield a plan as text: totals, budgets, dropped rows, findings, runs."""
    yield from _totals(plan)
    yield from _budgets(plan)
    yield from _dropped(plan)
    yield ""
    yield from _runs(plan, spec, runs)
    if plan.checks:
        yield ""
    for check in plan.checks:
        yield f"{check.level}: {check}"


def _span(low: float, high: float) -> str:
    ends = dict.fromkeys((write_count(low), write_count(high)))
    return " to ".join(ends)


def _totals(plan: Plan) -> Iterator[str]:
    runs = f"{plan.n_runs:,} run{'s' * (plan.n_runs != 1)}"
    yield (
        f"{plan.name}: {runs}, {write_flops(plan.flops)} FLOPs ({plan.flops_kind}), "
        f"{write_count(plan.tokens)} tokens"
    )
    yield (
        f"{_span(*plan.params)} params ({plan.params_kind}), "
        f"{_span(*plan.tokens_per_param)} tokens per parameter"
    )
    if plan.ladder is not None:
        yield _saving(plan.ladder)
    yield from _stacked(plan.stacking)
    estimate = plan.estimate
    # The lines above are of the whole sweep.
    left = " of what is left to start" if estimate.n_runs < plan.n_runs else ""
    largest = "run" if plan.stacking.largest == 1 else "run or batched model"
    memory = (
        f"largest {largest}{left} about {estimate.memory_gb:.2g} GB of memory, the folder about "
        f"{estimate.cost.disk_gb:.2g} GB of disk"
    )
    if estimate.wall_seconds is None or estimate.device_seconds is None:
        yield f"{estimate.source}; {memory}"
        return
    took = write_duration(estimate.wall_seconds)
    yield (
        f"estimate{left}: {took} with {estimate.at_once} at a time "
        f"({write_duration(estimate.device_seconds)} of device time), {estimate.source}"
    )
    yield from _cost(estimate.cost)
    yield memory


def _cost(cost: Cost) -> Iterator[str]:
    """Say what the runs on GPUs cost, and what a profile would have to say to know the rest."""
    if not cost.gpu_hours:
        return
    units = ("GPU-hours", cost.currency, "kWh", "kg CO2e")
    values = (cost.gpu_hours, cost.price, cost.kwh, cost.kg_co2e)
    pairs = zip(values, units, strict=True)
    told = [f"{write_count(value)} {unit}" for value, unit in pairs if value is not None]
    unknown = f"; not known: {', '.join(cost.missing)}, give them in the profile"
    yield f"cost: {', '.join(told)}{unknown if cost.missing else ''}"


def _saving(ladder: Saving) -> str:
    trunks = f"{ladder.n_trunks:,} trunk{'s' * (ladder.n_trunks != 1)}"
    branches = f"{ladder.n_branches:,} branch{'es' * (ladder.n_branches != 1)}"
    return (
        f"ladder: {trunks}, {branches}; {1 - ladder.flops / ladder.separate_flops:.0%} less than "
        f"the {write_flops(ladder.separate_flops)} FLOPs of separate runs"
    )


def _stacked(stacking: Stacking) -> Iterator[str]:
    """Say which runs train as one batched model, by whose word, and which might and do not."""
    by_speed: dict[float | None, list[int]] = {}
    for group in stacking.groups:
        by_speed.setdefault(group.speedup, []).append(len(group.runs))
    for speedup, sizes in by_speed.items():
        why = "as asked; nobody measured what that gains, so time and cost count none"
        if speedup is not None:
            why = f"{speedup:.2g} times as fast as one at a time by the profile's measurements"
        n = len(sizes)
        models = f"{n:,} batched models of {_span(min(sizes), max(sizes))}"
        models = "one batched model" if n == 1 else models
        yield f"stacked: {sum(sizes):,} runs train as {models}, {why}"
    for sentence in stacking.alone:
        yield f"not stacked: {sentence}"


def _budgets(plan: Plan) -> Iterator[str]:
    if not plan.budgets:
        return
    yield ""
    header = ["budget", "runs", "sizes", "params", "tokens per param", "prior optimum"]
    rows = [
        [
            write_flops(b.flops),
            str(b.n_runs),
            str(len(b.sizes)),
            _span(b.sizes[0], b.sizes[-1]),
            _span(*b.tokens_per_param),
            write_count(b.prior_optimum, digits=2),
        ]
        for b in plan.budgets
    ]
    yield format_table(header, rows)


def _dropped(plan: Plan) -> Iterator[str]:
    if not plan.dropped:
        return
    total = sum(row.count for row in plan.dropped)
    yield ""
    yield f"not run: {total:,} row{'s' * (total != 1)}"
    for row in plan.dropped:
        first = ", ".join(
            f"{k.rpartition('.')[2]} {_first(k, v)}" for k, v in row.first.config.items()
        )
        yield f"  {row.count:,} x {row.reason}; the first: {first} ({row.first.reason})"


def _first(key: str, value: Any) -> str:
    return write_flops(value) if key == "budget" else _short(value)


def _short(value: Any) -> str:
    if isinstance(value, int) and value > LARGEST_WHOLE:
        return write_count(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _runs(plan: Plan, spec: SweepSpec, runs: Sequence[RunSpec]) -> Iterator[str]:
    shown = list(runs)
    if len(runs) > SHOWN_FIRST + SHOWN_LAST + 1:
        shown = [*runs[:SHOWN_FIRST], *runs[-SHOWN_LAST:]]
    rows = plan_rows(spec, shown)
    columns = [c for c in rows[0] if c not in ("flops", "tokens_per_param")]
    if all(row["budget"] is None for row in rows):
        columns.remove("budget")
    cells = [[_cell(column, row[column]) for column in columns] for row in rows]
    lines = format_table([c.rpartition(".")[2] for c in columns], cells).splitlines()
    if len(shown) == len(runs):
        yield from lines
        return
    yield from lines[: 1 + SHOWN_FIRST]
    hidden = plan.n_runs - len(shown)
    yield f"... {hidden:,} more; --format csv or json lists all"
    yield from lines[1 + SHOWN_FIRST :]


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    match column:
        case "budget":
            return write_flops(value)
        case "params" | "tokens":
            return write_count(value)
        case "seconds":
            return write_duration(value)
        case "lr":
            return f"{value:.3g}"
    return _short(value)
