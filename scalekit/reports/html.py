"""The report as one HTML file: figures inline, nothing fetched, fit for the dark and for paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scalekit.reports.base import Facts, FigureOf, Report

_HEAVIEST_SVG = 400_000
"""Bytes from which a figure is shown as a PNG: ten thousand marks are heavy as shapes."""

_HEAVIEST_ALL = 1_500_000
"""Bytes of figures from which the heaviest become PNGs, so that the page stays under 2 MB."""


_ENLARGED = 1.2
"""A screen is read from farther away than a printed column."""


def files(facts: Facts) -> Mapping[str, str]:
    """Return the page as `report.html`."""
    page = _environment().get_template("page.html.j2")
    figures = [
        {"name": f.name, "title": f.title, "caption": f.caption, "image": image}
        for f, image in zip(facts.figures, _images(facts.figures), strict=True)
    ]
    return {"report.html": page.render(facts=facts, figures=figures)}


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
    r"""Set a sentence: powers raised, an interval and a number with its unit kept on one line.

    >>> fine("N* ~ C^0.51 [0.49, 0.53] (90 %)")
    Markup('N* ~ C<sup>0.51</sup> <span class="whole">[0.49, 0.53]</span> (90\xa0%)')
    """
    out = _escape(text)
    out = re.sub(r"\b([A-Z]\*?)\^(-?[\w.]*\w)", r"\1<sup>\2</sup>", out)
    out = re.sub(r"(\[[^\]\s]+, [^\]\s]+\])", r'<span class="whole">\1</span>', out)
    return Markup(out.replace(" %", "\xa0%"))


def _images(figures: Sequence[FigureOf]) -> list[Markup]:
    """Choose SVG or PNG for each figure: shapes where they are light enough."""
    inline = [inline_svg(f) for f in figures]
    order = sorted(range(len(inline)), key=lambda k: -len(inline[k]))
    total = sum(map(len, inline))
    heavy = set()
    for k in order:
        if len(inline[k]) > _HEAVIEST_SVG or total > _HEAVIEST_ALL:
            heavy.add(k)
            total -= len(inline[k])
    return [_png(f) if k in heavy and f.png else Markup(inline[k]) for k, f in enumerate(figures)]


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
    text = re.sub(r'\bd="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f"{_ENLARGED * float(width[1]) / 72:.2f}in" if width else "100%"
    label = _escape(f"{figure.title}. {figure.caption}")
    start = f'<svg role="img" aria-label="{label}" style="width:{size}"'
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", start, 1)


def _png(figure: FigureOf) -> Markup:
    data = base64.b64encode(figure.png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(figure.title, data)


def _escape(text: str) -> str:
    return str(Markup.escape(text))


REPORT = Report("html", files)
