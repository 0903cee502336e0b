"""From a SweepSpec to runs: every combination resolved, then kept or dropped with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.config.problems import ConfigError, Problem
from scalekit.counting import FLOPS_KINDS
from scalekit.quantities import count_words, write_count, write_flops, write_ratio
from scalekit.sweep.checks import check, check_processes
from scalekit.sweep.complaints import Complaints
from scalekit.sweep.expressions import Expression, ExpressionError
from scalekit.sweep.identity import build_config, run_id, section_values
from scalekit.sweep.keys import SPANS, check_value
from scalekit.sweep.ladder import link_rungs
from scalekit.sweep.load import BEFORE
from scalekit.sweep.point import Point, Rule
from scalekit.sweep.resolve import RULES, UNGIVEN
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.start import Parents, begin_from, plan_start, resolved_start
from scalekit.sweep.supply import check_repetition, facts_rules, n_rows_rule
from scalekit.sweep.sweep_spec import BUDGET, Option, SweepSpec
from scalekit.sweep.tasks import tasks_rule

MOST_RUNS = 100_000

_MANY_TIMES = 9.0  # off a budget; beyond it, percent are hard to read


@dataclass(frozen=True)
class Dropped:
    """A row of the sweep that is not run.

    Attributes:
        config: The settings that the sweep varies, by dotted key, with `budget`.
        reason: What was found.
        because: Why such rows are not wanted, in the user's words.
    """

    config: Mapping[str, Any]
    reason: str
    because: str = ""


@dataclass(frozen=True)
class Expansion:
    """All runs of a sweep, in the order of its file, and the rows that are not run."""

    spec: SweepSpec
    runs: tuple[RunSpec, ...]
    dropped: tuple[Dropped, ...]


def expand(spec: SweepSpec) -> Expansion:
    """Resolve every run of a sweep.

    Raises:
        InputError: Settings that do not go together, each once with its position; more runs than
            anyone can read; or nothing left to run.
    """
    if spec.n_points > MOST_RUNS:
        what = f"{spec.n_points} runs, more than {MOST_RUNS}"
        raise ConfigError([Problem(spec.place, what, "split the sweep")])
    expander = _Expander(spec)
    for options in spec.points():
        expander.add(options)
    expander.complaints.raise_if_any()
    expander.link()
    expander.complaints.raise_if_any()
    if not expander.runs:
        raise ConfigError([_nothing_left(spec, expander.dropped)])
    return Expansion(spec, tuple(expander.runs.values()), tuple(expander.dropped))


def resolver(spec: SweepSpec) -> Callable[[Mapping[str, Any]], Point]:
    """Return what makes of some settings, over the sweep's own, a run that goes together.

    What is returned raises RunProblemError where they do not.
    """
    expander = _Expander(spec)

    def resolve(settings: Mapping[str, Any]) -> Point:
        point = expander.point(settings)
        check(point)
        return point

    return resolve


def _nothing_left(spec: SweepSpec, dropped: list[Dropped]) -> Problem:
    reasons = Counter(row.because or row.reason for row in dropped).most_common(5)
    shown = ", ".join(f"{n} x {reason}" for reason, n in reasons)
    place = spec.where[0].keep.place if spec.where else spec.place
    what = f"no run is left of {len(dropped)}" + (f", {shown}" if shown else "")
    return Problem(place, what, "loosen `where`, or change the sizes and budgets")


class _Expander:
    """Collects runs and dropped rows."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.runs: dict[str, RunSpec] = {}
        self.dropped: list[Dropped] = []
        self.complaints = Complaints(spec)
        self.parents = Parents()
        self.given = _without_open({**UNGIVEN, **spec.base.values})
        self.ladders: dict[tuple[int, ...], list[tuple[str, tuple[Option, ...]]]] = {}
        of_data = {**facts_rules(), "n_rows": n_rows_rule()}
        self.rules: dict[str, Rule] = {**RULES, **of_data, "tasks": tasks_rule()}
        for key, expression in spec.derive.items():
            self.rules[key] = _derived(key, expression)

    def add(self, options: tuple[Option, ...]) -> None:
        """Resolve the run of these options, and keep, drop or refuse it."""
        with self.complaints.about(options):
            self._add(options)

    def link(self) -> None:
        """Make the rungs of each ladder a trunk and its branches."""
        for rungs in self.ladders.values():
            with self.complaints.about(rungs[-1][1]):
                linked = link_rungs([self.runs[run] for run, _ in rungs])
                self.runs |= {run.id: run for run in linked}

    def _add(self, options: tuple[Option, ...]) -> None:
        varied: dict[str, Any] = {}
        for option in options:
            varied.update(option.values)
        point = self.point(varied)
        check(point)
        dropped = self._missed_budget(point) or self._unwanted(point)
        if dropped:
            self.dropped.append(Dropped(varied, *dropped))
            return
        check_repetition(point)
        plan = _plan(point)
        needs = self._needs(point)
        check_processes(point, needs)
        for key in self.spec.derive:
            point[key]  # follows from what was asked, which is overwritten here
        point.update(_resolved(point))
        values = section_values(point)
        name = run_id(values)
        config = build_config(values)
        twin = self.runs.get(name)
        if twin is not None:
            self._refuse_collision(twin, config, options)
            self.dropped.append(Dropped(varied, f"same as run {name}"))
            return
        self.runs[name] = RunSpec(name, config, plan, needs)
        if self.spec.ladder and options[-1] in self.spec.ladder.options:
            self.ladders.setdefault(tuple(map(id, options[:-1])), []).append((name, options))

    def point(self, varied: Mapping[str, Any]) -> Point:
        given = {**self.given, **_without_open(varied)}
        given |= begin_from(given, {**self.spec.base.values, **varied}, self.parents)
        for key in self.spec.derive:
            given[BEFORE + key] = given.pop(key, None)
        return Point(given, self.rules, self.spec.derive, self.spec.count)

    def _missed_budget(self, point: Point) -> tuple[str, str] | None:
        budget, isoflop = point[BUDGET], self.spec.isoflop
        if budget is None or isoflop is None:
            return None
        miss = point["C"] / budget - 1
        if abs(miss) <= isoflop.tolerance:
            return None
        steps = point["steps"]
        gives = f"{count_words(steps, 'whole step')} give{'s' * (steps == 1)}"
        off = f"{miss:+.1%} off" if miss < _MANY_TIMES else f"{write_ratio(miss + 1)} times"
        return (
            f"{gives} {write_flops(point['C'])} FLOPs, {off} the budget {write_flops(budget)}",
            f"tolerance is {100 * isoflop.tolerance:g}%",
        )

    def _unwanted(self, point: Point) -> tuple[str, str] | None:
        for rule in self.spec.where:
            if not rule.keep.value(point):
                found = ", ".join(f"{n} = {_short(n, point[n])}" for n in sorted(rule.keep.names))
                return f"not {rule.keep.text}, with {found}", rule.because
        return None

    def _needs(self, point: Point) -> dict[str, Any]:
        limit = self.spec.time.limit
        time_s = None if limit == "auto" else limit
        for rule in self.spec.resources:
            if rule.when is None or rule.when.value(point):
                return {**rule.needs, "time_s": time_s}
        if self.spec.resources:
            when = self.spec.resources[-1].when
            place = when.place if when else self.spec.place
            what = "no rule of `resources` holds for some runs"
            raise ExpressionError(Problem(place, what, "end the list with a rule without `when`"))
        return {"gpus": 0, "nodes": 1, "cpus": None, "memory_gb": None, "pack": 1, "time_s": time_s}

    def _refuse_collision(
        self, twin: RunSpec, config: Mapping[str, Any], options: tuple[Option, ...]
    ) -> None:
        if twin.config == config:
            return
        place = next((p for o in options for p in o.places.values()), self.spec.place)
        what = f"two different runs have the id {twin.id}"
        todo = "they differ only in what does not change a result; keep one of them"
        raise ExpressionError(Problem(place, what, todo))


