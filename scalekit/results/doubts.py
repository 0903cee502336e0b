"""What is doubtful about the numbers of a table, in sentences; what is wrong is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scalekit.counting import FLOPS_KINDS, PARAMS_KINDS
from scalekit.errors import did_you_mean, nearest
from scalekit.quantities import count_words
from scalekit.results.columns import require
from scalekit.results.reading import LOSS_UNITS
from scalekit.results.table import KINDS, UNSTATED, RunTable

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = ("loss", "params", "tokens", "flops")
_WIDEST_GAP = 1e5
"""A factor between neighbouring sizes that no sweep leaves out; 1.3e9 beside 774 is 774M."""
_KNOWN = {"params_kind": PARAMS_KINDS, "flops_kind": FLOPS_KINDS, "loss_unit": tuple(LOSS_UNITS)}
_MOST_CODES = 3
CODE_CHANGED = "code_changed"
"""The flag of a run that was submitted or trained by more than one state of the code."""
_FEWEST = {"params": 1e3, "tokens": 1e3}
"""Fewer than a run has: the smallest of a sweep that is counted in millions or billions."""

_FEWEST_FLOPS, _MOST_FLOPS = 1e-3, 1e5
"""FLOPs a token over params between which counts lie: sparse experts below 6, heads above."""

_OFF_BUDGET = 8.0
"""How far FLOPs may be from a budget that counts them otherwise, without head or attention."""


def doubts(columns: Mapping[str, np.ndarray], where: str, rows: np.ndarray) -> list[str]:
    """List what a reader of a table must know of its numbers.

    Args:
        columns: By name, (n,).
        where: What a message names.
        rows: Positions of the rows that are looked at.

    Raises:
        InputError: A column that must be numbers holds a word.
    """
    import numpy as np

    present = [name for name in _NUMBERS if name in columns]
    require(RunTable(columns, {"path": where}), present)
    used = {name: columns[name][rows] for name in present}
    found = []
    for name, values in used.items():
        finite = np.isfinite(values)
        if not finite.all():
            missing = count_words(int((~finite).sum()), "row")
            found.append(f"{where}: {name} is missing or not finite in {missing}")
        bad = np.flatnonzero(finite & (values <= 0))
        if len(bad):
            found.append(
                f"{where}: {name} is not positive in {count_words(len(bad), 'row')}, the first is "
                f"row {rows[bad[0]] + 1} with {values[bad[0]]:g}"
            )
        found += _scale(name, values[finite & (values > 0)], where)
    found += _flops_unit(used, where)
    found += _off_budget(columns, where, rows)
    return found + _errors(columns, where, rows) + _repeats(used, present, where)


def _flops_unit(used: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Doubt FLOPs that no way of counting gives for these params and tokens."""
    import numpy as np

    if not {"params", "tokens", "flops"} <= used.keys():
        return []
    # A part each, for the product of three wrong columns may be beyond floats.
    logs = {name: np.log(np.where(used[name] > 0, used[name], np.nan)) for name in _NUMBERS[1:]}
    ratio = logs["flops"] - logs["params"] - logs["tokens"]
    ratio = ratio[np.isfinite(ratio)]
    middle = float(np.exp(np.median(ratio))) if len(ratio) else 6.0
    if _FEWEST_FLOPS < middle < _MOST_FLOPS:
        return []
    return [
        f"{where}: flops are {middle:.2g} x params x tokens, where training takes about 6: one of "
        "the three is in another unit; mend it, as with --map 'tokens=tokens*1e9', or with "
        "--map 'flops=flops*8.64e19' from PF-days"
    ]


def _errors(columns: Mapping[str, np.ndarray], where: str, rows: np.ndarray) -> list[str]:
    """Doubt a standard error that is none; an empty cell only says that nobody measured it."""
    import numpy as np

    if "loss_sem" not in columns:
        return []
    if columns["loss_sem"].dtype == object:
        return [f"{where}: loss_sem holds words, so no evaluation's error is known; write numbers"]
    sem = columns["loss_sem"][rows]
    bad = np.flatnonzero((sem < 0) | np.isinf(sem))
    if not len(bad):
        return []
    return [
        f"{where}: loss_sem is negative or not finite in {count_words(len(bad), 'row')}, the first "
        f"is row {rows[bad[0]] + 1} with {sem[bad[0]]:g}"
    ]


def _scale(name: str, values: np.ndarray, where: str) -> list[str]:
    """Doubt a column that is constant, or whose sizes look like thousands or millions."""
    import numpy as np

    if len(values) < 2 or name == "loss":
        return []
    sizes = np.unique(values)
    if len(sizes) == 1:
        return [
            f"{where}: {name}, the same in every row, {sizes[0]:g}; no law can tell what it does"
        ]
    gap = sizes[1:] / sizes[:-1]
    widest = int(np.argmax(gap))
    if gap[widest] > _WIDEST_GAP:
        return [
            f"{where}: {name} jump from {sizes[widest]:g} to {sizes[widest + 1]:g}; if units are "
            "mixed, mend them"
        ]
    if sizes[0] < _FEWEST.get(name, 0.0):
        return [
            f"{where}: {name} begin at {sizes[0]:g}; if they are millions or billions, say which "
            f"with --map '{name}={name}*1e6' or --map '{name}={name}*1e9'"
        ]
    return []


