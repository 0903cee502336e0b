"""Which checkpoint of a training curve stands for its run, and how a noisy end is smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalekit.errors import InputError, UsageError
from scalekit.quantities import count_words, read_number

if TYPE_CHECKING:
    import numpy as np

FINAL = "final"
CURVE = "curve"

_RULES = "final, best, every, curve, step=10k or tokens=1e9"


@dataclass(frozen=True)
class At:
    """A choice of checkpoints: see `parse_at`."""

    rule: str
    value: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """Rows of a history that stand for its runs.

    Attributes:
        columns: By name, (n,).
        assumed: What was done, in sentences.
        notes: What is doubtful about it, in sentences.
    """

    columns: Mapping[str, np.ndarray]
    assumed: Sequence[str]
    notes: Sequence[str]


def parse_at(text: str) -> At:
    """Read `--at`.

    `final` is a run's last checkpoint with a loss, `best` the one with the lowest, `step=N` and
    `tokens=N` the last one up to there. With `every`, each checkpoint with a loss is a row of its
    own; with `curve` all lines stay as they are, for laws of whole curves.

    >>> parse_at("tokens=1B")
    At(rule='tokens', value=1000000000.0)

    Raises:
        UsageError: No such choice.
    """
    rule, equals, number = text.partition("=")
    if text in (FINAL, "best", "every", CURVE):
        return At(text)
    if rule in ("step", "tokens") and equals:
        try:
            return At(rule, read_number(number))
        except InputError as error:
            raise UsageError(f"--at {text}: {error}") from error
    raise UsageError(f"--at {text!r}: no such checkpoint; write {_RULES}")


def choose(
    columns: Mapping[str, np.ndarray], at: At, smooth: int, where: str, response: str = "loss"
) -> Chosen:
    """Take the checkpoints that `at` asks for, one a run but for `every` and `curve`.

    A run without a loss there stays as one row whose loss is missing, so that it is counted. With
    `every` a row is called RUN@STEP, and `trunk` has the run.

    Args:
        columns: By name, (n,), with `run` and `loss`, and `step` where it is known.
        at: Which checkpoints.
        smooth: Each loss becomes the mean of this many, itself the last; fewer near a run's start.
        where: What a message names.
        response: What stands for the loss.

    Raises:
        InputError: No such column to choose by, or a run with a step twice.
    """
    import numpy as np

    if at.rule in ("step", "tokens") and at.rule not in columns:
        raise InputError(
            f"{where}: no column {at.rule!r} to choose a checkpoint by; map it with "
            f"--map {at.rule}=COLUMN"
        )
    loss = columns[response].copy()
    rows, missing = [], []
    for run, unordered in _by_run(columns["run"]):
        members = _ordered(columns, loss, unordered, where)
        kept = members[np.isfinite(loss[members])]
        loss[kept] = _smoothed(loss[kept], smooth)
        picked = _picked(columns, loss, members, kept, at)
        if not len(picked):
            missing.append(run)
            picked = members[-1:]
            loss[picked] = np.nan
        rows.append(picked)
    chosen = np.concatenate(rows)
    taken = {name: column[chosen] for name, column in {**columns, response: loss}.items()}
    taken["flags"] = _flags(taken, at, smooth)
    assumed = _assumed(columns, taken, np.isfinite(loss[chosen]), at, smooth)
    if at.rule == "every":
        taken |= _named_apart(taken)
    return Chosen(
        taken,
        assumed,
        _notes(at, len(rows), len(chosen), missing, where),
    )


def _by_run(run: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Group row numbers by run, in the order in which runs appear."""
    import numpy as np

    found: dict[str, list[int]] = {}
    for row, name in enumerate(run.tolist()):
        found.setdefault(str(name), []).append(row)
    return [(name, np.array(members)) for name, members in found.items()]


def _ordered(
    columns: Mapping[str, np.ndarray], loss: np.ndarray, members: np.ndarray, where: str
) -> np.ndarray:
    """Order one run's rows by step, and see that no step has two losses."""
    import numpy as np

    if "step" not in columns:
        return members
    step = columns["step"]
    ordered = members[np.argsort(step[members], kind="stable")]
    steps = step[ordered][np.isfinite(loss[ordered])]
    if np.isnan(steps).any():
        raise InputError(
            f"{where}: run {str(columns['run'][members[0]])!r} has a loss without a step; say what "
            "orders its rows with --map step=COLUMN"
        )
    twice = steps[1:][steps[1:] == steps[:-1]]
    if len(twice):
        raise InputError(
            f"{where}: run {str(columns['run'][members[0]])!r} has two losses at step "
            f"{twice[0]:g}; say which column tells runs apart with --map run=COLUMN, or --map "
            "run=ONE+OTHER where two do"
        )
    return ordered


