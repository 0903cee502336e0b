"""`scalekit predict FIT`: the optimum at a budget, or the loss of a planned run, with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.commands.fit import read_positive
from scalekit.errors import UsageError

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult

FAR = 100.0
"""Beyond this many times the largest fitted compute, an extrapolation is warned of."""

_SIZES = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)


def predict(
    fit: Annotated[Path, typer.Argument(metavar="FIT", help="what scalekit fit -o wrote")],
    *,
    flops: Annotated[
        str | None, typer.Option(help="budgets whose optimum is asked: 1e22,1e24")
    ] = None,
    params: Annotated[str | None, typer.Option(help="size of a planned run, with --tokens")] = None,
    tokens: Annotated[str | None, typer.Option(help="length of a planned run")] = None,
    loss: Annotated[str | None, typer.Option(help="loss at which a link is asked")] = None,
    through: Annotated[
        Path | None, typer.Option(help="the fit that predicts the loss which a link takes")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="one of multi_recipe's; the reference unless given")
    ] = None,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="print a sweep around the optimum instead")
    ] = False,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Ask a fit for the compute-optimal run at a budget, or for the loss of a run."""
    from scalekit.analysis.recipes import at_recipe
    from scalekit.analysis.respond import response_of
    from scalekit.commands import _response
    from scalekit.fit.run import read_fit

    result = read_fit(fit)
    if recipe is not None:
        result = at_recipe(result, recipe)
    if through is not None or response_of(result) != "loss":
        if yaml:
            raise UsageError(f"--yaml: {result.law} has no optimum to lay a sweep around")
        asked = {"flops": flops, "params": params, "tokens": tokens, "loss": loss}
        _response.answer(result, through, asked, output_format)
        return
    if loss is not None:
        raise UsageError(f"--loss: {result.law} predicts the loss itself; leave it out")
    if (flops is None) == (params is None) or (params is None) != (tokens is None):
        raise UsageError("predict: ask one thing, --flops C or --params N with --tokens D")
    entries = _optima(result, flops) if flops else [_run(result, params or "", tokens or "")]
    if yaml:
        if not flops:
            raise UsageError("--yaml: lays a sweep around an optimum; give --flops")
        print(sweep_text(result, entries))
    else:
        _show(entries, output_format, is_run=flops is None)
    _warn(result, entries)


def _optima(result: FitResult, flops: str) -> list[dict[str, Any]]:
    from scalekit.analysis.allocation import optimum

    return [optimum(result, read_positive("--flops", word)) for word in flops.split(",") if word]


def _run(result: FitResult, params: str, tokens: str) -> dict[str, Any]:
    from scalekit.analysis.allocation import predict as predict_run

    sizes = read_positive("--params", params), read_positive("--tokens", tokens)
    return predict_run(result, *sizes)


def _show(entries: list[dict[str, Any]], output_format: Format, *, is_run: bool) -> None:
    from scalekit.commands._fit_text import number, optimum_lines, span

    if output_format is Format.JSON:
        print_json("predict", {"predictions": entries})
    elif output_format is Format.CSV:
        rows = [_flat(entry) for entry in entries]
        print_csv(list(rows[0]), rows)
    else:
        print("\n".join(optimum_lines(entries)))
        for entry in entries:
            ends = entry["intervals"].get("loss_prediction")
            what = "this run" if is_run else f"one run at {entry['flops']:.3g} FLOPs"
            print(f"loss of {what}: {number(entry['loss'])}, 90 % prediction interval {span(ends)}")


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in entry.items() if name != "intervals"}
    for name, ends in entry["intervals"].items():
        row |= {f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
    return row


def _warn(result: FitResult, entries: list[dict[str, Any]]) -> None:
    if not result.is_trusted:
        print(f"warning: {result.law}: {result.status}, {result.message}", file=sys.stderr)
    for entry in entries:
        if entry["extrapolation"] > FAR:
            print(
                f"warning: {entry['flops']:.3g} FLOPs is {entry['extrapolation']:.3g} times the "
                "largest fitted compute; the interval holds only if the law does",
                file=sys.stderr,
            )


def sweep_text(result: FitResult, entries: list[dict[str, Any]]) -> str:
    """Write the part of a sweep file that measures the valleys around the optima.

    Shapes are the user's to choose: the sizes are given as comments beside each budget.
    """
    budgets = ", ".join(f"{entry['flops']:.6g}" for entry in entries)
    kind = result.data.get("params_kind", "unstated")
    lines = [
        f"# Around the optima of {result.law} ({result.status}); params counted as {kind}.",
        "isoflop:",
        f"  budgets: [{budgets}]",
        "  # sizes: shapes whose params come near these, a valley a budget",
    ]
    for entry in entries:
        sizes = ", ".join(f"{entry['params'] * share:.3g}" for share in _SIZES)
        lines.append(f"  # {entry['flops']:.3g} FLOPs: params {sizes}")
    return "\n".join(lines)


COMMAND = predict
