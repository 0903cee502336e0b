"""Which column of a foreign source is the loss, and in which unit.

The unit comes from the source, the format or the column's name, never from the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scalekit.errors import InputError
from scalekit.results.arithmetic import uses
from scalekit.results.columns import columns_like
from scalekit.results.reading import LOSS_UNITS, Reading
from scalekit.results.table import UNSTATED, stated_kinds

if TYPE_CHECKING:
    import numpy as np

    from scalekit.importers.base import Imported

_CE = r"(?:^|[^a-z])(?:ce|ppl)(?:$|[^a-z])"
_LOSS = re.compile(
    rf"loss|bpb|bpc|bits[_ ]per|nll|cross[_ ]entropy|perplexity|{_CE}", re.IGNORECASE
)
_NOT_LOSS = re.compile(r"_(unit|sem|std|stderr)$|loss_scale|^oracle_|__(MIN|MAX)$", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[^a-z])(?:train|val|valid|validation|eval|dev|test)", re.IGNORECASE)
_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|eval|dev|test)", re.IGNORECASE)
_PERPLEXITY = re.compile(r"perplexity|(?:^|[^a-z])ppl(?:$|[^a-z])", re.IGNORECASE)
_BITS = re.compile(r"(?:^|[^a-z])bits?(?:$|[^a-z])", re.IGNORECASE)
_UNIT_WORDS = {
    r"bpb|bits[_ ]per[_ ]byte": "bits/byte",
    r"bpc|bits[_ ]per[_ ]char": "bits/character",
    r"bits[_ ]per[_ ]tok": "bits/token",
    r"nats[_ ]per[_ ]tok": "nats/token",
}
_CONVERTS = {"log", "log2", "log10", "exp"}
_SCALES = {"Mult", "Div"}
_SHOWN = 6
_FACTORS = {("nats/token", "bits/token"): "/log(2)", ("bits/token", "nats/token"): "*log(2)"}


def settle_loss(
    columns: Mapping[str, np.ndarray], read: Imported, reading: Reading, where: str
) -> tuple[str | None, str]:
    """Settle which column is the loss and in which unit it is.

    Args:
        columns: The source's own and the mapped ones, (n,).
        read: What the importer knows of them.
        reading: What the user asked for.
        where: What a message names.

    Returns:
        The unit of every row, None where the rows state their own; and what to tell.

    Raises:
        InputError: No loss or more than one, or a unit that is open or contradicts `reading`.
    """
    mapped = reading.mapping.get("loss", "").strip()
    if not mapped:
        _check_one_loss(columns, read, where)
    is_computed = bool(mapped) and mapped not in columns
    used, does = uses(mapped, columns, where) if is_computed else ([mapped or "loss"], set())
    if _states_unit(columns, reading):
        unit = _agreed(stated_kinds(columns)["loss_unit"], reading.loss_unit, "loss", where)
    elif is_computed:
        unit = _computed_unit(mapped, {_unit_of(name, read) for name in used}, does, reading, where)
    else:
        unit = _column_unit(used[0], read, reading.loss_unit, where)
    told = "in a unit that is not stated, see --loss-unit" if unit == UNSTATED else f"in {unit}"
    about = [read.about[name] for name in used if name in read.about]
    sentence = "; ".join([f"loss is {mapped or 'column loss'}, {told}", *about])
    return (None if _states_unit(columns, reading) else unit), sentence


def _states_unit(columns: Mapping[str, np.ndarray], reading: Reading) -> bool:
    """Whether the rows state the unit of what is taken as the loss."""
    if "loss" in reading.mapping and "loss_unit" not in reading.mapping:
        return False
    return stated_kinds(columns)["loss_unit"] != UNSTATED


def _check_one_loss(columns: Mapping[str, np.ndarray], read: Imported, where: str) -> None:
    """Refuse a source without a loss, or with a second one that may be meant."""
    found = [name for name in columns if _LOSS.search(name) and not _NOT_LOSS.search(name)]
    found = list(dict.fromkeys([*(name for name in read.loss_units if name in columns), *found]))
    if "loss" in columns:
        # A table that states its unit was made by scalekit or with care: its loss is the loss.
        rivals = [name for name in found if name != "loss" and _SPLIT.search(name)]
        if rivals and "loss_unit" not in columns:
            raise InputError(
                f"{where}: the loss may be {_listed(['loss', *rivals], read)}; say which with "
                f"--map loss={_quoted(rivals[0])}, or --map loss=loss"
            )
        return
    if not found:
        raise InputError(
            f"{where}: no column 'loss'; {columns_like('loss', columns)} map it with "
            "--map loss=COLUMN"
        )
    found.sort(key=lambda name: (bool(_PERPLEXITY.search(name)), not _HELD_OUT.search(name)))
    raise InputError(
        f"{where}: no column 'loss' but {_listed(found, read)}; say which is meant with "
        f"--map loss={_quoted(found[0])}"
    )


def _listed(names: Sequence[str], read: Imported) -> str:
    words = [
        f"{name!r} ({read.loss_units[name]})" if read.loss_units.get(name) else repr(name)
        for name in names[:_SHOWN]
    ]
    return " or ".join(words) + (", ..." if len(names) > _SHOWN else "")


def _quoted(name: str) -> str:
    """Write a column's name so that the shell and the mapping take it whole."""
    return name if re.fullmatch(r"[\w./-]+", name) else f"'{name}'"


def _column_unit(name: str, read: Imported, asked: str | None, where: str) -> str:
    """Say the unit of a column that is the loss as it stands."""
    known = _unit_of(name, read)
    if not asked and _PERPLEXITY.search(name):
        raise InputError(
            f"{where}: {name!r} is a perplexity, not a loss; take --map 'loss=log({{{name}}})' "
            "and say its --loss-unit"
        )
    if not asked and not known and _BITS.search(name):
        raise InputError(
            f"{where}: {name!r} is in bits, a token or a byte is not said; add --loss-unit bits "
            "(a token) or bpb (a byte)"
        )
    return _agreed(known, asked, name, where)


def _unit_of(name: str, read: Imported) -> str:
    """Say the unit of a column that the format or the column's name states, or nothing."""
    if read.loss_units.get(name):
        return read.loss_units[name]
    found = (unit for words, unit in _UNIT_WORDS.items() if re.search(words, name, re.IGNORECASE))
    return next(found, "")


def _agreed(known: str, asked: str | None, name: str, where: str) -> str:
    if asked is None or known in ("", UNSTATED) or asked == known:
        return asked or known or UNSTATED
    way = _FACTORS.get((known, asked))
    todo = (
        f"convert it with --map 'loss={{{name}}}{way}'"
        if way
        else "leave the option out, or map what converts it"
    )
    raise InputError(f"{where}: {name!r} is in {known}, not {asked}; {todo}")


def _computed_unit(
    expression: str, known: set[str], does: set[str], reading: Reading, where: str
) -> str:
    """Say the unit of a computed loss; refuse where the computing may have changed it."""
    if reading.loss_unit is not None:
        return reading.loss_unit
    unit = next(iter(known)) if len(known) == 1 else ""
    if does & _CONVERTS or len(known) > 1 or (unit and does & _SCALES):
        units = ", ".join(f"{word} ({unit})" for unit, word in LOSS_UNITS.items())
        raise InputError(
            f"{where}: --map loss={expression} may change the unit of the loss; say in what it "
            f"comes out with --loss-unit, of {units}"
        )
    return unit or UNSTATED