def _without_open(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was written as null and follows from other settings by a rule."""
    return {k: v for k, v in settings.items() if v is not None or k not in RULES}


def _short(name: str, value: Any) -> str:
    write = write_flops if name == "C" else write_count
    return write(value) if isinstance(value, int | float) and value >= 1 else str(value)


def _derived(key: str, expression: Expression) -> Rule:
    def rule(point: Point) -> Any:
        return check_value(key, expression.value(point), expression.place)

    return rule


def _resolved(point: Point) -> dict[str, Any]:
    """Return the settings that say in other words what is resolved: equal runs become equal."""
    return {
        "train.tokens": point["D"],
        "train.steps": point["steps"],
        "train.flops": None,
        "train.tokens_per_param": None,
        **{share: point[share] for share in SPANS.values()},
        **dict.fromkeys(SPANS),
        "model.ffn_mult": None,
        "data.tokenizer": point["facts"].get("tokenizer") or point["data.tokenizer"],
        "data.weights": point["facts"].get("weights") or point["data.weights"],
        "data.fingerprint": point["facts"].get("fingerprint") or point["data.fingerprint"],
        **resolved_start(point),
    }


def _plan(point: Point) -> dict[str, Any]:
    counted, tokens = point["counted"], point["D"]
    budget = point[BUDGET]
    return {
        "params": counted.params,
        "flops_per_token": counted.flops_per_token,
        "flops": {kind: counted.flops_per_token[kind] * tokens for kind in FLOPS_KINDS},
        "tokens": tokens,
        "steps": point["steps"],
        "params_kind": point.count.params,
        "flops_kind": point.count.flops,
        "budget": budget if budget is not None else point["train.flops"],
        "group": None,
        "estimate": None,
        **plan_start(point),
    }
