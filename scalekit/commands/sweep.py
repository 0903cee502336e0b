"""`scalekit sweep FILE`: show a sweep's plan, ask, and start the runs that are missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit import registry
from scalekit.commands._limits import check_limit, check_loggers, check_memory
from scalekit.commands._output import Format, FormatOption, format_table, print_csv, print_json
from scalekit.commands._places import count_places
from scalekit.errors import OK, InputError, UsageError, did_you_mean
from scalekit.results.store import SweepFolder, check_writable

if TYPE_CHECKING:
    from scalekit.executors.base import Executor
    from scalekit.launch.missing import Todo
    from scalekit.sweep.estimate import Speed, Took
    from scalekit.sweep.expand import Expansion
    from scalekit.sweep.plan import Plan
    from scalekit.sweep.sections import Profile
    from scalekit.sweep.spec import RunSpec


@dataclass(frozen=True)
class _Study:
    """A sweep, ready to be shown and started."""

    expansion: Expansion
    plan: Plan
    todo: Todo
    folder: SweepFolder
    kind: str
    executor: Executor
    speed: Speed


def sweep(  # noqa: PLR0917  # typer reads the options from the signature
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the sweep's YAML file")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="show the plan and change nothing")
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="change a setting; repeatable"),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--executor", "-e", help="who executes: local, inline, slurm")
    ] = None,
    max_parallel: Annotated[int | None, typer.Option(min=1, help="runs at a time")] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help="also start runs that ended so: failed, diverged, pruned; repeatable"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="start every run anew; old records are moved aside")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT", help="refuse what costs more: 1e18 (FLOPs), 30h, 500USD, 20kWh"
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="return when all have ended; local and inline always do"),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the sweep's folder; runs/NAME unless given")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="show where each setting of one run came from"),
    ] = None,
    allow_unidentified: Annotated[
        bool,
        typer.Option("--allow-unidentified", help="start a design that cannot determine a law"),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what a sweep will do and cost, check it, and start the runs that are missing."""
    expansion = _expand(file, sets or [])
    if explain is not None:
        return _show_explanation(expansion, explain, form)
    settings = _settings(expansion, max_parallel, out)
    study = _study(expansion, kind, settings, _endings(retry or []), force)
    _show(study, form)
    _refuse(study, budget, allow_unidentified)
    if dry_run:
        return None
    return _start(study, yes=yes, wait=wait, retry=_endings(retry or []), force=force)


def _expand(file: Path, sets: Sequence[str]) -> Expansion:
    from scalekit.sweep.estimate import with_estimates
    from scalekit.sweep.expand import expand
    from scalekit.sweep.load import load_sweep

    spec = load_sweep(file, sets)
    expansion = expand(spec)
    return replace(expansion, runs=with_estimates(expansion.runs, spec.profile))


def _endings(words: Sequence[str]) -> list[str]:
    """Read `--retry failed,diverged`, once or several times."""
    from scalekit.launch.missing import RETRIABLE

    endings = [word.strip() for text in words for word in text.split(",") if word.strip()]
    for word in endings:
        if word not in RETRIABLE:
            raise UsageError(f"--retry {word!r}: unknown; {did_you_mean(word, RETRIABLE)}")
    return endings


def _settings(expansion: Expansion, max_parallel: int | None, out: Path | None) -> Any:
    from scalekit.executors.base import Settings

    spec = expansion.spec
    return Settings(
        max_parallel=max_parallel or spec.executor.max_parallel,
        threads=spec.executor.threads,
        folder=out or Path("runs") / spec.name,
        safety=spec.time.safety,
        profile=spec.profile.model_dump() if spec.profile else {},
    )


def _study(
    expansion: Expansion, kind: str | None, settings: Any, retry: Sequence[str], force: bool
) -> _Study:
    from scalekit.launch.missing import find_missing
    from scalekit.results.plan import check_same_sweep
    from scalekit.sweep.estimate import estimate_runs, measured_speed
    from scalekit.sweep.plan import plan_sweep
    from scalekit.sweep.stacks import Stacking, plan_stacks

    spec, folder = expansion.spec, SweepFolder(settings.folder)
    kind = kind or spec.executor.kind
    make = registry.find("executors", kind)
    executor = make(replace(settings, folder=folder.root / kind))
    check_writable(folder.root, "choose another folder with --out")
    check_same_sweep(folder, spec.name, [run.id for run in expansion.runs])
    todo = find_missing(expansion.runs, folder, retry=retry, force=force)
    done = [(run, todo.states[run.id]) for run in expansion.runs]
    took = [(r, _took(r, s.last, spec.profile)) for r, s in done if s.status == "done"]
    speed = measured_speed(took, spec.profile)
    costed = todo.start or expansion.runs
    stacking = plan_stacks(costed, spec.profile)
    at_once = count_places(executor, settings.max_parallel, costed, stacking)
    plan = plan_sweep(expansion, at_once=at_once, speed=speed, stacking=stacking)
    if not todo.start:
        plan = replace(plan, stacking=Stacking())
    elif len(todo.start) < len(expansion.runs):
        site = {"at_once": at_once, "profile": spec.profile, "speed": speed}
        plan = replace(plan, estimate=estimate_runs(todo.start, stacking=stacking, **site))
    if executor.in_foreground:
        n_side_by_side = at_once * stacking.largest
        here = (*check_memory(todo.start, n_side_by_side), *check_loggers(todo.start))
        plan = replace(plan, checks=(*here, *plan.checks))
    return _Study(expansion, plan, todo, folder, kind, executor, speed)


