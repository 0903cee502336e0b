"""Draw figures of a study and write them: PDF, SVG, PNG and a CSV of what each shows.

Equal studies give equal bytes: no dates, no random identifiers, no settings of the user.
"""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.errors import UsageError, did_you_mean
from scalekit.plots._look import PRINT_DPI, look
from scalekit.plots.base import CannotDrawError, Plot, refusal
from scalekit.results.store import write_whole

FORMATS = ("pdf", "svg", "png")

PAGE = "page"
"""A small PNG for an HTML page, where a figure's shapes would be too many."""

_PAGE_DPI = 144
_PAGE_COLORS = 128

_FIGURES_A_PROCESS = 4
"""Fewer are drawn sooner than another process has loaded what it draws with."""

# matplotlib stamps the moment of writing unless told None.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": "scalekit", "Creator": "scalekit"},
    "svg": {"Date": None, "Creator": "scalekit"},
    "png": {"Software": "scalekit"},
}

# The order of a reader's questions: was it clean, what is the law, may one trust it.
_ORDER = (
    "isoflop",
    "frontier",
    "tokens_per_param",
    "contours",
    "residuals",
    "rollout",
    "sensitivity",
    "params",
    "power_laws",
    "overtrain",
    "hparam",
    "two_step",
    "envelope",
    "curves",
    "noise",
    "design",
    "cost",
)


@dataclass(frozen=True)
class Written:
    """A figure in memory: its caption, its CSV and its bytes by format."""

    name: str
    title: str
    caption: str
    table: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Skipped:
    """A figure that was not drawn, and why."""

    name: str
    reason: str


def plot_names() -> list[str]:
    """List every plot in the order of a report."""
    known = registry.names("plots")
    return [n for n in _ORDER if n in known] + [n for n in known if n not in _ORDER]


def chosen_names(asked: Sequence[str]) -> list[str]:
    """Turn what a user asked for into names; nothing or `all` is every plot.

    Raises:
        UsageError: No such plot.
    """
    known = plot_names()
    for name in asked:
        if name != "all" and name not in known and not name.endswith(".py"):
            raise UsageError(f"plot {name!r}: unknown; {did_you_mean(name, [*known, 'all'])}")
    if not asked or "all" in asked:
        return known
    return list(dict.fromkeys(asked))


def chosen_formats(asked: str) -> list[str]:
    """Split `pdf,svg,png`.

    Raises:
        UsageError: A format that is not written.
    """
    formats = [word.strip().lower().removeprefix(".") for word in asked.split(",") if word.strip()]
    for word in formats:
        if word not in FORMATS:
            raise UsageError(f"format {word!r}: unknown; {did_you_mean(word, FORMATS)}")
    if not formats:
        raise UsageError(f"format: none given; {did_you_mean('', FORMATS)}")
    return list(dict.fromkeys(formats))


def draw(name: str, study: Study, formats: Sequence[str]) -> Written | Skipped:
    """Draw one figure into memory, or say why not."""
    plot: Plot = registry.find("plots", name)
    reason = refusal(plot, study)
    if reason is not None:
        return Skipped(plot.name, reason)
    with look(f"scalekit-{plot.name}"):
        try:
            drawing = plot.draw(study)
        except CannotDrawError as why:
            return Skipped(plot.name, str(why))
        files = files_of(drawing.figure, formats)
    return Written(plot.name, plot.title, drawing.caption, rows_csv(drawing.shown), files)


def draw_all(
    names: Sequence[str], study: Study, formats: Sequence[str]
) -> Iterator[Written | Skipped]:
    """Draw figures in order, many of them in processes of their own, as many as there are cores."""
    workers = min(_cores(), len(names) // _FIGURES_A_PROCESS)
    if workers < 2:
        yield from (draw(name, study, formats) for name in names)
        return
    # Not forked: what numpy and the fonts have running would be copied in the middle of it.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        todo = [pool.submit(draw, name, study, formats) for name in names]
        yield from (one.result() for one in todo)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def files_of(figure: Any, formats: Sequence[str]) -> dict[str, bytes]:
    """Return a figure's bytes by format, laid out once, so that every file has the same layout."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    files = {kind: _bytes(figure, kind) for kind in formats if kind != PAGE}
    if PAGE in formats:
        files[PAGE] = _page_png(files.get("png") or _bytes(figure, "png"))
    return files


def save(written: Written, folder: Path) -> list[Path]:
    """Write a figure's files and its CSV into a folder; return their paths."""
    paths = []
    for kind, data in written.files.items():
        paths.append(folder / f"{written.name}.{kind}")
        write_whole(paths[-1], data)
    paths.append(folder / f"{written.name}.csv")
    write_whole(paths[-1], written.table)
    return paths


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV with full precision; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, str | bool | int):
        return str(value)
    number = float(value)
    return "" if math.isnan(number) else repr(number)


def _bytes(figure: Any, kind: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=kind, metadata=_METADATA[kind])
    return out.getvalue()


def _page_png(print_png: bytes) -> bytes:
    """Shrink a PNG to twice a screen's resolution and few colours: a quarter of its bytes."""
    picture, out = Image.open(io.BytesIO(print_png)).convert("RGB"), io.BytesIO()
    scale = _PAGE_DPI / PRINT_DPI
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    small = small.quantize(_PAGE_COLORS, dither=Image.Dither.NONE)
    small.save(out, format="png", optimize=True)
    return out.getvalue()
