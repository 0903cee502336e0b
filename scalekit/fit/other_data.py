"""Runs of different data, or tuned in different ways, in one table.

A law that knows nothing of it takes it for noise.
"""

from __future__ import annotations

from scalekit.fit.rows import Runs
from scalekit.laws.base import Array, Law
from scalekit.results.table import RunTable

RECIPES = "group"
COLUMNS = {
    RECIPES: "recipes",
    "data.weights": "mixture weights",
    "data.source": "sources of data",
    "data.path": "data",
    "data.tokenizer": "tokenizers",
    "start.method": "ways of tuning",
}
"""Columns that say in words what a run was trained on, and what of it learnt."""
_SHOWN = 3
_FEWEST_EACH = 3
"""Runs that a group has on the average where it is a recipe and not a name of single runs."""


def mixed_data(law: Law, table: RunTable, runs: Runs) -> tuple[str, ...]:
    """Say which columns of data differ among the runs in use and that the law does not take.

    A law that reads a column by which these differ, such as one of recipes with a recipe a
    mixture, takes them.
    """
    found = []
    read = [c for c in (*law.columns, *law.reads) if c in table and table[c].dtype == object]
    for column, words in COLUMNS.items():
        if column not in table or column in (*law.columns, *law.reads):
            continue
        cells = [str(cell) for cell in table[column][runs.rows]]
        values = list(dict.fromkeys(cells))
        if len(values) < 2 or any(_tells(table[c][runs.rows], cells) for c in read):
            continue
        if column == RECIPES and len(cells) < _FEWEST_EACH * len(values):
            continue
        shown = "; ".join(value or "none" for value in values[:_SHOWN]) + (
            "; ..." if len(values) > _SHOWN else ""
        )
        found.append(
            f"{runs.where}: these runs have {len(values)} {words} in {column} ({shown}), and "
            f"{law.name} takes the difference for noise; keep one with --drop "
            f"\"{column}!='{values[0]}'\", or compare them as recipes with --law multi_recipe"
            + ("" if column == RECIPES else f" --map {RECIPES}={column}")
        )
    return tuple(found)


def _tells(labels: Array, cells: list[str]) -> bool:
    """Whether rows of one label all have one cell."""
    pairs = set(zip((str(label) for label in labels), cells, strict=True))
    return len({label for label, _ in pairs}) == len(pairs)
