"""scalekit analyze: collect, fit, draw and report in one go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit.commands._analysis_output import TABLE, in_short, summary, write_all
from scalekit.commands._output import Format, FormatOption, print_json
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
    tell_assumed,
)
from scalekit.commands.fit import read_pairs
from scalekit.errors import FitError, InputError, UsageError

if TYPE_CHECKING:
    from scalekit.analysis.study import Study
    from scalekit.fit.result import FitResult

NO_HOLD_OUT = "none"


@dataclass(frozen=True)
class Asked:
    """What the fit of an analysis is asked to do."""

    laws: tuple[str, ...]
    bootstrap: int
    hold_out: str
    predict: tuple[float, ...]
    drop: tuple[str, ...]
    given: dict[str, float]
    seed: int


def analyze(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="a sweep's folder or a table of runs")
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder; beside the source unless given")
    ] = None,
    law: Annotated[
        list[str] | None, typer.Option("--law", help="a law, or a file with one; repeatable")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="resamples of the runs")] = 200,
    hold_out: Annotated[
        str, typer.Option(help="largest-budget, an expression over columns, or none")
    ] = "largest-budget",
    predict: Annotated[
        str | None, typer.Option(help="budgets in FLOPs whose optimum is asked: 1e22,1e24")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="rows to leave out: a column or an expression")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(help="another input of the law at the optimum: U=25e9; repeatable"),
    ] = None,
    mapping: MapOption = None,
    params_kind: ParamsKindOption = None,
    flops_kind: FlopsKindOption = None,
    loss_unit: LossUnitOption = None,
    at: AtOption = None,
    smooth: SmoothOption = 1,
    facts: FactsOption = None,
    importer: ImporterOption = None,
    seed: Annotated[int, typer.Option(help="of resampling and of starts")] = 0,
    types: Annotated[
        str, typer.Option("--type", "-t", help="formats of the figures: pdf, svg, png")
    ] = "pdf,svg,png",
    strict: Annotated[
        bool, typer.Option("--strict", help="exit 6 unless the fit passed its gate")
    ] = False,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Collect, fit, draw and report: all that a study says, in one folder."""
    from scalekit.analysis.gather import gather
    from scalekit.plots._write import chosen_formats
    from scalekit.results.store import check_not_source, check_writable

    kinds = chosen_formats(types)
    budgets = read_budgets(predict)
    folder = output or _beside(source)
    check_writable(folder, "choose another folder with --output")
    check_not_source(folder / TABLE, source, "choose another folder with --output")
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
    check_laws(law or ("chinchilla",))
    study, notes = gather(source, reading, skip=folder, drop=drop or ())
    if study.table is None or study.fit is not None:
        raise UsageError(f"{source}: is a fit; name the table or the sweep that it was made from")
    tell_assumed(study.table)
    asked = Asked(
        tuple(law or ("chinchilla",)),
        bootstrap,
        hold_out,
        budgets,
        tuple(drop or ()),
        read_pairs("--given", given, "U=25e9"),
        seed,
    )
    study, done, more = _fitted(study, asked)
    assert study.fit is not None
    doubts = list(dict.fromkeys([*notes, *more]))
    write_all(study, folder, kinds, _command(), doubts=doubts, remarks=done)
    for remark in (*done, *study.fit.remarks):
        print(f"note: {remark}", file=sys.stderr)
    for note in dict.fromkeys([*doubts, *study.fit.warnings]):
        print(f"warning: {note}", file=sys.stderr)
    if output_format is Format.TABLE:
        print("\n".join(summary(study, folder)))
    else:
        print_json("analyze", in_short(study.fit, folder))
    if strict and not study.fit.is_trusted:
        raise FitError(f"{source}: {study.fit.status}, {study.fit.message}")


def check_laws(names: Sequence[str]) -> None:
    """Refuse laws that a report on final losses cannot be about.

    Raises:
        UsageError: A law of another column, or of curves.
    """
    from scalekit.fit.own_law import find_law

    for name in names:
        law = find_law(name)
        if not law.is_of_final_loss:
            columns = ", ".join(law.columns)
            raise UsageError(
                f"--law {name}: predicts {law.response} from {columns}, but a report is on what "
                f"runs end at; use scalekit fit --law {name}"
            )


def read_budgets(text: str | None) -> tuple[float, ...]:
    """Read `1e22,1e24`.

    Raises:
        UsageError: A word that is no positive number.
    """
    from scalekit.quantities import read_number

    found = []
    for word in (text or "").split(","):
        if not word.strip():
            continue
        try:
            value = read_number(word)
        except InputError as error:
            raise UsageError(f"--predict {error}") from error
        if not value > 0:
            raise UsageError(f"--predict {word.strip()!r}: FLOPs are positive; write 1e22")
        found.append(value)
    return tuple(found)


def _beside(source: Path) -> Path:
    return source / "analysis" if source.is_dir() else source.with_name(f"{source.stem}-analysis")


def _command() -> str:
    """Return the command line as typed, so that the report can be made again."""
    return shlex.join(["scalekit", *sys.argv[1:]])


def _fitted(study: Study, asked: Asked) -> tuple[Study, list[str], list[str]]:
    """Fit every approach that the runs allow.

    Returns:
        The study with its fit, and in sentences what the runs do not allow, and what is doubtful.
    """
    import numpy as np

    from scalekit.results.columns import require

    remarks: list[str] = []
    notes: list[str] = []
    approaches = ["parametric", "isoflop", "envelope"]
    if (study.words("start_run")[study.is_used] != "").any():
        approaches = ["parametric"]
        remarks.append(
            "approaches isoflop and envelope are left out: runs start from others, whose compute "
            "is not in theirs"
        )
    elif study.budgets.size == 0:
        approaches.remove("isoflop")
        remarks.append("approach isoflop is left out: no run names a planned budget")
    used = study.flops[study.is_used]
    if used.size == 0:
        assert study.table is not None
        if not study.plan:
            require(study.table, ["loss"])
        raise InputError(f"{study.name}: no run is finished and has a loss; wait for some")
    largest = float(np.nanmax(used))
    predict = asked.predict or (largest, 10 * largest)
    rule = None if asked.hold_out == NO_HOLD_OUT else asked.hold_out
    if rule == "largest-budget" and study.budgets.size == 1:
        rule = None
        remarks.append("no run is held out: all runs have one budget")
    try:
        fit = _fit(study, replace(asked, predict=predict), approaches, rule)
    except FitError as error:
        if rule is None:
            raise
        fit = _fit(study, replace(asked, predict=predict), approaches, None)
        notes.append(f"no run is held out: {error}")
    return replace(study, fit=fit), remarks, notes


def _fit(study: Study, asked: Asked, approaches: Sequence[str], rule: str | None) -> FitResult:
    from scalekit.analysis.gather import envelope_curves
    from scalekit.fit.run import fit

    assert study.table is not None
    return fit(
        study.table,
        laws=asked.laws,
        approaches=approaches,
        drop=asked.drop,
        hold_out=rule,
        predict=asked.predict,
        bootstrap=asked.bootstrap,
        given=asked.given,
        curves=envelope_curves(study, asked.drop),
        seed=asked.seed,
    )


COMMAND = analyze
