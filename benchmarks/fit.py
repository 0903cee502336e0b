"""How fast and how far down: our fit beside the usual procedure and the peers that are installed.

Run: python benchmarks/fit.py [TABLE] [--starts 4500] [--draws 4000]

TABLE is a CSV with params, tokens and loss, and optionally epoch_excluded; without one, 240 runs
are simulated. CPU seconds of one thread; set OMP_NUM_THREADS=1. The usual procedure is a grid of
starts, each carried down by scipy's L-BFGS-B with a numeric gradient; of a long grid a sample is
timed and scaled, and the line says so.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit.bootstrap import bootstrap
from scalekit.fit.objective import find_objective
from scalekit.fit.rows import Runs, select
from scalekit.fit.simulate import PUBLISHED, simulate
from scalekit.fit.solve import solve
from scalekit.results.table import RunTable, read_table, write_table

DELTA = 1e-3
LAW = registry.find("laws", "chinchilla")


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """Run and return CPU seconds with what came back."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def simulated(n: int, seed: int = 0) -> RunTable:
    rng = np.random.default_rng(seed)
    inputs = {
        "N": np.exp(rng.uniform(np.log(6e7), np.log(1.6e10), n)),
        "D": np.exp(rng.uniform(np.log(8e8), np.log(3e11), n)),
    }
    return simulate(LAW, PUBLISHED["chinchilla"], inputs, noise=0.007, seed=seed)


def huber_sum(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray) -> float:
    a, alpha, b, beta, e = x
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = terms.max(axis=0)
    r = np.abs(log_l - top - np.log(np.exp(terms - top).sum(axis=0)))
    return float(np.sum(np.where(r < DELTA, r**2 / 2, DELTA * (r - DELTA / 2))))


def usual_procedure(runs: Runs, n_starts: int, sample: int) -> tuple[float, float, float]:
    """Time the grid of Hoffmann et al.; return scaled CPU seconds, best value, share near it."""
    from scipy.optimize import minimize

    data = (np.log(runs.inputs["N"]), np.log(runs.inputs["D"]), np.log(runs.loss))
    grid = list(
        itertools.product(
            np.arange(0, 30, 5), np.arange(0, 2.5, 0.5), np.arange(0, 30, 5),
            np.arange(0, 2.5, 0.5), np.arange(-1, 1.5, 0.5),
        )
    )  # fmt: skip
    chosen = np.random.default_rng(0).choice(len(grid), min(sample, n_starts), replace=False)
    starts = [np.array(grid[i], dtype=float) for i in chosen]
    seconds, ends = cpu(
        lambda: [minimize(huber_sum, s, data, method="L-BFGS-B").fun for s in starts]
    )
    best = min(ends)
    near = float(np.mean(np.array(ends) <= best * 1.01))
    return seconds * n_starts / len(starts), best, near


def whole_command(table: RunTable) -> float:
    """Return the wall-clock seconds of `scalekit fit` in a fresh process, best of three."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        write_table(table, path)
        argv = [sys.executable, "-m", "scalekit", "fit", str(path)]
        times = []
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        return min(times)


def reading_and_fitting(n: int) -> tuple[float, float]:
    """Return CPU seconds of reading n rows and of fitting them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        write_table(simulated(n), path)
        reading, table = cpu(lambda: read_table(path))
        runs = select(table, LAW.inputs)
        fitting, _ = cpu(lambda: solve(LAW, runs, find_objective("hoffmann")))
        return reading, fitting


def peers() -> list[str]:
    """Name the peers that are installed."""
    found = []
    for module in ("chinchilla", "simple_scaling_laws"):
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        found.append(module)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table", nargs="?")
    parser.add_argument("--starts", type=int, default=4500)
    parser.add_argument("--sample", type=int, default=90)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=10_000)
    asked = parser.parse_args()
    table = read_table(asked.table) if asked.table else simulated(240)
    drop = ["epoch_excluded"] if "epoch_excluded" in table else []
    runs = select(table, LAW.inputs, drop=drop)
    objective = find_objective("hoffmann")
    solve(LAW, runs, objective)  # the first call pays for numpy's own set-up
    singles = [cpu(lambda: solve(LAW, runs, objective)) for _ in range(5)]
    single, solution = min(singles, key=lambda pair: pair[0])
    draws, found = cpu(lambda: bootstrap(solution, asked.draws, 0))
    usual, best, near = usual_procedure(runs, asked.starts, asked.sample)
    reading, fitting = reading_and_fitting(asked.rows)
    print(f"{len(runs)} runs, sum of Huber {DELTA:g} on log loss")
    print(f"ours, {solution.agreeing} of {solution.starts} starts agree   {single:8.3f} CPU s")
    print(f"  objective {solution.value:.13e}, scaled gradient {solution.scaled_gradient:.0e}")
    print(f"usual, {asked.starts} starts ({asked.sample} timed)   {usual:8.1f} CPU s")
    print(f"  objective {best:.13e}, gap {best / solution.value - 1:.1e}, {near:.0%} within 1 %")
    print(f"  ratio {usual / single:.0f}")
    print(f"ours, {asked.draws} bootstrap refits   {draws:8.3f} CPU s, {found.lost} lost")
    print(f"{asked.rows} rows: reading {reading:.3f}, fitting {fitting:.3f} CPU s")
    print(f"scalekit fit, whole command   {whole_command(table):8.2f} s of wall clock")
    print(f"peers installed: {', '.join(peers()) or 'none'}")


if __name__ == "__main__":
    main()
