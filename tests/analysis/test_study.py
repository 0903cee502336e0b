"""What a study says of the rows of its table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scalekit.analysis.rollout import rollout
from scalekit.analysis.study import Study
from scalekit.fit.run import fit
from scalekit.fit.simulate import simulate
from scalekit.laws.chinchilla import LAW
from scalekit.results.table import RunTable

TRUTH = {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37}


def points_of_runs() -> RunTable:
    """Six runs, each looked at after five lengths."""
    N = np.repeat(np.geomspace(1e7, 3e9, 6), 5)
    D = 20 * N * np.tile([0.2, 0.4, 0.6, 0.8, 1.0], 6)
    table = simulate(LAW, TRUTH, {"N": N, "D": D}, noise=0.002, seed=0)
    names = np.array([f"run{k // 5}" for k in range(30)], dtype=object)
    return RunTable({**table.columns, "run": names}, {"path": "points.csv"})


def test_a_row_has_the_role_that_the_fit_gave_it_and_not_its_runs() -> None:
    table = points_of_runs()
    result = fit(table, laws=["chinchilla"], hold_out="tokens>5e10", drop=["tokens<1.2e8"])
    roles = Study(table, result).roles
    assert (roles == "held_out").tolist() == (table["tokens"] > 5e10).tolist()
    assert (roles == "dropped").tolist() == (table["tokens"] < 1.2e8).tolist()
    assert (roles == "held_out").sum() == result.holdout["n_runs"] == 1


def test_a_fit_that_names_held_out_rows_by_their_run_alone_is_still_read() -> None:
    table = points_of_runs()
    result = fit(table, laws=["chinchilla"], hold_out="params>2e9")
    rows = [{k: v for k, v in row.items() if k != "row"} for row in result.holdout["rows"]]
    older = replace(result, holdout={**result.holdout, "rows": rows})
    assert (Study(table, older).roles == "held_out").tolist() == (table["params"] > 2e9).tolist()


def test_the_next_budget_of_a_rollout_holds_its_own_rows_alone() -> None:
    table = points_of_runs()
    result = fit(table, laws=["chinchilla"])
    entries = rollout(table, result)
    flops = np.sort(table["flops"])
    for entry, after in zip(entries, [e["cut"] for e in entries[1:]], strict=False):
        above = table["flops"] > entry["cut"] * (1 + 1e-9)
        near = above & (table["flops"] <= after * (1 + 1e-9))
        # The runs of the next stretch alone, by a fit of the runs below the cut.
        below = fit(table.where(~above), laws=["chinchilla"])
        predicted = LAW.predict(below.theta, {"N": table["params"], "D": table["tokens"]})
        miss = np.abs(predicted / table["loss"] - 1)[near].mean()
        assert entry["next_mape"] == pytest.approx(miss, rel=1e-3)
    assert entries[0]["cut"] > flops[4]
