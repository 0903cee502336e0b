"""`scalekit status DIR`: where every run of a sweep stands, from its records alone."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, format_table, print_csv, print_json
from scalekit.commands._standing import (
    count_states,
    counts_sentence,
    is_alive,
    is_local,
    open_sweep,
    read_states,
)
from scalekit.errors import NOT_FINISHED
from scalekit.executors._progress import format_seconds
from scalekit.quantities import write_count, write_flops
from scalekit.results.live import ask_executors
from scalekit.results.record import STATUSES
from scalekit.results.site import read_site
from scalekit.results.spending import add_up, describe_lost
from scalekit.results.states import TROUBLES, RunState, verdict
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import own_share, share_done

MOST_ROWS = 40
"""Runs in the table for people; the other formats list all."""

MOST_REASONS = 3

WATCH_SECONDS = 2.0
QUEUE_SECONDS = 15.0
"""The same where a scheduler has to be asked, which many people do."""

COLUMNS = ("run", "status", "step", "steps", "params", "tokens", "flops", "wall_s", "why")
_QUIET = ("done", "pending", "cancelled")


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    form: FormatOption = Format.TABLE,
    watch: Annotated[bool, typer.Option("--watch", help="show again until nothing runs")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="exit with 5 if runs are to end, else 4 if some failed"),
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="list only runs that a person should look at")
    ] = False,
) -> None:
    """Say how many runs of a sweep are done, running, failed, and list them."""
    place, lines = open_sweep(folder)
    while True:
        standing = ask_executors(place)
        states = read_states(place, lines, standing.jobs)
        report = _report(place, lines, states)
        code = verdict(states.values())
        is_over = code != NOT_FINISHED or not is_alive(standing, states)
        if watch and form is Format.TABLE and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        # A program reads one value, not one after the other.
        if form is Format.TABLE or not watch or is_over:
            _show(report, form, failed=failed)
        for trouble in standing.troubles:
            print(f"a scheduler does not answer: {trouble}", file=sys.stderr)
        holders = [one.command for one in standing.live if one.command]
        if form is Format.TABLE and holders:
            held = ", ".join(f"process {h['pid']} on {h['host']}" for h in holders)
            print(f"a sweep command works here: {held}")
        if not watch or is_over:
            break
        time.sleep(WATCH_SECONDS if is_local(standing) else QUEUE_SECONDS)
    if check and code:
        raise typer.Exit(code)


def _report(
    folder: SweepFolder, lines: Sequence[Mapping[str, Any]], states: Mapping[str, RunState]
) -> dict[str, Any]:
    rows = [_row(line, states[line["id"]]) for line in lines]
    spent = add_up(state.last for state in states.values() if state.is_finished)
    site = read_site(folder)
    joules = spent.energy_j
    # A branch's first steps are its trunk's, and are counted there.
    own = [row["flops"] * own_share(line["plan"]) for row, line in zip(rows, lines, strict=True)]
    return {
        "folder": str(folder.root),
        "counts": count_states(states),
        "n_runs": len(rows),
        "flops_planned": sum(own),
        "flops_done": sum(f * row.pop("share") for f, row in zip(own, rows, strict=True)),
        "device_s": spent.device_s,
        "lost_s": spent.lost_s,
        "energy_j": joules,
        "n_energy": spent.n_energy,
        "energy": "unknown" if joules is None else site.describe(joules),
        "co2e_kg": None if joules is None else site.co2e_kg(joules),
        "mfu": spent.mfu,
        "tokens_per_second": spent.tokens_per_second,
        "peak_memory_bytes": spent.peak_memory_bytes,
        "runs": rows,
    }


def _row(line: Mapping[str, Any], state: RunState) -> dict[str, Any]:
    plan, steps = line["plan"], line["plan"]["steps"]
    step = steps if state.status == "done" else state.step
    return {
        "run": line["id"],
        "status": state.status,
        "step": step,
        "steps": steps,
        "params": plan["params"][plan["params_kind"]],
        "tokens": plan["tokens"],
        "flops": plan["flops"][plan["flops_kind"]],
        "wall_s": state.last.get("wall_s"),
        "why": _why(state),
        "crashed": state.crashed,
        "share": share_done(plan, step),
    }


def _why(state: RunState) -> str:
    """Say in a few words what a person should know of a run that is not as it should be."""
    error = str(state.last.get("error") or "") if state.status in ("failed", "diverged") else ""
    return state.why or error.partition("\n")[0]


def _show(report: Mapping[str, Any], form: Format, *, failed: bool) -> None:
    rows = report["runs"]
    if failed:
        rows = [row for row in rows if _is_trouble(row)]
    if form is Format.JSON:
        print_json("status", {**report, "runs": rows})
    elif form is Format.CSV:
        print_csv(COLUMNS, rows)
    else:
        _show_table(report, rows)


def _show_table(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    share = report["flops_done"] / report["flops_planned"] if report["flops_planned"] else 0.0
    print(f"{report['folder']}: {counts_sentence(report['counts'])}")
    print(
        f"{share:.1%} of {write_flops(report['flops_planned'])} FLOPs, "
        f"{report['device_s'] / 3600:.3g} device hours used{_lost(report)}"
    )
    if report["device_s"]:
        print("; ".join(_spending(report)))
    shown = rows
    if len(rows) > MOST_ROWS:
        shown = [row for row in rows if row["status"] not in _QUIET or row["crashed"]][:MOST_ROWS]
    if shown:
        print()
        print(format_table(["run", "status", "step", "params", "time", "why"], _cells(shown)))
    if len(shown) < len(rows):
        _show_reasons(rows)
        print(f"and {len(rows) - len(shown)} more; --format csv lists all")


def _lost(report: Mapping[str, Any]) -> str:
    share = {name: s / report["device_s"] for name, s in report["lost_s"].items()}
    return f": {describe_lost(share)}" if share else ""


def _spending(report: Mapping[str, Any]) -> Iterator[str]:
    """Say speed, memory and energy of the runs that have ended, and what is not known of them."""
    if report["tokens_per_second"] is not None:
        yield f"{write_count(report['tokens_per_second'])} tokens/s (median)"
    yield "MFU unknown" if report["mfu"] is None else f"MFU {report['mfu']:.1%}"
    if report["peak_memory_bytes"] is not None:
        yield f"at most {report['peak_memory_bytes'] / 1e9:.3g} GB of memory"
    n_ended = sum(n for word, n in report["counts"].items() if word in STATUSES)
    missing = n_ended - report["n_energy"] if report["n_energy"] else 0
    yield f"energy {report['energy']}" + (
        f", {missing} of {n_ended} runs unknown" if missing else ""
    )


def _show_reasons(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say why runs wait, where they are too many to be listed: the most frequent reasons."""
    reasons = Counter(row["why"] for row in rows if row["status"] in _QUIET and row["why"])
    for why, n in reasons.most_common(MOST_REASONS):
        print(f"{n} x {why}")


def _is_trouble(row: Mapping[str, Any]) -> bool:
    return row["status"] in TROUBLES or row["crashed"]


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            row["run"],
            row["status"],
            f"{row['step']:,} of {row['steps']:,}",
            f"{row['params']:,}",
            "" if row["wall_s"] is None else format_seconds(row["wall_s"]),
            row["why"],
        ]
        for row in rows
    ]


COMMAND = status
