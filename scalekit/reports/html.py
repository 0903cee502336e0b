"""The report as one HTML file: figures inline, nothing fetched, fit for the dark and for paper."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scalekit.reports.base import Facts, FigureOf, Report

_HEAVIEST_SVG = 400_000
"""Bytes from which a figure is shown as a PNG: ten thousand marks are heavy as shapes."""

_HEAVIEST_ALL = 1_400_000
"""Bytes of figures from which the heaviest become PNGs, so that the page stays under 2 MB."""

_SECTIONS = (
    ("warnings", "Warnings"),
    ("numbers", "Numbers"),
    ("figures", "Figures"),
    ("provenance", "Provenance"),
    ("checklist", "Checklist"),
    ("tables", "Tables"),
    ("sources", "Sources"),
)
"""Where the links at the top lead."""

_ENLARGED = ((300.0, 1.5), (math.inf, 1.2))
"""Up to which width in points a figure is shown how much larger: a screen is farther away."""


def files(facts: Facts) -> Mapping[str, str]:
    """Return the page as `report.html`."""
    page = _environment().get_template("page.html.j2")
    figures = [
        {"name": f.name, "title": f.title, "caption": f.caption, "image": image}
        for f, image in zip(facts.figures, _images(facts.figures), strict=True)
    ]
    sections = [pair for pair in _SECTIONS if pair[0] != "warnings" or facts.warnings]
    return {"report.html": page.render(facts=facts, figures=figures, sections=sections)}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fine"] = fine
    return environment


def fine(text: str) -> Markup:
    r"""Set a sentence: powers raised, a number kept on one line with its interval or unit.

    >>> fine("C^0.5 (90 %)")
    Markup('C<sup>0.5</sup> (90\xa0%)')
    >>> fine("2 [1, 3]")
    Markup('<span class="pair">2 <span class="whole">[1, 3]</span></span>')
    """
    out = _escape(text)
    out = re.sub(r"\b([A-Z]\*?)\^(-?[\w.]*\w)", r"\1<sup>\2</sup>", out)
    whole = r'<span class="whole">\2</span>'
    out = re.sub(r"(\S+ )(\[[^\]\s]+, [^\]\s]+\])", rf'<span class="pair">\1{whole}</span>', out)
    out = re.sub(r"`([^`]+)`", r"<code>\1</code>", out)
    return Markup(out.replace(" %", "\xa0%"))


def _images(figures: Sequence[FigureOf]) -> list[Markup]:
    """Choose SVG or PNG for each figure: shapes where they are light enough, the lighter else."""
    shapes = [Markup(inline_svg(f)) for f in figures]
    pictures = [_png(f) if f.png else shape for f, shape in zip(figures, shapes, strict=True)]
    chosen = list(shapes)
    for k in sorted(range(len(figures)), key=lambda k: -len(shapes[k])):
        is_heavy = len(shapes[k]) > _HEAVIEST_SVG or sum(map(len, chosen)) > _HEAVIEST_ALL
        if is_heavy and len(pictures[k]) < len(shapes[k]):
            chosen[k] = pictures[k]
    return chosen


def inline_svg(figure: FigureOf) -> str:
    """Turn an SVG file into an element of a page: no prolog, no metadata, its own identifiers."""
    text = figure.svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    prefix = f"{figure.name}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    # Six decimals of a point are noise; two are a hundredth of a printed pixel.
    text = re.sub(r'\b(?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f"{_enlarged(float(width[1])) / 72:.2f}in" if width else "100%"
    label = _escape(f"{figure.title}. {figure.caption}")
    start = f'<svg role="img" aria-label="{label}" style="width:{size}"'
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", start, 1)


def _enlarged(points: float) -> float:
    return points * next(scale for most, scale in _ENLARGED if points <= most)


def _png(figure: FigureOf) -> Markup:
    data = base64.b64encode(figure.png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(figure.title, data)


def _escape(text: str) -> str:
    return str(Markup.escape(text))


REPORT = Report("html", files)
