"""`scalekit forecast FIT`: write down what a run will come to, before it is run."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.errors import InputError, ScalekitError, UsageError

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult
    from scalekit.results.table import RunTable

Text = str | None


def forecast(
    fit: Annotated[Path, typer.Argument(metavar="FIT", help="what scalekit fit -o wrote")],
    *,
    flops: Annotated[Text, typer.Option(help="budget whose optimum is forecast: 1e22")] = None,
    params: Annotated[Text, typer.Option(help="size of the run, with --tokens or --flops")] = None,
    tokens: Annotated[Text, typer.Option(help="training tokens of the run")] = None,
    unique_tokens: Annotated[
        Text, typer.Option(help="different tokens there are, for a law of repeated data")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option(help="another input of the law: U=25e9; repeatable")
    ] = None,
    law: Annotated[Text, typer.Option(help="which of several fits in the file")] = None,
    recipe: Annotated[
        Text, typer.Option(help="one of multi_recipe's; the reference unless given")
    ] = None,
    tolerance: Annotated[
        Text, typer.Option(help="how near the run's size must come: 2%; 1% unless given")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="forecast.json; printed unless given")
    ] = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Freeze a forecast: target, law, interval, data, code and time, under a digest."""
    from scalekit.analysis.ask import ask
    from scalekit.analysis.forecast import forecast_text, freeze
    from scalekit.analysis.form_bands import add_form_bands
    from scalekit.commands._questions import answer, choose, read_asked, read_given
    from scalekit.commands.predict import warn
    from scalekit.fit.run import read_fit

    asked = read_asked(flops=flops, params=params, tokens=tokens)
    if any(len(getattr(asked, name)) > 1 for name in asked.options):
        raise UsageError("forecast: one run a file, found a list; write one forecast for each")
    near = _tolerance(tolerance)
    whole = read_fit(fit)
    result = choose(whole, law, fit)
    if recipe is not None:
        from scalekit.analysis.recipes import at_recipe

        result = at_recipe(result, recipe)
    _check_final(result)
    one = ask(result, read_given(given, unique_tokens, result.law))
    answers = answer(one, asked)
    entry = answers.entries[0]
    is_optimum = answers.question == "optimum"
    if recipe is None:
        fits = (whole, *whole.others)
        add_form_bands(fits, [entry], is_optimum=is_optimum, given=one.one.given)
    if entry.get("at_search_end"):
        raise UsageError(f"--flops: {result.law} has no optimum there; forecast a size")
    body = freeze(
        one,
        entry,
        is_optimum=is_optimum,
        tolerance=near,
        table=_fitted_table(result, fit),
        stamps=_stamps(fit),
    )
    if output is None:
        sys.stdout.write(forecast_text(body))
    else:
        _write_new(output, forecast_text(body))
        _show(body, entry, output, output_format)
    warn(result, [entry])


def _check_final(fit: FitResult) -> None:
    """Refuse a law that predicts something else than what a run ends at."""
    from scalekit.fit.prepare import law_of

    found = law_of(fit) if fit.approach == "parametric" else None
    if found is not None and not found.is_of_final_loss:
        raise UsageError(
            f"forecast: {fit.law} predicts no final loss of a run; forecast by a law that does"
        )


def _tolerance(text: Text) -> float | None:
    from scalekit.commands.fit import read_positive

    if text is None:
        return None
    value = read_positive("--tolerance", text)
    if value >= 1:
        raise UsageError(f"--tolerance {text!r}: a share below one; write --tolerance 2%")
    return value


def _fitted_table(fit: FitResult, where: Path) -> RunTable | None:
    """Read the fitted table again; None, and aloud, where it is gone or no longer the same."""
    from scalekit.commands.fit import read
    from scalekit.results.reading import Reading

    named = str(fit.data.get("path", ""))
    reading = Reading(fit.data.get("mapping") or {}, **(fit.data.get("reading") or {}))
    why = "the fit names no data"
    places = (Path(named), where.parent / named, where.parent / Path(named).name)
    for place in dict.fromkeys(places) if named else ():
        try:
            table = read(place, reading, laws=(fit.law,))
        except ScalekitError as error:
            why = str(error).split("; ")[0]
            continue
        if table.meta.get("sha256") == fit.data.get("sha256"):
            return table
        why = f"{place}: has changed since the fit"
    print(
        f"warning: {why}; the forecast cannot say what the best fitted loss was, nor later whether "
        "the run was known: fit again to have it",
        file=sys.stderr,
    )
    return None


def _stamps(fit: Path) -> dict[str, Any]:
    from scalekit.results.code import code_state

    return {
        "fit": {"path": str(fit), "sha256": hashlib.sha256(fit.read_bytes()).hexdigest()},
        "code": code_state(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_new(path: Path, text: str) -> None:
    """Write a forecast; one that stands is never replaced.

    Raises:
        InputError: The file is there.
    """
    from scalekit.results.store import write_whole

    if path.exists():
        raise InputError(
            f"{path}: is there already, and a forecast is not written over; choose another name"
        )
    write_whole(path, text)


def _show(body: dict[str, Any], entry: dict[str, Any], output: Path, form: Format) -> None:
    from scalekit.commands._decision_text import doubt_lines
    from scalekit.commands._forecast_text import forecast_lines
    from scalekit.commands.predict import flat

    if form is Format.JSON:
        print_json("forecast", {"file": str(output), **body})
    elif form is Format.CSV:
        row = {"file": str(output), **flat(entry), "digest": body["digest"]}
        print_csv(list(row), [row])
    else:
        print("\n".join([*forecast_lines(body, entry), *doubt_lines([entry]), str(output)]))


COMMAND = forecast
