"""What the columns of a foreign source mean: which is the loss, how params and FLOPs count.

Nothing is guessed. What a source states is taken and said; what it leaves open is refused with the
option that settles it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scalekit.counting import PARAMS_KINDS
from scalekit.errors import InputError
from scalekit.results.columns import columns_like
from scalekit.results.losses import settle_loss
from scalekit.results.reading import Reading
from scalekit.results.table import KINDS, MIXED, UNSTATED, stated_kinds

if TYPE_CHECKING:
    import numpy as np

    from scalekit.importers.base import Imported


@dataclass(frozen=True)
class Wanted:
    """What columns are read for.

    Attributes:
        response: The column that is fitted; another than `loss` means what its name says.
        params: Whether the number of parameters must be known, unless FLOPs are.
        drop: Columns or expressions whose true rows will be left out: nothing is doubted of them.
    """

    response: str = "loss"
    params: bool = True
    drop: Sequence[str] = ()


@dataclass
class Settled:
    """Columns (n,) while their meaning is settled, with what was assumed in sentences."""

    columns: dict[str, np.ndarray]
    assumed: list[str] = field(default_factory=list)

    def state(self, column: str, word: str) -> None:
        """Write a word into every row of a column."""
        import numpy as np

        n = len(next(iter(self.columns.values())))
        self.columns[column] = np.full(n, word, dtype=object)


def settle(
    columns: Mapping[str, np.ndarray],
    read: Imported,
    reading: Reading,
    where: str,
    wanted: Wanted,
) -> Settled:
    """Settle which columns are `loss`, `params` and `flops`, and how each counts.

    Args:
        columns: The source's own and the mapped ones, (n,).
        read: What the importer knows of them.
        reading: What the user asked for.
        where: What a message names.
        wanted: What they are read for.

    Raises:
        InputError: The source leaves something open, or contradicts what was asked.
    """
    settled = Settled(dict(columns))
    if wanted.response == "loss" or "loss" in reading.mapping:
        unit, told = settle_loss(columns, read, reading, where)
        if unit is not None:
            settled.state("loss_unit", unit)
        settled.assumed.append(told)
    _settle_params(settled, read, reading, where, wanted)
    _settle_flops(settled, read, reading, where)
    for name in ("tokens", "step"):
        if name in read.about and name in settled.columns and name not in reading.mapping:
            settled.assumed.append(f"{name}: {read.about[name]}")
    return settled


def _settle_params(
    settled: Settled, read: Imported, reading: Reading, where: str, wanted: Wanted
) -> None:
    columns, asked = settled.columns, reading.params_kind
    if "params" not in columns:
        counts = [kind for kind in PARAMS_KINDS if f"params_{kind}" in columns]
        if not wanted.params and asked is None and len(counts) != 1:
            return
        kind = _one_count(counts, asked, columns, where)
        if kind is None:
            return
        taken = f"params_{kind}"
        columns["params"] = columns[taken]
        settled.state("params_kind", kind)
    else:
        taken = _recount(settled, "params", asked, where)
    kind = _stated(columns, "params")
    told = (
        "counted in a way that is not stated, see --n-kind"
        if kind == UNSTATED
        else f"counted as {kind}"
    )
    name = reading.mapping.get("params", f"column {taken}")
    about = [read.about[taken]] if taken in read.about and "params" not in reading.mapping else []
    settled.assumed.append("; ".join([f"params are {name}, {told}", *about]))


def _one_count(
    counts: Sequence[str], asked: str | None, columns: Mapping[str, np.ndarray], where: str
) -> str | None:
    """Choose among the counts that a source gives; None where it can do without."""
    if asked in counts or (len(counts) == 1 and asked is None):
        return asked or counts[0]
    if len(counts) > 1 and asked is None:
        raise InputError(
            f"{where}: params are counted as {', '.join(counts)}; say which is meant with "
            f"--n-kind {counts[-1]}"
        )
    if not counts and "flops" in columns and asked is None:
        return None
    raise InputError(
        f"{where}: no column 'params'{f' counted as {asked}' if asked else ''}, and nothing that "
        f"it follows from; {columns_like('params', columns)} map it with --map params=COLUMN, give "
        "one number as --map params=124e6, or a table of runs with it as --facts FILE"
    )


def _recount(settled: Settled, name: str, asked: str | None, where: str) -> str:
    """Take the count asked for, where the source has it, or state what it does not state."""
    columns, taken = settled.columns, name
    stated = _stated(columns, name)
    if asked is not None and asked != stated:
        if f"{name}_{asked}" in columns:
            taken = f"{name}_{asked}"
            columns[name] = columns[taken]
        elif stated != UNSTATED:
            raise InputError(
                f"{where}: {name} are counted as {stated}, not {asked}; map the other count with "
                f"--map {name}=COLUMN"
            )
        settled.state(KINDS[name], asked)
    elif stated == UNSTATED:
        settled.state(KINDS[name], UNSTATED)
    return taken


def _settle_flops(settled: Settled, read: Imported, reading: Reading, where: str) -> None:
    import numpy as np

    columns, asked = settled.columns, reading.flops_kind
    has_flops = "flops" in columns and (
        columns["flops"].dtype == object or np.isfinite(columns["flops"]).any()
    )
    if not has_flops and asked and f"flops_{asked}" in columns:
        columns["flops"] = columns[f"flops_{asked}"]
        settled.state("flops_kind", asked)
    elif not has_flops:
        _compute_flops(settled, asked, where)
        return
    elif "flops_kind" not in columns and read.flops_kind and "flops" not in reading.mapping:
        settled.state("flops_kind", read.flops_kind)
    _recount(settled, "flops", asked, where)
    kind = _stated(columns, "flops")
    told = "in a way that is not stated, see --flops-kind" if kind == UNSTATED else f"as {kind}"
    name = reading.mapping.get("flops", "given")
    about = [read.about["flops"]] if "flops" in read.about and name == "given" else []
    settled.assumed.append("; ".join([f"flops are {name}, counted {told}", *about]))


def _compute_flops(settled: Settled, asked: str | None, where: str) -> None:
    """Count 6 N D where N and D are known; any other rule needs a shape that no table has."""
    columns = settled.columns
    kind = _stated(columns, "params")
    names = [f"params_{asked[3:]}"] if asked and asked.startswith("6N_") else []
    params = next((columns[n] for n in names if n in columns), columns.get("params"))
    is_known = asked is None or asked == f"6N_{kind}" or any(n in columns for n in names)
    tokens = columns.get("tokens")
    if params is None or tokens is None or object in (params.dtype, tokens.dtype):
        if asked is not None:
            raise InputError(f"{where}: no column 'flops'; map it with --map flops=COLUMN")
        return
    if not is_known:
        raise InputError(
            f"{where}: no FLOPs counted as {asked}, and it does not follow from params counted as "
            f"{kind}; map them with --map flops=COLUMN"
        )
    columns["flops"] = 6.0 * params * tokens
    rule = asked or f"6N_{kind}"
    settled.state("flops_kind", rule)
    if asked is None and kind == MIXED:
        rule = "each row's own count"
        kinds = columns["params_kind"].tolist()
        columns["flops_kind"][:] = [f"6N_{kind or UNSTATED}" for kind in kinds]
    settled.assumed.append(
        f"flops are computed, by {rule}: FLOPs are counted as 6 x params x tokens"
    )


def _stated(columns: Mapping[str, np.ndarray], name: str) -> str:
    return stated_kinds(columns)[KINDS[name]]
