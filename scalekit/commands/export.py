"""`scalekit export DIR RUN -o OUT`: a trained run as a folder that other libraries open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._standing import match_run
from scalekit.results.store import SweepFolder


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the sweep's folder")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's id, or the start of it")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="a new folder")],
) -> None:
    """Write a run's weights as safetensors in Hugging Face's Llama layout, with its tokenizer."""
    place = SweepFolder(folder)
    by_id = {line["id"]: line for line in place.plan_lines()}
    found = match_run(place, by_id, run)

    from scalekit.sweep.spec import RunSpec
    from scalekit.train.export import export_run

    done = export_run(RunSpec.from_json(by_id[found]), place, out, _say)
    if done.step < done.steps:
        _say(f"{found}: not at its end, these are its weights after step {done.step:,}")
    if done.note is not None:
        _say(f"{found}: {done.note}")
    print(f"{out}: {done.architecture}, step {done.step:,} of {done.steps:,}")
    for name in done.files:
        print(f"  {name}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


COMMAND = export