def _took(run: RunSpec, end: Mapping[str, Any], profile: Profile | None) -> Took:
    """Return how long a run that ended with this line held its place.

    Of runs that shared a GPU each held its share of it. Of a stack each has its share of the time
    after the one start, and as much more as the plan counts less for stacks.
    """
    from scalekit.executors.base import count_sharing
    from scalekit.sweep.estimate import Took
    from scalekit.sweep.stacks import expected_speedup

    sharing = count_sharing(run.resources)
    start = (end.get("startup_s") or 0.0) / sharing
    stack = end.get("stack")
    if stack and end.get("device_s"):
        gain = expected_speedup(run, stack, profile) or 1.0
        return Took(start * stack, (end["device_s"] - start) * gain)
    return Took(start, (end.get("wall_s") or 0.0) / sharing)


def _show(study: _Study, form: Format) -> None:
    from scalekit.commands._plan_text import COLUMNS, plan_lines, plan_rows, plan_value

    expansion, todo = study.expansion, study.todo
    if form is Format.CSV:
        rows = plan_rows(expansion.spec, expansion.runs)
        print_csv([*COLUMNS, *(key for key in rows[0] if key not in COLUMNS)], rows)
    elif form is Format.JSON:
        value = plan_value(study.plan)
        value |= {"folder": str(study.folder.root), "executor": study.kind}
        value["start"] = [run.id for run in todo.start]
        print_json("sweep", value | {"runs": plan_rows(expansion.spec, expansion.runs)})
    else:
        for line in plan_lines(study.plan, expansion.spec, expansion.runs):
            print(line)
        print(f"\n{_standing(study)}")


def _standing(study: _Study) -> str:
    todo = study.todo
    parts = [f"{len(todo.start):,} to start"]
    parts += [f"{todo.n_finished:,} finished"] * bool(todo.n_finished)
    parts += [f"{todo.n_running:,} running"] * bool(todo.n_running)
    parts += [f"{todo.n_queued:,} in the queue"] * bool(todo.n_queued)
    parts += [f"{len(todo.held):,} held until their trunks have come further"] * bool(todo.held)
    left = len(todo.vanished)
    parts += [f"{left:,} records of runs that the sweep no longer has stay"] * bool(left)
    return f"{study.folder.root}: {', '.join(parts)}, executor {study.kind}"


def _refuse(study: _Study, budget: str | None, allow_unidentified: bool) -> None:
    """Refuse what costs more than allowed, and a design that cannot answer its question.

    Raises:
        InputError: It is refused.
    """
    if budget is not None:
        check_limit(budget, study.todo.start, study.plan.estimate)
    if study.plan.refusals and not allow_unidentified:
        check = study.plan.refusals[0]
        raise InputError(f"{study.expansion.spec.path}: {check}, or add --allow-unidentified")


def _start(study: _Study, *, yes: bool, wait: bool, retry: Sequence[str], force: bool) -> None:
    from scalekit.launch.submit import submit
    from scalekit.sweep.estimate import expected_seconds

    if study.todo.start and not yes:
        _ask(len(study.todo.start))
    try:
        runs, profile = study.expansion.runs, study.expansion.spec.profile
        known = {run.id: expected_seconds(run, profile, study.speed) for run in runs}
        outcome = submit(
            study.expansion,
            study.folder,
            study.executor,
            kind=study.kind,
            retry=retry,
            force=force,
            seconds={run: took for run, took in known.items() if took is not None},
            stacks=study.plan.stacking.groups,
        )
    except KeyboardInterrupt:
        print("the same command continues where this one stopped", file=sys.stderr)
        raise
    code = outcome.exit_code
    if not study.executor.in_foreground:
        if wait:
            from scalekit.commands.wait import wait as wait_for

            # What it says of the end is a message here: stdout has the plan, perhaps as JSON.
            with redirect_stdout(sys.stderr):
                return wait_for(study.folder.root)
        code = OK
    words = [state.status for state in outcome.states.values()]
    counts = ", ".join(f"{words.count(word):,} {word}" for word in dict.fromkeys(sorted(words)))
    print(f"{study.folder.root}: {counts}", file=sys.stderr)
    if code:
        raise typer.Exit(code)
    return None


def _ask(n_runs: int) -> None:
    what = f"start {n_runs:,} run{'s' * (n_runs != 1)}"
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: nobody to ask, this is no terminal; add -y, or -n to look only")
    if not typer.confirm(f"{what}?", err=True):
        raise typer.Abort


def _show_explanation(expansion: Expansion, word: str, form: Format) -> None:
    from scalekit.sweep.explain import explain_run

    ids = [run.id for run in expansion.runs]
    found = [run for run in expansion.runs if run.id.startswith(word)]
    if len(found) != 1:
        many = f"begins {len(found)} ids; give more of its digits"
        raise UsageError(f"--explain {word!r}: {many if found else did_you_mean(word, ids)}")
    origins = explain_run(expansion.spec, found[0])
    rows = [{"key": o.key, "value": o.value, "origin": o.origin} for o in origins]
    if form is Format.JSON:
        print_json("explain", {"run": found[0].id, "settings": rows})
    elif form is Format.CSV:
        print_csv(["key", "value", "origin"], rows)
    else:
        print(format_table(["key", "value", "origin"], [list(map(str, r.values())) for r in rows]))


COMMAND = sweep