def _smoothed(loss: np.ndarray, smooth: int) -> np.ndarray:
    import numpy as np

    if smooth == 1:
        return loss
    # Each window by itself: a difference of running sums would carry a spike into all that follows.
    ends = range(1, len(loss) + 1)
    return np.array([loss[max(end - smooth, 0) : end].mean() for end in ends])


def _picked(
    columns: Mapping[str, np.ndarray],
    loss: np.ndarray,
    members: np.ndarray,
    kept: np.ndarray,
    at: At,
) -> np.ndarray:
    """Pick of one run's rows with a loss, in order; none where the run did not get so far."""
    import numpy as np

    match at.rule:
        case "final":
            return kept[-1:]
        case "every":
            return kept
        case "curve":
            return members
        case "best":
            return kept[[np.argmin(loss[kept])]] if len(kept) else kept
    place = columns[at.rule]
    if not np.nanmax(place[members], initial=-np.inf) >= at.value:
        return kept[:0]
    return kept[place[kept] <= at.value][-1:]


def _named_apart(taken: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give each checkpoint a name of its own, and keep the run's in `trunk`."""
    import numpy as np

    places = taken["step"] if "step" in taken else np.arange(len(taken["run"]), dtype=float)
    names = np.empty(len(places), dtype=object)
    names[:] = [f"{run}@{step:.12g}" for run, step in zip(taken["run"], places, strict=True)]
    return {"run": names, "trunk": taken["run"]}


def _flags(taken: Mapping[str, np.ndarray], at: At, smooth: int) -> np.ndarray:
    import numpy as np

    words = ([f"at_{at.rule}"] if at.rule in ("best", "every") else []) + (
        [f"smoothed_{smooth}"] if smooth > 1 else []
    )
    flags = np.empty(len(taken["run"]), dtype=object)
    before = taken.get("flags", [""] * len(flags))
    flags[:] = [" ".join([*str(old).split(), *words]) for old in before]
    return flags


def _assumed(
    columns: Mapping[str, np.ndarray],
    taken: Mapping[str, np.ndarray],
    has_loss: np.ndarray,
    at: At,
    smooth: int,
) -> list[str]:
    import numpy as np

    runs, n_losses = count_words(len(set(columns["run"].tolist())), "run"), int(has_loss.sum())
    words = {
        "final": "the last checkpoint with a loss stands for each run",
        "best": "the checkpoint with the lowest loss stands for each run",
        "every": f"every checkpoint with a loss is a row, {len(has_loss)} of {runs}",
        "curve": f"all {len(has_loss)} lines of {runs} are kept, {n_losses} with a loss",
    }
    text = words.get(at.rule, f"the last checkpoint up to {at.rule} {at.value:g} stands for a run")
    steps = taken["step"][has_loss] if "step" in taken else np.empty(0)
    if len(steps):
        low, high = np.nanmin(steps), np.nanmax(steps)
        text += f", at step {low:g}" if low == high else f", at steps {low:g} to {high:g}"
        if at.rule == "final" and (gap := _gap(columns, taken)) > 0:
            text += f"; logs go on for up to {gap:g} steps without another"
    told = "no smoothing" if smooth == 1 else f"each loss is the mean of the last {smooth}"
    return [f"{text}; {told}"]


def _gap(columns: Mapping[str, np.ndarray], taken: Mapping[str, np.ndarray]) -> float:
    """Return how many steps a log goes on after the checkpoint that stands for its run."""
    import numpy as np

    ends: dict[str, float] = {}
    for run, step in zip(columns["run"].tolist(), columns["step"].tolist(), strict=True):
        ends[run] = max(ends.get(run, step), step)
    gaps = [
        ends[run] - step
        for run, step in zip(taken["run"].tolist(), taken["step"].tolist(), strict=True)
    ]
    return max((gap for gap in gaps if np.isfinite(gap)), default=0.0)


def _notes(at: At, n_runs: int, n_rows: int, missing: Sequence[str], where: str) -> list[str]:
    notes = []
    if missing:
        why = "did not get that far" if at.rule in ("step", "tokens") else "have no loss"
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notes.append(f"{where}: {len(missing)} of {count_words(n_runs, 'run')} {why}: {shown}")
    if at.rule == "best" and n_rows:
        notes.append(f"{where}: the lowest of several noisy losses lies below what they measure")
    if at.rule == "every" and n_rows > n_runs:
        notes.append(
            f"{where}: checkpoints of one run are not independent, and before its schedule has "
            "ended a run's loss lies above that of a run so long"
        )
    return notes
