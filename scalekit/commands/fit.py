"""`scalekit fit DATA`: a law from a table of runs, with intervals and honest doubts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.commands._source import (
    AtOption,
    FactsOption,
    FlopsKindOption,
    ImporterOption,
    LossUnitOption,
    MapOption,
    ParamsKindOption,
    SmoothOption,
    reading_of,
    tell,
)
from scalekit.errors import FitError, InputError, UsageError

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult
    from scalekit.results.reading import Reading
    from scalekit.results.table import RunTable

Many = list[str] | None


def fit(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="a table of runs, a sweep's folder, logs")
    ],
    *,
    law: Annotated[Many, typer.Option(help="a law, or a file with one; repeatable")] = None,
    approach: Annotated[
        Many, typer.Option(help="parametric, isoflop, envelope; repeatable")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="robust, hoffmann, huber, huber_linear, lad, mse_log, mse")
    ] = "robust",
    delta: Annotated[float | None, typer.Option(help="of huber and huber_linear")] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="resamples of the runs")] = 0,
    hold_out: Annotated[
        str | None, typer.Option(help="largest-budget, or an expression: flops>1e20")
    ] = None,
    roll_out: Annotated[
        bool, typer.Option("--roll-out", help="refit below each budget, predict above it")
    ] = False,
    predict: Annotated[
        str | None, typer.Option(help="budgets in FLOPs whose optimum is asked: 1e22,1e24")
    ] = None,
    fix: Annotated[Many, typer.Option(help="a parameter to hold: E=1.7; repeatable")] = None,
    drop: Annotated[
        Many, typer.Option(help="rows to leave out: a column or an expression; repeatable")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="column of what belongs together: a trunk, a seed")
    ] = None,
    given: Annotated[
        Many, typer.Option(help="another input of the law at the optimum: U=25e9; repeatable")
    ] = None,
    mapping: MapOption = None,
    params_kind: ParamsKindOption = None,
    flops_kind: FlopsKindOption = None,
    loss_unit: LossUnitOption = None,
    at: AtOption = None,
    smooth: SmoothOption = 1,
    facts: FactsOption = None,
    importer: ImporterOption = None,
    starts: Annotated[
        int | None, typer.Option(min=3, help="starting points; the law says unless given")
    ] = None,
    seed: Annotated[int, typer.Option(help="of resampling and of starts")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="exit 6 unless the fit passed its gate")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="fit.json")] = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Fit scaling laws to a table of runs."""
    from scalekit.fit.run import fit as fit_table
    from scalekit.fit.run import write_fit
    from scalekit.results.store import check_not_source, check_writable

    if output is not None:
        check_writable(output.parent, "choose another file with --output", asked=output)
        check_not_source(output, data, "choose another file with --output")
    _check_used(
        approach or (),
        {
            "--law": law,
            "--objective": objective != "robust",
            "--delta": delta is not None,
            "--bootstrap": bootstrap,
            "--hold-out": hold_out,
            "--roll-out": roll_out,
            "--fix": fix,
            "--given": given,
            "--starts": starts,
        },
    )
    budgets = [read_positive("--predict", word) for word in (predict or "").split(",") if word]
    laws = tuple(law or ("chinchilla",))
    reading = reading_of(
        mapping=mapping,
        params_kind=params_kind,
        flops_kind=flops_kind,
        loss_unit=loss_unit,
        at=at,
        smooth=smooth,
        facts=facts,
        importer=importer,
    )
    table = read(data, reading, laws=laws, drop=drop or ())
    tell(table)
    result = fit_table(
        table,
        laws=laws,
        approaches=tuple(approach or ("parametric",)),
        objective=objective,
        delta=delta,
        fix=read_pairs("--fix", fix, "E=1.7"),
        drop=tuple(drop or ()),
        cluster=cluster,
        hold_out=hold_out,
        predict=budgets,
        bootstrap=bootstrap,
        given=read_pairs("--given", given, "U=25e9"),
        n_starts=starts,
        seed=seed,
    )
    if roll_out:
        from scalekit.analysis.rollout import rollout

        known = {**result.diagnostics, "roll_out": rollout(table, result)}
        result = replace(result, diagnostics=known)
    if output is not None:
        write_fit(result, output)
    show(result, output_format)
    for one in (result, *result.others):
        for remark in one.remarks:
            print(f"note: {one.law}: {remark}", file=sys.stderr)
        for warning in one.warnings:
            print(f"warning: {one.law}: {warning}", file=sys.stderr)
        if not one.is_trusted:
            print(f"warning: {one.law}: {one.status}, {one.message}", file=sys.stderr)
    if strict and not result.is_trusted:
        raise FitError(f"{data}: {result.law} is {result.status}, {result.message}")


