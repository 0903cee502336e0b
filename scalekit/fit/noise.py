"""What a single run's loss varies by beside the law, and what its evaluation may be off by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scalekit.fit.identify import keys_of
from scalekit.fit.intervals import LEVEL, normal_quantile
from scalekit.fit.judge import Solution
from scalekit.laws.base import Array


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss from run to run.

    Attributes:
        total: Of the residuals; with a bounded objective by their ninetieth percentile in size, so
            that nine runs in ten lie where a normal law would have them and an outlier does not
            widen every prediction. Seeds, data order, and what the law does not follow.
        evaluation: The error that the table's `loss_sem` states; None where it has none. It is no
            part of the total: which text was held out moves the losses of all runs on it alike.
            Eight seeds of 10k parameters on 32k held-out bytes had 1.4 % each, of which by the
            rows' differences 0.19 % was a run's own. Whether the runs of a table shared their rows
            is not known; they are taken to, as those of one sweep do.
        repeats: Among runs of the same inputs, which no law can explain; None without such runs.
        repeats_dof: How many differences that rests on.
    """

    total: float
    evaluation: float | None
    repeats: float | None
    repeats_dof: int

    def to_json(self) -> dict[str, Any]:
        """Return what `fit.json` holds."""
        return asdict(self)


def measure(solution: Solution) -> Noise:
    """Measure the scatter of the runs about a fit, and put the evaluation's error beside it."""
    whole = total(solution)
    evaluation = None
    errors = solution.runs.sem
    if errors is not None and np.isfinite(errors).any():
        evaluation = float(np.sqrt(np.nanmedian(errors**2)))
    return Noise(whole, evaluation, *_repeats(solution))


def total(solution: Solution) -> float:
    """Return the standard deviation of log loss from run to run, `Noise.total`."""
    if np.isfinite(solution.problem.objective.delta):
        size = float(np.quantile(np.abs(solution.residual), LEVEL)) / normal_quantile(
            0.5 + LEVEL / 2
        )
        return size * float(np.sqrt(len(solution.residual) / solution.dof))
    return float(np.sqrt(solution.residual @ solution.residual / solution.dof))


def _repeats(solution: Solution) -> tuple[float | None, int]:
    """Pool the scatter of runs whose inputs are the same."""
    log_loss: Array = solution.problem.log_observed
    inputs = np.stack([solution.runs.inputs[s] for s in solution.law.inputs])
    keys = keys_of(inputs)
    known = np.unique(keys)
    if len(known) == len(keys):
        return None, 0
    # The same row twice is one run, not two that agree.
    kept = np.unique(keys_of(np.stack([*inputs, log_loss])), return_index=True)[1]
    group, losses = np.searchsorted(known, keys[kept]), log_loss[kept]
    counts = np.bincount(group)
    mean = np.bincount(group, losses) / counts
    dof = int(np.sum(counts - 1))
    if not dof:
        return None, 0
    return float(np.sqrt(np.sum((losses - mean[group]) ** 2) / dof)), dof
