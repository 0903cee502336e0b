"""`scalekit predict FIT`: ask a law for the best run of a budget, a loss, a size, a life."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.errors import UsageError
from scalekit.quantities import write_flops

if TYPE_CHECKING:
    from scalekit.analysis.ask import Ask
    from scalekit.commands._questions import Answers, Entry
    from scalekit.fit.result import FitResult

FAR = 100.0
"""Beyond this many times the largest fitted compute, an extrapolation is warned of."""

Text = str | None


def predict(
    fit: Annotated[Path, typer.Argument(metavar="FIT", help="what scalekit fit -o wrote")],
    *,
    flops: Annotated[Text, typer.Option(help="budgets whose optimum is asked: 1e22,1e24")] = None,
    params: Annotated[
        Text, typer.Option(help="sizes of planned runs, with --tokens or --flops: 7B,13B")
    ] = None,
    tokens: Annotated[
        Text, typer.Option(help="training tokens of planned runs, with --params or --flops")
    ] = None,
    loss: Annotated[
        Text, typer.Option(help="losses whose cheapest runs are asked, or what a link takes: 2.2")
    ] = None,
    through: Annotated[
        Path | None, typer.Option(help="the fit that predicts the loss which a link takes")
    ] = None,
    recipe: Annotated[
        Text, typer.Option(help="one of multi_recipe's; the reference unless given")
    ] = None,
    inference_tokens: Annotated[
        Text, typer.Option(help="tokens to be served: which model costs least altogether?")
    ] = None,
    unique_tokens: Annotated[
        Text, typer.Option(help="different tokens there are, for a law of repeated data")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option(help="another input of the law: U=25e9, w=1024; repeatable")
    ] = None,
    law: Annotated[Text, typer.Option(help="which of several fits in the file")] = None,
    intervals: Annotated[
        str, typer.Option(help="delta: the fit's covariance; bootstrap: its refits")
    ] = "delta",
    yaml: Annotated[
        bool, typer.Option("--yaml", help="print a sweep around the optima, ready to run, instead")
    ] = False,
    template: Annotated[
        Path | None, typer.Option(help="with --yaml: the sweep file whose base it shares")
    ] = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Ask a fit for the best run at a budget, the loss of a run, or what a loss costs."""
    from scalekit.analysis.ask import ask
    from scalekit.analysis.form_bands import add_form_bands
    from scalekit.analysis.recipes import at_recipe
    from scalekit.analysis.respond import response_of
    from scalekit.commands import _response
    from scalekit.commands._questions import answer, choose, read_asked, read_given
    from scalekit.fit.run import read_fit

    asked = read_asked(
        flops=flops, params=params, tokens=tokens, loss=loss, inference_tokens=inference_tokens
    )
    whole = read_fit(fit)
    result = choose(whole, law, fit)
    if recipe is not None:
        result = at_recipe(result, recipe)
    if through is not None or response_of(result) != "loss":
        if yaml or template or inference_tokens or unique_tokens or given:
            raise UsageError(f"{result.law}: has no optimum; ask with --flops, --params, --tokens")
        words = {"flops": flops, "params": params, "tokens": tokens, "loss": loss}
        _response.answer(result, through, words, output_format)
        return
    one = ask(result, read_given(given, unique_tokens, result.law), intervals)
    answers = answer(one, asked)
    # With a recipe asked, laws that know no recipes would be compared with that one.
    if recipe is None and answers.question in ("optimum", "run"):
        add_form_bands(
            (whole, *whole.others),
            answers.entries,
            is_optimum=answers.question == "optimum",
            given=one.one.given,
        )
    if yaml:
        _print_sweep(result, fit, answers, template, output_format)
    elif template is not None:
        raise UsageError("--template: is the base of a sweep; add --yaml")
    else:
        _show(one, answers, output_format)
    warn(result, answers.entries)


def _print_sweep(
    fit: FitResult, where: Path, answers: Answers, template: Path | None, output_format: Format
) -> None:
    from scalekit.commands._next_sweep import next_sweep

    if answers.question not in ("optimum", "price"):
        raise UsageError("--yaml: lays a sweep around an optimum; give --flops, or --loss")
    if output_format is not Format.TABLE:
        raise UsageError("--yaml: is a format itself; leave --format out")
    ends = [e for e in answers.entries if e["at_search_end"]]
    if ends:
        raise UsageError(
            f"--yaml: {fit.law} has no optimum at {write_flops(ends[0]['flops'])} FLOPs to lay a "
            "sweep around; ask for another budget"
        )
    print(next_sweep(fit, where, answers.entries, template))


def _show(one: Ask, answers: Answers, output_format: Format) -> None:
    from scalekit.commands import _decision_text as text

    if output_format is Format.JSON:
        data = {k: one.fit.data.get(k) for k in ("params_kind", "flops_kind", "loss_unit")}
        about = {"question": answers.question, "law": one.fit.law, "status": str(one.fit.status)}
        print_json("predict", {**about, **data, "predictions": answers.entries})
    elif output_format is Format.CSV:
        rows = [flat(entry) for entry in answers.entries]
        print_csv(list(dict.fromkeys(name for row in rows for name in row)), rows)
    else:
        lines = {
            "optimum": lambda entries: [*text.optimum_lines(entries), *text.miss_lines(entries)],
            "run": text.run_lines,
            "price": text.price_lines,
            "served": lambda entries: text.served_lines(entries[0]),
        }[answers.question](answers.entries)
        method = one.method if one.has_intervals else None
        doubts = [*text.form_lines(answers.entries), *text.doubt_lines(answers.entries)]
        is_table = answers.question != "served"
        basis = text.basis_lines(one.fit, method, is_table=is_table)
        print("\n".join([*lines, *doubts, *basis]))


def flat(entry: Entry) -> dict[str, Any]:
    """Return an entry as one row: intervals as NAME_low and NAME_high."""
    row = {k: v for k, v in entry.items() if not isinstance(v, dict)}
    for name, ends in entry["intervals"].items():
        row |= {f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
    row |= {f"outside_{k}": v for k, v in entry["outside"].items()}
    for name, ends in entry.get("form", {}).items():
        if name != "laws":
            row |= {f"form_{name}_low": ends[0], f"form_{name}_high": ends[1]}
    return row | {f"reference_{k}": v for k, v in entry.get("reference", {}).items()}


def warn(result: FitResult, entries: Any) -> None:
    """Say aloud which answers rest on a doubtful fit, or reach far beyond the fitted runs."""
    from scalekit.analysis.digits import times

    if not result.is_trusted:
        print(f"warning: {result.law}: {result.status}, {result.message}", file=sys.stderr)
    far = [
        f"warning: {write_flops(entry.get('training_flops', entry['flops']))} FLOPs is "
        f"{times(entry['extrapolation'])} the largest fitted compute; the interval holds only if "
        "the law does"
        for entry in entries
        if entry["extrapolation"] > FAR
    ]
    for line in dict.fromkeys(far):  # what was asked twice is said once
        print(line, file=sys.stderr)


COMMAND = predict
