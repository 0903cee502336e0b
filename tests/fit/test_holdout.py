"""Which runs a check holds out, and when too few of them lie inside their intervals."""

import numpy as np
import pytest
from fit_examples import isoflop_table
from scipy.stats import binom

from scalekit.fit.holdout import held_out, is_covered_too_rarely
from scalekit.fit.rows import select
from scalekit.quantities import write_flops
from scalekit.results.table import RunTable

RULE = "largest-budget"


def with_a_run_beside(flops: float) -> RunTable:
    """Five budgets and one run that is of none."""
    table = isoflop_table(noise=0.003)
    columns = {k: np.append(v, v[:1]) for k, v in table.columns.items()}
    columns["budget"][-1] = np.nan
    columns["flops"][-1] = flops
    return RunTable(columns, table.meta)


def test_a_small_run_without_a_budget_does_not_tear_the_largest_budget_apart() -> None:
    table = with_a_run_beside(flops=1e18)
    chosen, words = held_out(RULE, select(table, ("N", "D")), table)
    top = np.nanmax(table["budget"])
    assert chosen.tolist() == (table["budget"] == top).tolist()
    assert words == f"{RULE} (budget {write_flops(top)} FLOPs)"


def test_a_run_without_a_budget_that_is_as_large_is_held_out_by_its_flops() -> None:
    table = with_a_run_beside(flops=1e25)
    chosen, words = held_out(RULE, select(table, ("N", "D")), table)
    assert chosen[-1]
    assert "the top tenth by FLOPs" in words


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 30, 2000])
def test_coverage_is_called_rare_where_it_is_so_once_in_twenty(n: int) -> None:
    for inside in range(n + 1):
        held = {"covered": inside / n, "n_runs": n, "level": 0.9}
        assert is_covered_too_rarely(held) == (binom.cdf(inside, n, 0.9) < 0.05)


def test_a_single_run_outside_its_interval_says_nothing_of_coverage() -> None:
    assert not is_covered_too_rarely({"covered": 0.0, "n_runs": 1, "level": 0.9})
