"""`scalekit init [DIR]`: lay the example sweeps out; nothing that is there is overwritten."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import scalekit
from scalekit.errors import SystemTroubleError
from scalekit.results.store import write_whole

FIRST = "quickstart.yaml"


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="where the folder sweeps/ goes")
    ] = Path(),
) -> None:
    """Lay the example sweeps out in DIR/sweeps; files that are there stay as they are."""
    examples = _examples()
    target = folder / "sweeps"
    kept = 0
    for source in sorted(path for path in examples.rglob("*") if path.is_file()):
        path = target / source.relative_to(examples)
        if path.exists():
            kept += 1
            print(f"kept   {path} (it is there already)")
            continue
        _copy(source, path)
        print(f"wrote  {path}")
    if kept:
        print("note: to get an example anew, move yours away and run init again", file=sys.stderr)
    first = target / FIRST
    if first.exists():
        print(f"next: scalekit sweep {shlex.quote(str(first))} -n", file=sys.stderr)


def _examples() -> Path:
    """Return the folder of example sweeps: in the wheel, or beside the package in a checkout."""
    package = Path(scalekit.__file__).parent
    for folder in (package / "examples", package.parent / "sweeps"):
        if folder.is_dir():
            return folder
    raise SystemTroubleError(f"{package}: no example sweeps in this installation; install it again")


def _copy(source: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemTroubleError(
            f"{path}: cannot be written, {error.strerror}; choose another folder"
        ) from error
    write_whole(path, source.read_bytes())


COMMAND = init
