"""`scalekit fit DATA`: a law from a table of runs, with intervals and honest doubts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.errors import FitError, InputError, UsageError

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult
    from scalekit.results.table import RunTable

Many = list[str] | None


def fit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="a table of runs, a sweep's folder")],
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
    mapping: Annotated[
        Many, typer.Option("--map", help="columns, renamed or computed: params=N,loss=val_loss")
    ] = None,
    params_kind: Annotated[
        str | None, typer.Option("--n-kind", help="how params are counted")
    ] = None,
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

    budgets = [read_positive("--predict", word) for word in (predict or "").split(",") if word]
    table = read(data, mapping, params_kind)
    result = fit_table(
        table,
        laws=tuple(law or ("chinchilla",)),
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
        for warning in one.warnings:
            print(f"warning: {one.law}: {warning}", file=sys.stderr)
        if not one.is_trusted:
            print(f"warning: {one.law}: {one.status}, {one.message}", file=sys.stderr)
    if strict and not result.is_trusted:
        raise FitError(f"{data}: {result.law} is {result.status}, {result.message}")


def read(data: Path, mapping: Many, params_kind: str | None) -> RunTable:
    """Read a table, or collect a sweep's folder."""
    from scalekit.results.mapping import parse_mapping
    from scalekit.results.table import read_table

    pairs = parse_mapping(mapping or [])
    if data.is_dir() or params_kind is not None:
        from scalekit.results.collect import collect

        return collect([data], params_kind=params_kind, mapping=pairs)
    return read_table(data, pairs)


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
    from scalekit.commands._fit_text import fit_lines

    if output_format is Format.TABLE:
        print("\n".join([*fit_lines(result), *_beside(result)]))
    elif output_format is Format.JSON:
        value = result.to_json()
        value.pop("schema")
        print_json("fit", value)
    else:
        rows = []
        for one in (result, *result.others):
            for name, value in one.theta.items():
                ends = one.intervals.get(name)
                low, high = (ends.low, ends.high) if ends else ("", "")
                method = ends.method if ends else ""
                rows.append(
                    {"law": one.law, "name": name, "value": value, "low": low, "high": high}
                    | {"method": method, "status": str(one.status)}
                )
        print_csv(["law", "name", "value", "low", "high", "method", "status"], rows)


COMMAND = fit
