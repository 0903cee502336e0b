"""What a plot must offer: a name, what it shows, what it needs, and a way to draw a study.

A member binds `PLOT`. All draw from one `Study`; what cannot be drawn from it says why in a
sentence. This file imports no matplotlib, so listing and refusing stay cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.errors import InputError
from scalekit.fit.own_law import find_law
from scalekit.fit.result import FitResult, FitStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CannotDrawError(InputError):
    """A figure cannot be drawn from this study; the message is the reason, one sentence."""


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, what it shows as rows for a CSV, and its caption with numbers."""

    figure: Figure
    shown: Sequence[Mapping[str, Any]]
    caption: str


@dataclass(frozen=True)
class Plot:
    """A figure that a study can be asked for.

    Attributes:
        name: The public name, equal to the file's.
        title: A few words.
        shows: One sentence on how to read it.
        needs: Names of `NEEDS` that must hold before `draw` is called.
        draw: Draws; raises `CannotDrawError` with the reason where the study is not enough.
    """

    name: str
    title: str
    shows: str
    needs: tuple[str, ...]
    draw: Callable[[Study], Drawing]


def _has_table(study: Study) -> bool:
    return study.table is not None and len(study.table) > 0


def _has_used_rows(study: Study) -> bool:
    return _has_table(study) and bool(study.is_used.any())


def is_of_loss(fit: FitResult) -> bool:
    """Whether a fit is of a law that predicts a run's loss, not of what follows from the loss."""
    return fit.approach == "parametric" and "L" not in registry.find("laws", fit.law).inputs


def has_law(study: Study) -> bool:
    """Whether the headline is a law of N, D and C alone, so that every point has a loss."""
    fit = study.fit
    if fit is None or fit.approach != "parametric" or fit.status is FitStatus.UNIDENTIFIED:
        return False
    law = registry.find("laws", fit.law)
    if study.table is not None and not np.isfinite(study.column("params")).any():
        return False
    return law.response == "loss" and set(law.inputs) <= {"N", "D", "C"}


def has_curve_law(study: Study) -> bool:
    """Whether the headline is a law of whole loss curves and the table holds their lines."""
    fit = study.fit
    if fit is None or fit.approach != "parametric" or study.table is None:
        return False
    law = find_law(fit.law)
    return {"t", "i"} <= set(law.inputs) and {*law.columns, *law.reads} - {"run"} <= set(
        study.table.columns
    )


def predicts_rows(study: Study) -> bool:
    """Whether the headline predicts each row's loss from the table's own numbers."""
    fit = study.fit
    if fit is None or fit.approach != "parametric" or fit.status is FitStatus.UNIDENTIFIED:
        return False
    law = find_law(fit.law)
    # A curve's lines are coded by its run; a recipe is coded by the fit's own levels.
    if law.response != "loss" or "t" in law.inputs or study.table is None:
        return False
    numbers = [
        c
        for s, c in zip(law.inputs, law.columns, strict=True)
        if s not in law.coded and c != "flops"
    ]
    return all(np.isfinite(study.column(c)).any() for c in numbers)


NEEDS: dict[str, tuple[Callable[[Study], bool], str]] = {
    "table": (_has_table, "there is no table of runs"),
    "runs": (_has_used_rows, "no run in the table is finished, kept and has a loss"),
    "budgets": (
        lambda s: _has_table(s) and s.budgets.size > 0,
        "no run names a planned budget (column `budget`)",
    ),
    "fit": (lambda s: s.fit is not None, "there is no fit; run `scalekit fit` first"),
    "law": (has_law, "there is no parametric fit of a law of params and tokens alone"),
    "curve_law": (has_curve_law, "there is no fit of a law of whole loss curves"),
    "predictions": (predicts_rows, "there is no fitted law that predicts each run's loss"),
    "lr": (
        lambda s: bool(np.isfinite(s.column("lr")).any()),
        "the table holds no learning rates (column `lr`)",
    ),
    "accuracy": (
        lambda s: bool(np.isfinite(s.column("accuracy")).any()),
        "the table holds no accuracy of a task (columns `task_loss` and `accuracy`)",
    ),
    "plan": (lambda s: bool(s.plan), "the source holds no plan; name a sweep's folder"),
    "curves": (
        lambda s: any(c.steps or c.evals for c in s.curves),
        "the source holds no loss curves (run records), only final numbers",
    ),
    "holdout": (
        lambda s: s.fit is not None and bool(s.fit.holdout.get("rows")),
        "no runs were held out; fit with --hold-out",
    ),
    "draws": (
        lambda s: s.fit is not None and bool(s.fit.draws),
        "the fit holds no bootstrap draws; fit with --bootstrap",
    ),
}
"""What a plot may need: how to see it, and what to say when it is missing."""


def refusal(plot: Plot, study: Study) -> str | None:
    """Say what is missing before `plot` could be drawn from `study`, or None."""
    for need in plot.needs:
        holds, reason = NEEDS[need]
        if not holds(study):
            return reason
    return None
