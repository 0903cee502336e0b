"""`scalekit verify FORECAST... DATA`: score frozen forecasts against the runs that came."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, print_csv, print_json
from scalekit.commands._source import (
    AtOption,
    FlopsKindOption,
    ImporterOption,
    LossUnitOption,
    MapOption,
    ParamsKindOption,
    reading_of,
    tell,
)
from scalekit.errors import InputError, NotFinishedError, RunsFailedError, UsageError

if TYPE_CHECKING:
    from scalekit.analysis.forecast import Forecast
    from scalekit.results.reading import Reading
    from scalekit.results.table import RunTable

Verdict = dict[str, Any]


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FORECAST|DATA",
            help="files of scalekit forecast (*.json), and a table or a sweep's folder",
        ),
    ],
    *,
    loss: Annotated[
        str | None, typer.Option(help="the loss that came, instead of DATA; one forecast only")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="which run, where several have the forecast size")
    ] = None,
    mapping: MapOption = None,
    params_kind: ParamsKindOption = None,
    flops_kind: FlopsKindOption = None,
    loss_unit: LossUnitOption = None,
    at: AtOption = None,
    importer: ImporterOption = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Score forecasts: inside their interval or not, by how much off, and against no law at all."""
    from scalekit.analysis.forecast import read_forecast
    from scalekit.analysis.verdict import tally

    paths = [path for path in files if path.suffix == ".json"]
    sources = [path for path in files if path.suffix != ".json"]
    reading = reading_of(
        mapping=mapping,
        params_kind=params_kind,
        flops_kind=flops_kind,
        loss_unit=loss_unit,
        at=at,
        importer=importer,
    )
    _check_together(paths, sources, loss, run)
    if loss is not None and reading != reading_of():
        raise UsageError(
            "--loss: is taken in the forecast's own unit; leave out the options that say how DATA "
            "is read"
        )
    forecasts = {str(path): read_forecast(path) for path in paths}
    if loss is not None:
        verdicts, waiting = [_against_loss(str(paths[0]), forecasts[str(paths[0])], loss)], {}
    else:
        verdicts, waiting = _against_data(forecasts, sources[0], reading, run)
    total = tally(verdicts)
    _say(verdicts, waiting)
    if output_format is Format.JSON:
        value = {"verdicts": verdicts, "tally": total, "waiting": waiting}
        print_json("verify", value)
    elif output_format is Format.CSV:
        print_csv(list(verdicts[0]), verdicts)
    else:
        from scalekit.commands._forecast_text import verdict_lines

        print("\n".join(verdict_lines(verdicts, total)))


def _check_together(
    paths: Sequence[Path],
    sources: Sequence[Path],
    loss: str | None,
    run: str | None,
) -> None:
    if not paths:
        raise UsageError(
            "verify: no forecast; name a file of scalekit forecast, which ends in .json"
        )
    if loss is not None:
        if sources or run:
            raise UsageError("--loss: is the whole outcome; leave DATA and --run out")
        if len(paths) > 1:
            raise UsageError("--loss: one loss is of one run; verify the forecasts one by one")
    elif len(sources) != 1:
        found = "none" if not sources else " and ".join(map(str, sources))
        raise UsageError(f"verify: one table or sweep's folder, found {found}; or give --loss L")
    elif run is not None and len(paths) > 1:
        raise UsageError("--run: names one run of one forecast; verify the forecasts one by one")


def _against_loss(name: str, forecast: Forecast, text: str) -> Verdict:
    from scalekit.analysis.verdict import given_outcome, score
    from scalekit.commands.fit import read_positive

    outcome = given_outcome(forecast, read_positive("--loss", text))
    return {"file": name, **score(forecast, outcome)}


def _against_data(
    forecasts: dict[str, Forecast], source: Path, reading: Reading, run: str | None
) -> tuple[list[Verdict], dict[str, str]]:
    """Score every forecast whose run came; of several the others wait, a single one is refused.

    Raises:
        InputError: No run of the size, params or loss counted otherwise.
        NotFinishedError: The run has not ended, or none of several has.
        RunsFailedError: The run ended without a loss.
    """
    from scalekit.analysis.verdict import OtherCountError, find_outcome, score

    verdicts: list[Verdict] = []
    waiting: dict[str, str] = {}
    tables: dict[tuple[str, bool], RunTable] = {}
    for name, forecast in forecasts.items():
        asks = forecast["target"]["params_kind"], "params" in forecast["target"]["match"]
        if asks not in tables:
            tables[asks] = _read(source, reading, forecast)
            tell(tables[asks])
        table = tables[asks]
        try:
            outcome = find_outcome(forecast, table, run)
        except (InputError, NotFinishedError, RunsFailedError) as error:
            # A run that is counted otherwise is a mistake; one that is not there yet may come.
            if len(forecasts) == 1 or isinstance(error, OtherCountError):
                raise
            waiting[name] = str(error)
            continue
        for note in (*outcome.notes, *_early(source, outcome.name, name, forecast)):
            print(f"warning: {note}", file=sys.stderr)
        verdicts.append({"file": name, **score(forecast, outcome)})
    if not verdicts:
        raise NotFinishedError(f"{source}: none of {len(forecasts)} forecasts has its run yet")
    return verdicts, waiting


def _early(source: Path, run: str, name: str, forecast: Forecast) -> list[str]:
    """Say that a sweep's run had begun before its forecast was made, as its record tells."""
    from scalekit.results.record import read_record
    from scalekit.results.store import SweepFolder

    path = SweepFolder(source).record(run)
    if not path.is_file():
        return []
    times = [str(a["time"]) for a in read_record(path, steps=False).attempts if a.get("time")]
    if not times or _moment(min(times)) >= _moment(forecast["time"]):
        return []
    return [f"{name}: {run} began at {min(times)}, before the forecast was made"]


def _moment(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _read(source: Path, reading: Reading, forecast: Forecast) -> RunTable:
    """Read the runs, with params counted as the forecast counts them where the table has both."""
    from scalekit.counting import PARAMS_KINDS
    from scalekit.results.collect import read_runs
    from scalekit.results.table import UNSTATED

    needs_params = "params" in forecast["target"]["match"]
    table = read_runs(source, reading, needs_params=needs_params)
    kind = forecast["target"]["params_kind"]
    stated = table.meta.get("params_kind", UNSTATED)
    if reading.params_kind is None and kind in PARAMS_KINDS and stated not in (UNSTATED, kind):
        return read_runs(source, replace(reading, params_kind=kind), needs_params=needs_params)
    return table


def _say(verdicts: Sequence[Verdict], waiting: dict[str, str]) -> None:
    from scalekit.commands._forecast_text import known_line, moved_line

    for verdict in verdicts:
        for line in (known_line(verdict), moved_line(verdict)):
            if line:
                print(f"warning: {line}", file=sys.stderr)
    for name, why in waiting.items():
        print(f"waiting: {name}: {why}", file=sys.stderr)


COMMAND = verify
