"""Designs and truths that several tests fit, and where the public data of others lies."""

import os
from pathlib import Path

import numpy as np
import pytest

from scalekit import registry
from scalekit.fit.rows import Runs
from scalekit.fit.simulate import isoflop_inputs, simulate
from scalekit.results.table import RunTable

REFDATA = Path(
    os.environ.get("SCALEKIT_REFDATA", Path(__file__).resolve().parents[3] / "shared" / "refdata")
)
"""Data that the project does not ship: beside the checkout, or where the variable says."""

NEEDS_REFDATA = [
    pytest.mark.data,
    pytest.mark.skipif(not REFDATA.is_dir(), reason=f"no reference data at {REFDATA}"),
]

CHINCHILLA = registry.find("laws", "chinchilla")
# Besiroglu et al. 2024, arXiv:2404.10102, table 1.
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
# Hoffmann et al. 2022 as in the source of its text, and as rounded in print.
HOFFMANN = {
    "E": float(np.exp(0.5267228)),
    "A": float(np.exp(6.0073404)),
    "B": float(np.exp(6.0179186)),
    "alpha": 0.33917084,
    "beta": 0.2849083,
}
ROUNDED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
ASYMMETRIC = {"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.465, "beta": 0.155}


def isoflop_table(
    theta=BESIROGLU, budgets=None, *, n_sizes=5, width=4.0, noise=0.0, seed=0
) -> RunTable:
    budgets = list(np.geomspace(1e18, 1e20, 5) if budgets is None else budgets)
    inputs, budget = isoflop_inputs(CHINCHILLA, theta, budgets, n_sizes=n_sizes, width=width)
    return simulate(CHINCHILLA, theta, inputs, noise=noise, seed=seed, budget=budget)


def table_of(N, D, theta=BESIROGLU, noise=0.0, seed=0) -> RunTable:
    N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
    return simulate(CHINCHILLA, theta, {"N": N, "D": D}, noise=noise, seed=seed)


def with_columns(table: RunTable, **columns) -> RunTable:
    return RunTable({**table.columns, **columns}, table.meta)


def runs_of(N, D, loss, budget=None) -> Runs:
    N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
    n = len(N)
    return Runs(
        "made here",
        tuple(map(str, range(n))),
        {"N": N, "D": D, "C": 6 * N * D},
        np.asarray(loss, dtype=float),
        np.full(n, np.nan) if budget is None else np.asarray(budget, dtype=float),
        np.arange(n),
        np.arange(n),
    )
