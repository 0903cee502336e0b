"""How fast and how far down: our fit beside the usual procedure and the peers.

Run: python benchmarks/fit.py [TABLE] [--starts 4500] [--draws 4000] [--peers PYTHON]

TABLE is a CSV with params, tokens and loss, and optionally epoch_excluded; without one, 240 runs
are simulated. CPU seconds of one thread, the least of several: set OMP_NUM_THREADS=1. The usual
procedure is a grid of starts, each carried down by scipy's L-BFGS-B with a numeric gradient; of a
long grid a sample is timed and scaled, and the line says so. PYTHON is an interpreter of an
environment of their own that has the peers of `peers.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit.bootstrap import bootstrap
from scalekit.fit.newton import minimise
from scalekit.fit.objective import find_objective
from scalekit.fit.rows import Runs, select
from scalekit.fit.run import fit
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


def usual_bootstrap(
    runs: Runs, theta: dict[str, float], n_draws: int, sample: int
) -> tuple[float, float]:
    """Time refits of resampled runs from the optimum, as Epoch's notebook makes them.

    Returns:
        Scaled CPU seconds, and the median share by which a refit misses its own optimum.
    """
    from scipy.optimize import minimize

    data = np.log(np.stack([runs.inputs["N"], runs.inputs["D"], runs.loss]))
    a, b, e = (np.log(theta[name]) for name in ("A", "B", "E"))
    start = np.array([a, theta["alpha"], b, theta["beta"], e])
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(runs), len(runs)) for _ in range(sample)]
    seconds, ends = cpu(
        lambda: [
            minimize(huber_sum, start, tuple(data[:, rows]), method="L-BFGS-B").fun
            for rows in drawn
        ]
    )
    weights = np.stack([np.bincount(rows, minlength=len(runs)) for rows in drawn]).astype(float)
    solution = solve(LAW, runs, find_objective("hoffmann"))
    exact = minimise(solution.problem, np.tile(solution.psi, (sample, 1)), weights).value
    return seconds * n_draws / sample, float(np.median(np.array(ends) / exact - 1))


def whole_command(path: Path) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of `scalekit fit` in a fresh process, least of five."""
    argv = [sys.executable, "-m", "scalekit", "fit", str(path)]
    walls, cpus = [], []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpus.append(used)
    return min(walls), min(cpus)


def many_rows(n: int, folder: Path) -> dict[str, float]:
    """Return CPU seconds of reading n rows, of a certified fit, and of all that a fit tells."""
    path = folder / "many.csv"
    write_table(simulated(n), path)
    found: dict[str, float] = {}
    for _ in range(3):
        reading, table = cpu(lambda: read_table(path))
        runs = select(table, LAW.inputs)
        solving, _ = cpu(partial(solve, LAW, runs, find_objective("hoffmann")))
        whole, _ = cpu(partial(fit, table))
        for name, value in (("reading", reading), ("solving", solving), ("whole", whole)):
            found[name] = min(found.get(name, np.inf), value)
    return found


def peers(python: str | None, path: Path, draws: int, best: float, runs: Runs) -> list[list[str]]:
    """Time the peers under their own interpreter; a row a line."""
    if python is None:
        return [["peers", "none named (--peers PYTHON)", "", ""]]
    script = Path(__file__).with_name("peers.py")
    argv = [python, str(script), str(path), "--draws", str(draws)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    rows = []
    for line in done.stdout.splitlines():
        told = json.loads(line)
        note = ""
        if told.get("objective") == "hoffmann":
            theta = told["theta"]
            a, b, e = (np.log(theta[name]) for name in ("A", "B", "E"))
            x = np.array([a, theta["alpha"], b, theta["beta"], e])
            logs = (np.log(runs.inputs["N"]), np.log(runs.inputs["D"]), np.log(runs.loss))
            note = f"gap {huber_sum(x, *logs) / best - 1:.1e}"
        elif "theta" in told:
            note = "least squares on the loss, an easier objective"
        rows.append([told["tool"], told["what"], f"{told['seconds']:.3g}", note])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table", nargs="?")
    parser.add_argument("--starts", type=int, default=4500)
    parser.add_argument("--sample", type=int, default=90)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--peers", help="an interpreter that has the peers installed")
    asked = parser.parse_args()
    table = read_table(asked.table) if asked.table else simulated(240)
    drop = ["epoch_excluded"] if "epoch_excluded" in table else []
    runs = select(table, LAW.inputs, drop=drop)
    objective = find_objective("hoffmann")
    solve(LAW, runs, objective)  # the first call pays for numpy's own set-up
    singles = [cpu(lambda: solve(LAW, runs, objective)) for _ in range(9)]
    single, solution = min(singles, key=lambda pair: pair[0])
    refits = [cpu(lambda: bootstrap(solution, asked.draws, 0)) for _ in range(3)]
    draws, found = min(refits, key=lambda pair: pair[0])
    usual, best, near = usual_procedure(runs, asked.starts, asked.sample)
    redrawn, missed = usual_bootstrap(runs, solution.theta, asked.draws, asked.sample)
    rows = [
        [
            "scalekit",
            f"single fit, {solution.agreeing} of {solution.starts} starts agree",
            f"{single:.3f}",
            f"scaled gradient {solution.scaled_gradient:.0e}",
        ],
        [
            "usual (scipy)",
            f"single fit, {asked.starts} starts ({asked.sample} timed)",
            f"{usual:.3g}",
            f"gap {best / solution.value - 1:.1e}, {near:.0%} within 1 %; {usual / single:.0f}x",
        ],
        ["scalekit", f"{asked.draws} bootstrap refits", f"{draws:.3f}", f"{found.lost} lost"],
        [
            "usual (scipy)",
            f"{asked.draws} bootstrap refits ({asked.sample} timed)",
            f"{redrawn:.3g}",
            f"median gap {missed:.1e}; {redrawn / draws:.0f}x",
        ],
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = {"params": runs.inputs["N"], "tokens": runs.inputs["D"], "loss": runs.loss}
        path = folder / "data.csv"
        write_table(RunTable(columns), path)
        rows += peers(asked.peers, path, asked.draws, solution.value, runs)
        many = many_rows(asked.rows, folder)
        wall, used = whole_command(path)
    ratio = many["solving"] / many["reading"]
    rows += [
        ["scalekit", f"read {asked.rows} rows", f"{many['reading']:.3f}", ""],
        ["scalekit", "fit them", f"{many['solving']:.3f}", f"{ratio:.1f}x the reading"],
        ["scalekit", "fit them and tell all", f"{many['whole']:.3f}", "intervals, influence, ..."],
        ["scalekit fit", "the whole command", f"{used:.2f}", f"{wall:.2f} s of wall clock"],
    ]
    print(f"{len(runs)} runs, sum of Huber {DELTA:g} on log loss, {solution.value:.13e}\n")
    print("| tool | work | CPU s | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
