"""What a report must offer: a name, and files made from facts. A member binds `REPORT`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TableOf:
    """A table for people: every cell a text, rounded to what is known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class FigureOf:
    """A figure for people: its SVG, and a small PNG to fall back on where the SVG is heavy."""

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Answer:
    """One line of the checklist; an empty answer is a blank that the reader should see."""

    question: str
    answer: str


@dataclass(frozen=True)
class Facts:
    """All that a report says, as text: the three kinds of report say the same.

    Attributes:
        title: The study's name.
        subtitle: What was fitted to what, in a line.
        headline: Sentences with the law's main numbers.
        law: The fitted law written out with its numbers.
        law_note: Formula, source, approach, status.
        is_trusted: Whether the fit passed its gate.
        holdout: A sentence on the held-out error, or on its absence.
        entropy: Sentences on the known entropy, empty where the source's is not known.
        warnings: A sentence each.
        parameters: The law's parameters with intervals.
        optimum: The compute-optimal size, tokens and loss at the asked budgets.
        approaches: The exponents by each approach, side by side.
        disagreement: What the approaches' difference amounts to.
        figures: In order.
        skipped: Name of and reason for each figure that could not be drawn.
        runs: Every run.
        dropped: Rows left out, with reasons.
        options: What the fit was asked to do.
        provenance: Label and value.
        checklist: By part.
        command: What makes the runs and this report again, a command a line.
        bibtex: The sources of the methods used.
    """

    title: str
    subtitle: str
    headline: Sequence[str]
    law: str
    law_note: Sequence[str]
    is_trusted: bool
    holdout: str
    entropy: str
    warnings: Sequence[str]
    parameters: TableOf
    optimum: TableOf
    approaches: TableOf
    disagreement: str
    figures: Sequence[FigureOf]
    skipped: Sequence[tuple[str, str]]
    runs: TableOf
    dropped: TableOf
    options: TableOf
    provenance: Sequence[tuple[str, str]]
    checklist: Mapping[str, Sequence[Answer]]
    command: str
    bibtex: str


@dataclass(frozen=True)
class Report:
    """A kind of report: `files` turns facts into texts by path relative to the report's folder."""

    name: str
    files: Callable[[Facts], Mapping[str, str]]