def _check_used(approaches: Sequence[str], asked: Mapping[str, object]) -> None:
    """Refuse options of approach 3 where it is left out: nobody would see that they did nothing.

    Raises:
        UsageError: One was given.
    """
    if not approaches or not set(approaches) <= {"isoflop", "envelope"}:
        return
    for option, given in asked.items():
        if given:
            raise UsageError(
                f"{option}: is of the parametric approach, and --approach names "
                f"{' and '.join(approaches)} alone; add --approach parametric, or leave it out"
            )


def read(
    data: Path, reading: Reading, *, laws: Sequence[str] = (), drop: Sequence[str] = ()
) -> RunTable:
    """Read what laws are fitted to: the runs of a source, or their curves for laws of curves.

    Raises:
        UsageError: Laws of both kinds of one source.
    """
    from scalekit.fit.own_law import find_law
    from scalekit.results.collect import read_runs
    from scalekit.results.history import CURVE
    from scalekit.results.store import SweepFolder

    if _of_curves(laws):
        if SweepFolder(data).plan_file.exists():
            from scalekit.results.curves import curve_table

            return curve_table(SweepFolder(data))
        reading = replace(reading, at=reading.at or CURVE)
    found = [find_law(name) for name in laws]
    responses = {law.response for law in found} or {"loss"}
    return read_runs(
        data,
        reading,
        response="loss" if "loss" in responses else min(responses),
        needs_params=any("params" in law.columns for law in found),
        drop=drop,
    )


def _of_curves(laws: Sequence[str]) -> bool:
    from scalekit.fit.own_law import find_law

    kinds = {name: "t" in find_law(name).inputs for name in laws}
    if len(set(kinds.values())) > 1:
        curves = ", ".join(name for name, is_of_curves in kinds.items() if is_of_curves)
        raise UsageError(f"--law {curves}: of whole curves, the others of final losses; fit apart")
    return any(kinds.values())


def read_positive(option: str, text: str) -> float:
    """Read a positive number with an optional suffix.

    Raises:
        UsageError: Not one.
    """
    from scalekit.quantities import read_number

    try:
        value = read_number(text)
    except InputError as error:
        raise UsageError(f"{option} {error}") from error
    if not value > 0:
        raise UsageError(f"{option} {text.strip()!r}: not positive; write {option} 1e22")
    return value


def read_pairs(option: str, texts: Many, example: str) -> dict[str, float]:
    """Read `NAME=NUMBER` words, several to a word by commas.

    Raises:
        UsageError: A word is not of that form, or a name stands twice.
    """
    from scalekit.quantities import read_number

    found: dict[str, float] = {}
    for word in ",".join(texts or []).split(","):
        if not word.strip():
            continue
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not name or name in found:
            raise UsageError(
                f"{option} {word.strip()!r}: not NAME=NUMBER; write {option} {example}"
            )
        try:
            found[name] = read_number(value)
        except InputError as error:
            raise UsageError(f"{option} {name}={error}") from error
    return found


def _beside(result: FitResult) -> list[str]:
    """Describe what several fits of one table say together."""
    from scalekit.analysis.compare import summary
    from scalekit.commands._evidence_text import compare_lines, rollout_lines

    lines: list[str] = []
    if result.others:
        found = summary(result)
        lines += ["", *compare_lines(found.rows, found.sentences)]
    if result.diagnostics.get("roll_out"):
        lines += ["", *rollout_lines(result.diagnostics["roll_out"])]
    return lines


def show(result: FitResult, output_format: Format) -> None:
    """Print a fit in the asked format."""
    from scalekit.commands._fit_text import fit_lines, interval_of
    from scalekit.commands._recipe_text import recipe_lines

    if output_format is Format.TABLE:
        recipes = [line for one in (result, *result.others) for line in recipe_lines(one)]
        print("\n".join([*fit_lines(result), *recipes, *_beside(result)]))
    elif output_format is Format.JSON:
        value = result.to_json()
        value.pop("schema")
        print_json("fit", value)
    else:
        rows = []
        for one in (result, *result.others):
            for name, value in one.theta.items():
                ends = interval_of(one, name)
                low, high = (ends.low, ends.high) if ends else ("", "")
                method = ends.method if ends else ""
                rows.append(
                    {"law": one.law, "name": name, "value": value, "low": low, "high": high}
                    | {"method": method, "status": str(one.status)}
                )
        print_csv(["law", "name", "value", "low", "high", "method", "status"], rows)


COMMAND = fit
