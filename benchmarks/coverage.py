"""How often intervals hold the truth: designs x noise x objective, nominal against actual.

Run: python benchmarks/coverage.py [--repetitions 500]

The truth is Besiroglu et al.'s law; every interval that a fit ships without asking is measured:
the frontier's exponent, E (profile) and the loss at 70B parameters and 1.4T tokens.
"""

from __future__ import annotations

import argparse

import numpy as np

from scalekit import registry
from scalekit.fit.describe import describe
from scalekit.fit.intervals import LEVEL
from scalekit.fit.objective import find_objective
from scalekit.fit.optimum import errors, exponents, predict_loss
from scalekit.fit.profile import profile_interval
from scalekit.fit.result import FitStatus
from scalekit.fit.rows import select
from scalekit.fit.simulate import PUBLISHED, isoflop_inputs, simulate
from scalekit.fit.solve import solve
from scalekit.fit.uncertainty import covariance, half_width
from scalekit.laws.base import Array
from scalekit.results.table import RunTable

LAW = registry.find("laws", "chinchilla")
TRUTH = PUBLISHED["chinchilla"]
P = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
TARGET = np.array([70e9]), np.array([1.4e12])
DESIGNS = {
    "5 budgets x 5 sizes, w=4": (np.geomspace(1e18, 1e20, 5), 5, 4.0),
    "4 budgets x 5 sizes, w=3": (np.geomspace(1e18, 1e20, 4), 5, 3.0),
    "8 budgets x 8 sizes, w=8": (np.geomspace(1e18, 1e21, 8), 8, 8.0),
}
NOISE = 0.005


def noisy(table: RunTable, kind: str, rng: np.random.Generator) -> RunTable:
    n = len(table)
    if kind == "normal":
        error = rng.normal(0, NOISE, n)
    elif kind == "t, 3 dof":
        error = rng.standard_t(3, n) * NOISE / np.sqrt(3)
    else:  # small runs are noisier
        small = np.linspace(1.6, 0.4, n)
        error = rng.normal(0, NOISE, n) * small
    return RunTable({**table.columns, "loss": table["loss"] * np.exp(error)}, table.meta)


def held(table: RunTable, objective: str, seed: int) -> tuple[bool, bool, bool] | None:
    """Say which truths one fit's intervals hold, or None where it says not to trust it."""
    runs = select(table, LAW.inputs)
    solution = solve(LAW, runs, find_objective(objective))
    if solution.status is not FitStatus.CONVERGED:
        return None
    spread = covariance(solution, seed)
    fitted = describe(solution, spread.matrix, {})
    reach = half_width(solution, LEVEL)
    middle = float(np.exp(np.mean(np.log(runs.inputs["C"]))))

    def share(theta) -> Array:
        return exponents(fitted, theta, middle)

    p, error = share(fitted.theta)[0], errors(fitted, share)[0]
    loss = predict_loss(fitted, *TARGET, LEVEL)
    true = LAW.predict(TRUTH, {"N": TARGET[0], "D": TARGET[1]})[0]
    ends = profile_interval(solution, "E", spread.matrix, LEVEL)
    assert ends is not None
    return (
        bool(abs(p - P) < reach * error),
        bool(loss["low"][0] < true < loss["high"][0]),
        ends.low < TRUTH["E"] < ends.high,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=500)
    asked = parser.parse_args()
    print(f"nominal {LEVEL:.0%}, {asked.repetitions} repetitions, noise {NOISE:g}")
    print("| design | noise | objective | exponent | loss at 70B, 1.4T | E | not trusted |")
    print("|---|---|---|---|---|---|---|")
    for design, (budgets, n_sizes, width) in DESIGNS.items():
        inputs, budget = isoflop_inputs(LAW, TRUTH, list(budgets), n_sizes=n_sizes, width=width)
        clean = simulate(LAW, TRUTH, inputs, budget=budget)
        for kind in ("normal", "t, 3 dof", "uneven"):
            for objective in ("robust", "mse_log"):
                rng = np.random.default_rng(0)
                found = [
                    held(noisy(clean, kind, rng), objective, k) for k in range(asked.repetitions)
                ]
                good = np.array([one for one in found if one is not None], dtype=float)
                cells = " | ".join(f"{v:.3f}" for v in good.mean(axis=0))
                lost = len(found) - len(good)
                print(f"| {design} | {kind} | {objective} | {cells} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
