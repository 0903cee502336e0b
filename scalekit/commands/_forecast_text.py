"""Forecasts and their verdicts as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalekit.analysis.digits import times, told
from scalekit.commands._decision_text import OPTIMUM, entry_table, form_words
from scalekit.commands._output import format_table
from scalekit.quantities import count_words, write_count

_SHIFT = 1e-4
"""A forecast that moves by less, relatively, is not spoken of: it is below any noise."""


def forecast_lines(body: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """Describe a forecast that was just written."""
    target, data = body["target"], body["data"]
    near = ", ".join(f"{word} within {share}" for word, share in _shares(target["match"]))
    baseline = body["baseline"]
    best = "unknown" if baseline is None else f"{baseline:.5g}, the best fitted loss"
    lines = [
        f"forecast by {body['law']}, {body['status']} on {count_words(data['n_runs'], 'run')}",
        *entry_table(OPTIMUM, [entry]),
        *(f"  forms  {form_words(form)}" for form in [body["form"]] if form),
        f"  scored on the run with {near}",
        f"  without any law: {best}",
        f"  params {target['params_kind']}, FLOPs {target['flops_kind']}, "
        f"loss {target['loss_unit']}",
        f"  data   {str(data['sha256'])[:16]}  {data['path']}",
        f"  code   {body['code']}",
        f"  time   {body['time']}",
        f"  digest {body['digest']}",
    ]
    seen = body["seen"] or []
    if seen:
        names = ", ".join(s["run"] for s in seen[:4]) + (", ..." if len(seen) > 4 else "")
        lines.append(f"  the data holds runs of this size already, {names}: no forecast of those")
    return lines


def _shares(match: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(word, f"{100 * share:.3g} %") for word, share in match.items()]


def verdict_lines(verdicts: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> list[str]:
    """Describe scored forecasts, a line each, and what they come to together."""
    header = (
        *("forecast", "run", "params", "tokens", "extrapolation"),
        *("loss", "forecast", "90 %", "z", "inside", "error", "no law"),
    )
    rows = []
    for v in verdicts:
        ends = {"low": v["low"], "high": v["high"]}
        expected, span = told(v["forecast"], ends)
        # A loss is compared with its forecast, so it has as many digits.
        places = len(expected.partition(".")[2])
        rows.append(
            [
                str(v["file"]),
                v["run"] or "given",
                write_count(v["params"]) if "params" in v else "-",
                write_count(v["tokens"]) if "tokens" in v else "-",
                times(v["extrapolation"]),
                f"{v['loss']:.{places}f}",
                expected,
                span,
                f"{v['z']:+.2f}",
                ("yes" if v["inside"] else "no") + ("*" if v["known"] else ""),
                f"{100 * v['relative_error']:+.2f} %",
                _share(v["baseline_error"]),
            ]
        )
    lines = ["verified", *format_table(header, rows, indent=2).splitlines()]
    if any(v["known"] for v in verdicts):
        lines.append("  * the run was in the forecast's own data: no forecast, and not counted")
    lines.append(
        "  error is observed less forecast, over observed; no law, that of the best fitted loss"
    )
    return lines + _tally_lines(total)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f} %"


def _tally_lines(total: Mapping[str, Any]) -> list[str]:
    if not total["n"]:
        return ["no forecast among them"]
    n, inside = total["n"], total["inside"]
    base = total["baseline_mape"]
    against = "" if base is None else f", without any law {100 * base:.2f} %"
    level = f"{100 * total['level']:.0f} %"
    lines = [
        f"{inside} of {n} forecast{'s' * (n > 1)} inside {'their' if n > 1 else 'its'} {level} "
        f"interval; mean absolute error {100 * total['mape']:.2f} %{against}, "
        f"bias {100 * total['bias']:+.2f} %"
    ]
    if n > 1:
        lines.append(
            f"honest and independent {level} intervals come out so or worse in "
            f"{100 * total['chance']:.2g} % of cases"
        )
    return lines


def known_line(verdict: Mapping[str, Any]) -> str | None:
    """Say whether the run was already in the data that the forecast rests on."""
    where, run = verdict["file"], verdict["run"] or "this loss"
    if verdict["known"] is None:
        return (
            f"{where}: cannot tell whether {run} was already in its data, which was not at hand "
            "when it was made"
        )
    if not verdict["known"]:
        return None
    how = {True: ", among the fitted runs", False: ", though left out of the fit", None: ""}
    return (
        f"{where}: {run} was already in the data that it was made from{how[verdict['fitted']]}: "
        "this is no forecast"
    )


def moved_line(verdict: Mapping[str, Any]) -> str | None:
    """Say that the run is not quite of the size that was forecast."""
    shift = verdict["moved"] - 1
    if abs(shift) < _SHIFT:
        return None
    return (
        f"{verdict['file']}: {verdict['run']} is not quite of the forecast size; the frozen law "
        f"moves the forecast by {100 * shift:+.2g} %"
    )
