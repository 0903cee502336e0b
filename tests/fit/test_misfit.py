"""What residuals say against a fit: each doubt where it belongs, and none where noise is all."""

import numpy as np
import pytest
from fit_examples import BESIROGLU, isoflop_table, table_of

from scalekit.fit.run import fit
from scalekit.results.table import RunTable

BUDGETS = np.geomspace(1e18, 1e21, 4)
DIVERGED = {5: 9.8, 13: 11.2, 20: 7.5}


def said(table: RunTable, word: str, **asked) -> list[str]:
    return [warning for warning in fit(table, **asked).warnings if word in warning]


def test_runs_that_diverged_unsaid_are_named_and_not_those_that_hold_against_them() -> None:
    table = isoflop_table(budgets=BUDGETS, n_sizes=7, noise=0.005)
    assert not said(table, "off the law")
    loss = table["loss"].copy()
    loss[list(DIVERGED)] = list(DIVERGED.values())
    (told,) = said(RunTable({**table.columns, "loss": loss}, table.meta), "off the law")
    assert told.startswith("3 runs lie off the law by over 6 times the spread")
    for row in DIVERGED:
        assert f"{row + 1} by +" in told


@pytest.mark.parametrize("objective", ["robust", "hoffmann"])
def test_noise_of_few_runs_is_seldom_called_a_run_far_off(objective: str) -> None:
    """Under a narrow delta a fit passes through as many runs as it has parameters."""
    tables = [isoflop_table(budgets=BUDGETS[:3], n_sizes=4, noise=0.005, seed=k) for k in range(20)]
    # By the median of all residuals it was 5 in 20.
    assert sum(bool(said(t, "off the law", objective=objective)) for t in tables) <= 1


def two_kinds(words: tuple[str, str], factor: float) -> RunTable:
    table = isoflop_table(budgets=BUDGETS, n_sizes=7, noise=0.005)
    odd = np.arange(len(table)) % 2
    model = np.array([words[k] for k in odd], dtype=object)
    return RunTable({**table.columns, "model": model, "loss": table["loss"] * factor**odd})


def test_two_kinds_of_runs_are_told_by_the_column_that_names_them() -> None:
    (told,) = said(two_kinds(("llama", "mamba"), 0.96), "kinds of runs")
    assert "runs of model 'mamba' lie" in told
    assert "of 'llama'" in told
    assert "--drop \"model!='mamba'\"" in told
    assert not said(two_kinds(("llama", "mamba"), 1.0), "kinds of runs")


def test_names_of_sizes_are_not_called_kinds_of_runs() -> None:
    """A law that bends otherwise than its runs misses size by size."""
    sizes, tokens = np.repeat(np.geomspace(1e7, 3e9, 6), 8), np.tile(np.geomspace(1e9, 1e12, 8), 6)
    table = table_of(sizes, tokens, noise=0.001)
    names = np.array([f"{n / 1e6:.0f}M" for n in sizes], dtype=object)
    missed = table["loss"] * np.where(sizes < 2e7, 1.1, 1.0)
    table = RunTable({**table.columns, "loss": missed, "model": names})
    assert not said(table, "kinds of runs")


def test_a_law_that_misses_by_more_than_seeds_differ_is_doubted() -> None:
    theta = {**BESIROGLU, "alpha": 0.6}
    N, D = np.tile(np.geomspace(1e7, 1e10, 6), 12), np.repeat(np.geomspace(1e9, 1e12, 6), 12)
    right = table_of(N, D, theta, noise=0.002)
    assert not said(right, "runs of the same inputs differ")
    hump = 1 + 0.05 * np.sin(np.log(N))
    wrong = RunTable({**right.columns, "loss": right["loss"] * hump})
    (told,) = said(wrong, "runs of the same inputs differ")
    assert "the law does not follow these runs" in told


def test_an_exponent_that_rests_on_the_objective_is_doubted() -> None:
    table = isoflop_table(budgets=BUDGETS, n_sizes=7, noise=0.005)
    assert not said(table, "under --objective")
    loss = table["loss"].copy()
    loss[list(DIVERGED)] = list(DIVERGED.values())
    result = fit(RunTable({**table.columns, "loss": loss}, table.meta))
    (told,) = [w for w in result.warnings if "under --objective" in w]
    share, other = result.exponents["params"], result.diagnostics["objectives"]["mse"]
    assert abs(other["exponent_params"] - share["value"]) > 2 * (share["high"] - share["value"])
    assert f"is {other['exponent_params']:.3f} under --objective mse" in told