def _repeats(columns: Mapping[str, np.ndarray], present: Sequence[str], where: str) -> list[str]:
    """Count the rows that say of a run what another row says already."""
    import numpy as np

    if len(present) < 2:
        return []
    numbers = np.stack([columns[name] for name in present], axis=1)
    numbers = numbers[np.isfinite(numbers).all(axis=1)]
    if len(numbers) < 2:
        return []
    # Only rows that share their first number can be equal, which in most tables none do.
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
    same = numbers[1:, 0] == numbers[:-1, 0]
    numbers = numbers[np.append(same, False) | np.append(False, same)]
    numbers = numbers[np.lexsort(numbers.T)]
    twice = int((numbers[1:] == numbers[:-1]).all(axis=1).sum())
    if not twice:
        return []
    verb = "repeats" if twice == 1 else "repeat"
    return [f"{where}: {count_words(twice, 'row')} {verb} the {', '.join(present)} of another row"]


def _off_budget(columns: Mapping[str, np.ndarray], where: str, rows: np.ndarray) -> list[str]:
    """Doubt finished rows whose FLOPs are nowhere near the budget that they are said to have."""
    import numpy as np

    # A table with several counts of FLOPs is of a sweep, whose budgets are of one of them.
    counts = [name for name in columns if name.startswith("flops_") and name != "flops_kind"]
    if not {"budget", "flops"} <= columns.keys() or counts or columns["budget"].dtype == object:
        return []
    if "status" in columns:
        rows = rows[[str(cell) in ("", "nan", "done") for cell in columns["status"][rows]]]
    flops, budget = (columns[name][rows] for name in ("flops", "budget"))
    known = np.isfinite(flops) & np.isfinite(budget) & (flops > 0) & (budget > 0)
    ratio = np.full(len(rows), np.nan)
    ratio[known] = flops[known] / budget[known]
    off = np.flatnonzero((ratio > _OFF_BUDGET) | (ratio < 1 / _OFF_BUDGET))
    if not len(off):
        return []
    first = rows[off[0]]
    return [
        f"{where}: flops are over {_OFF_BUDGET:g} times off the budget in "
        f"{count_words(len(off), 'row')}, the first is row {first + 1} with flops "
        f"{columns['flops'][first]:.3g} and budget {columns['budget'][first]:.3g}: runs are "
        "grouped and held out by budget; mend the one or the other"
    ]


def partly_stated(columns: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Say where some rows of a table state how they count and others do not."""
    found = []
    for name, kind in KINDS.items():
        cells = [str(cell) for cell in columns[kind].tolist()] if kind in columns else []
        silent = sum(cell in ("", UNSTATED) for cell in cells)
        if 0 < silent < len(cells):
            found.append(
                f"{where}: {kind} is stated in {len(cells) - silent} rows and not in {silent}, "
                f"whose {name} may be another; fill it in, or say it with --map \"{kind}='...'\""
            )
    return found


def unknown_kinds(columns: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Name the words for a unit or a way of counting that nothing here knows.

    Such a word may be one of its owner's, so it is taken as it stands; a misspelt one is held for
    another unit than the one that was meant.
    """
    words = {k: Counter(str(c) for c in columns[k].tolist()) for k in _KNOWN if k in columns}
    # What is computed from params is as well known as they are.
    computed = [f"6N_{word}" for word in words.get("params_kind", ())]
    short = {word: unit for unit, word in LOSS_UNITS.items()}
    found = []
    for kind, cells in words.items():
        for word in cells.keys() - {"", UNSTATED, *_KNOWN[kind], *computed}:
            meant = short.get(word) or nearest(word, _KNOWN[kind])
            todo = f"did you mean {meant!r}?" if meant else did_you_mean(word, _KNOWN[kind])
            found.append(
                f"{where}: {kind} is {word!r} in {count_words(cells[word], 'row')}, which is not "
                f"known here and taken as it stands; {todo}"
            )
    return sorted(found)


def join_doubts(tables: Sequence[RunTable]) -> list[str]:
    """Say where some tables state how they count and others do not."""
    found = []
    for name, kind in KINDS.items():
        known = {t.meta[kind] for t in tables if name in t} - {UNSTATED}
        silent = [str(t.meta["path"]) for t in tables if name in t and t.meta[kind] == UNSTATED]
        if known and silent:
            found.append(
                f"{', '.join(silent[:3])}: {kind} is not stated, and other sources say "
                f"{', '.join(sorted(known))}; they may not go together"
            )
    return found


def mixed_code(columns: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Say where runs of one table were made by different code, or one run was.

    A law takes its rows for one experiment; a change between them is a difference that no column
    explains.
    """
    found = []
    codes = [str(code) for code in columns["code"].tolist()] if "code" in columns else []
    made_by = Counter(code for code in codes if code not in ("", "nan"))
    if len(made_by) > 1:
        told = ", ".join(f"{code} made {n}" for code, n in made_by.most_common(_MOST_CODES))
        more = f" and {len(made_by) - _MOST_CODES} more" if len(made_by) > _MOST_CODES else ""
        found.append(
            f"{where}: mixes runs of {len(made_by)} states of the code, {told}{more}; compare "
            "them before one law is fitted to all"
        )
    flags = columns["flags"].tolist() if "flags" in columns else []
    changed = sum(CODE_CHANGED in str(cell).split() for cell in flags)
    if changed:
        found.append(
            f"{where}: the code changed between submission and start, or between attempts, of "
            f"{changed} run{'s' * (changed != 1)}; flags has {CODE_CHANGED} there"
        )
    return found
