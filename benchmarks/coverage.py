"""How often intervals hold the truth: designs x noise x objective, nominal against actual.

Run: python benchmarks/coverage.py [--repetitions 400] [--bootstrap 0] [--only WORDS]

The truth is Besiroglu et al.'s law. Every interval that a fit ships is measured as a user gets it:
the parameters, the frontier's exponent, N* and the loss at `BUDGET`, the loss of a run at 70B
parameters and 1.4T tokens (confidence), and such a run's own loss (prediction). With --bootstrap
the intervals are the bootstrap's where it gives one. A cell outside the accepted range is marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.analysis.allocation import predict
from scalekit.fit.intervals import LEVEL
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.run import fit
from scalekit.fit.simulate import PUBLISHED, isoflop_inputs, simulate
from scalekit.laws.base import Array
from scalekit.results.table import RunTable

LAW = registry.find("laws", "chinchilla")
TRUTH = PUBLISHED["chinchilla"]
BUDGET = 1e22
RUN = 70e9, 1.4e12
NOISE = 0.005
ACCEPTED = 0.86, 0.94

COLUMNS = ("E", "A", "B", "alpha", "beta", "exponent", "N*", "L*", "L(run)", "run")


def isoflop(budgets: int, sizes: int, width: float, top: float = 1e20) -> dict[str, Array]:
    inputs, budget = isoflop_inputs(
        LAW, TRUTH, list(np.geomspace(1e18, top, budgets)), n_sizes=sizes, width=width
    )
    return {**inputs, "budget": budget}


def grid(side: int) -> dict[str, Array]:
    N, D = np.meshgrid(np.geomspace(5e7, 2e9, side), np.geomspace(2e9, 5e10, side))
    return {"N": N.ravel(), "D": D.ravel()}


DESIGNS: Mapping[str, dict[str, Array]] = {
    "isoFLOP 5 x 5, w=4": isoflop(5, 5, 4.0),
    "isoFLOP 4 x 4, w=3": isoflop(4, 4, 3.0),
    "grid 5 x 5": grid(5),
    "isoFLOP 8 x 8, w=8": isoflop(8, 8, 8.0, 1e21),
}


def noise_of(kind: str, flops: Array, rng: np.random.Generator) -> Array:
    """Draw relative errors (n,) of standard deviation `NOISE` on average."""
    n = len(flops)
    if kind == "normal":
        return rng.normal(0, NOISE, n)
    if kind == "t, 3 dof":
        return rng.standard_t(3, n) * NOISE / np.sqrt(3)
    # Small runs are noisier: from 1.6 to 0.4 of the average along log compute.
    log_c = np.log(flops)
    share = (log_c - log_c.min()) / np.ptp(log_c)
    return rng.normal(0, NOISE, n) * (1.6 - 1.2 * share)


def truths() -> dict[str, float]:
    best = np.exp(allocate(Fitted(LAW, TRUTH, SIX_N_D), TRUTH, np.array([BUDGET]))[:, 0])
    inputs = {"N": np.array([RUN[0]]), "D": np.array([RUN[1]])}
    loss = float(LAW.predict(TRUTH, inputs)[0])
    share = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    return {**TRUTH, "exponent": share, "N*": best[0], "L*": best[2], "L(run)": loss}


def held(found: FitResult, future: float) -> list[bool]:
    """Say which truths a fit's intervals hold, in the order of `COLUMNS`."""
    true = {**truths(), "run": truths()["L(run)"] * future}
    ends: dict[str, Any] = {
        name: {"low": one.low, "high": one.high} for name, one in found.intervals.items()
    }
    ends["exponent"] = ends["exponent_params"]
    entry = found.optimum[0]["intervals"]
    ends |= {"N*": entry["params"], "L*": entry["loss"]}
    run = predict(found, *RUN)["intervals"]
    ends |= {"L(run)": run["loss"], "run": run["loss_prediction"]}
    return [ends[name]["low"] <= true[name] <= ends[name]["high"] for name in COLUMNS]


def measure(
    design: Mapping[str, Array], kind: str, objective: str, repetitions: int, draws: int
) -> tuple[Array, int]:
    """Return the coverage of each column (10,) and how many fits said not to trust them."""
    inputs = {s: design[s] for s in ("N", "D")}
    clean = simulate(LAW, TRUTH, inputs, budget=design.get("budget"))
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(repetitions):
        error = np.exp(noise_of(kind, clean["flops"], rng))
        future = float(np.exp(rng.normal(0, NOISE)))
        table = RunTable({**clean.columns, "loss": clean["loss"] * error}, clean.meta)
        found = fit(table, objective=objective, predict=[BUDGET], bootstrap=draws, seed=seed)
        if found.status is FitStatus.CONVERGED:
            hits.append(held(found, future))
    return np.mean(hits, axis=0), repetitions - len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=0)
    parser.add_argument("--objectives", default="robust,mse_log,hoffmann")
    parser.add_argument("--noises", default="normal;t, 3 dof;uneven")
    parser.add_argument("--only", default="", help="designs whose name holds this")
    asked = parser.parse_args()
    print(f"nominal {LEVEL:.0%}, {asked.repetitions} repetitions, noise {NOISE:g}", end="")
    print(f", bootstrap {asked.bootstrap}" if asked.bootstrap else "")
    print(f"| design | noise | objective | {' | '.join(COLUMNS)} | not trusted |")
    print("|---" * (4 + len(COLUMNS)) + "|")
    for name, design in DESIGNS.items():
        if asked.only not in name:
            continue
        for kind in asked.noises.split(";"):
            for objective in asked.objectives.split(","):
                share, lost = measure(design, kind, objective, asked.repetitions, asked.bootstrap)
                marks = ["" if ACCEPTED[0] <= v <= ACCEPTED[1] else " !" for v in share]
                cells = " | ".join(f"{v:.3f}{m}" for v, m in zip(share, marks, strict=True))
                print(f"| {name} | {kind} | {objective} | {cells} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
