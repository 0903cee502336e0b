"""How often intervals hold the truth: designs x noise x objective, nominal against actual.

Run: python benchmarks/coverage.py [--repetitions 300] [--bootstrap 0] [--only WORDS] [--curves]

The truth is Besiroglu et al.'s law. Every interval that a fit ships is measured as a user gets it:
the parameters, the frontier's exponent, N* and the loss at `BUDGET`, the loss of a run at 70B
parameters and 1.4T tokens (confidence), and such a run's own loss (prediction). With --bootstrap
the intervals are the bootstrap's where it gives one. Runs of one trunk share half of their noise
and are fitted as clusters. A cell outside the accepted range is marked.

With --curves it is laws of loss curves instead, three of 79 lines, whose errors last.

A repetition of 25 runs takes 0.1 CPU seconds, three times that with a delta of 1e-3: --only WORDS
keeps the designs whose name holds them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.fit.bootstrap import bootstrap
from scalekit.fit.describe import describe, intervals
from scalekit.fit.envelope import fit_envelope
from scalekit.fit.intervals import LEVEL
from scalekit.fit.isoflop import AKIMA, PARABOLA, fit_isoflop
from scalekit.fit.objective import find_objective
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate, predict_loss
from scalekit.fit.parametric import Options, optimum
from scalekit.fit.prepare import prepare
from scalekit.fit.result import FitStatus
from scalekit.fit.rows import select
from scalekit.fit.simulate import PUBLISHED, isoflop_inputs, simulate
from scalekit.fit.solve import solve
from scalekit.fit.uncertainty import covariance
from scalekit.laws.base import Array, Law
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


def fixed_sizes(budgets: int, sizes: int, width: float) -> dict[str, Array]:
    """One set of sizes for all budgets, as models come: no valley is centred on its minimum."""
    flops = np.geomspace(1e18, 1e20, budgets)
    best = np.exp(allocate(Fitted(LAW, TRUTH, SIX_N_D), TRUTH, flops)[0])
    every = np.geomspace(best[0] / width, best[-1] * width, sizes)
    pairs = [(N, C) for C, n in zip(flops, best, strict=True) for N in every
             if n / width <= N <= n * width]  # fmt: skip
    N, C = (np.array(column) for column in zip(*pairs, strict=True))
    return {"N": N, "D": C / 6 / N, "budget": C}


def trunks(n_trunks: int, lengths: int) -> dict[str, Array]:
    """Sizes whose shorter runs branch from one trunk: they share its luck."""
    N, share = np.meshgrid(np.geomspace(3e7, 2e9, n_trunks), np.geomspace(1.0, 32.0, lengths))
    cluster = np.tile(np.arange(n_trunks, dtype=float), lengths)
    return {"N": N.ravel(), "D": (8 * N * share).ravel(), "cluster": cluster}


DESIGNS: Mapping[str, dict[str, Array]] = {
    "isoFLOP 5 x 5, w=4": isoflop(5, 5, 4.0),
    "isoFLOP 4 x 4, w=3": isoflop(4, 4, 3.0),
    "grid 5 x 5": grid(5),
    "isoFLOP 8 x 8, w=8": isoflop(8, 8, 8.0, 1e21),
    "isoFLOP 5 budgets, 13 sizes": fixed_sizes(5, 13, 4.0),
    "12 trunks x 5 lengths": trunks(12, 5),
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


def shared(design: Mapping[str, Array], rng: np.random.Generator) -> Array | float:
    """Draw what the runs of a trunk have in common, as large as their own noise."""
    if "cluster" not in design:
        return 0.0
    cluster = design["cluster"].astype(int)
    return rng.normal(0, NOISE, int(cluster.max()) + 1)[cluster]


def truths() -> dict[str, float]:
    best = np.exp(allocate(Fitted(LAW, TRUTH, SIX_N_D), TRUTH, np.array([BUDGET]))[:, 0])
    inputs = {"N": np.array([RUN[0]]), "D": np.array([RUN[1]])}
    loss = float(LAW.predict(TRUTH, inputs)[0])
    share = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    return {**TRUTH, "exponent": share, "N*": best[0], "L*": best[2], "L(run)": loss}


TRUE = truths()


def held(
    table: RunTable, options: Options, future: float, cluster: str | None
) -> list[bool] | None:
    """Say which truths a fit's intervals hold, in the order of `COLUMNS`; None if not trusted."""
    runs = select(table, LAW.inputs, cluster=cluster)
    solution = solve(LAW, runs, options.objective)
    if solution.status is not FitStatus.CONVERGED:
        return None
    spread = covariance(solution, options.seed)
    fitted = describe(solution, spread, {})
    draws = bootstrap(solution, options.bootstrap, options.seed) if options.bootstrap else None
    found, _ = intervals(solution, fitted, spread, draws)
    ends: dict[str, Any] = {n: {"low": one.low, "high": one.high} for n, one in found.items()}
    entry = optimum(solution, fitted, spread, draws, BUDGET)["intervals"]
    ends |= {"exponent": ends["exponent_params"], "N*": entry["params"], "L*": entry["loss"]}
    run = predict_loss(fitted, np.array([RUN[0]]), np.array([RUN[1]]))
    ends["L(run)"] = {"low": run["low"][0], "high": run["high"][0]}
    ends["run"] = {"low": run["prediction_low"][0], "high": run["prediction_high"][0]}
    true = {**TRUE, "run": TRUE["L(run)"] * future}
    return [bool(ends[name]["low"] <= true[name] <= ends[name]["high"]) for name in COLUMNS]


def measure(
    design: Mapping[str, Array], kind: str, objective: str, repetitions: int, draws: int
) -> tuple[Array, int]:
    """Return the coverage of each column (10,) and how many fits said not to trust them."""
    inputs = {s: design[s] for s in ("N", "D")}
    clean = simulate(LAW, TRUTH, inputs, budget=design.get("budget"))
    cluster = None
    if "cluster" in design:
        cluster = "trunk"
        clean = RunTable({**clean.columns, "trunk": design["cluster"]}, clean.meta)
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(repetitions):
        error = np.exp(noise_of(kind, clean["flops"], rng) + shared(design, rng))
        # Of the same kind as the largest run's.
        future = float(np.exp(noise_of(kind, clean["flops"], rng)[np.argmax(clean["flops"])]))
        if cluster is not None:
            future *= float(np.exp(rng.normal(0, NOISE)))
        table = RunTable({**clean.columns, "loss": clean["loss"] * error}, clean.meta)
        options = Options(find_objective(objective), bootstrap=draws, seed=seed)
        hits.append(held(table, options, future, cluster))
    good = [one for one in hits if one is not None]
    return np.mean(good, axis=0), repetitions - len(good)


def measure_frontiers(design: Mapping[str, Array], kind: str, repetitions: int) -> list[str]:
    """Return for approaches 2 and 1 how often the exponent's interval holds the truth.

    Each cell has the coverage, and the mean miss of the exponent in thousandths: its bias.
    """
    inputs = {s: design[s] for s in ("N", "D")}
    clean = simulate(LAW, TRUTH, inputs, budget=design["budget"])
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[bool, float]]] = {}
    for seed in range(repetitions):
        loss = clean["loss"] * np.exp(noise_of(kind, clean["flops"], rng))
        runs = select(RunTable({**clean.columns, "loss": loss}, clean.meta), ("N", "D", "C"))
        fits = [fit_isoflop(runs, curve=curve, seed=seed) for curve in (PARABOLA, AKIMA)]
        for one in (*fits, fit_envelope(runs)):
            told = one.exponents.get("params", {})
            if "low" in told:
                hit = told["low"] <= TRUE["exponent"] <= told["high"]
                found.setdefault(one.law, []).append((hit, told["value"] - TRUE["exponent"]))
    cells = []
    for law in (PARABOLA, AKIMA, "envelope"):
        hits = np.array(found.get(law, []), dtype=float).reshape(-1, 2)
        if not len(hits):
            cells.append("-")
            continue
        share, bias = hits.mean(axis=0)
        mark = "" if ACCEPTED[0] <= share <= ACCEPTED[1] else " !"
        cells.append(f"{share:.3f}{mark} ({1000 * bias:+.1f}, {repetitions - len(hits)} without)")
    return cells


CURVE_TRUTHS = {
    "annealing": {"L_0": 2.418, "A": 0.601, "alpha": 0.498, "C": 0.564},
    # Luo et al. 2025, arXiv:2503.12811, the authors' constants for 400M.
    "multi_power": {
        "L_0": 2.37474466, "A": 0.65421216, "alpha": 0.42878731, "B": 523.42464371,
        "C": 2.02462735, "beta": 0.59350493, "gamma": 0.63472457,
    },
}  # fmt: skip
MEMORIES = {
    "none": (0.0, 1.0),
    "0.8 a line": (0.8, 1.0),
    "0.95 a line": (0.95, 1.0),
    "0.99 a line": (0.99, 1.0),
    "0.9 a line, 0.6 of it": (0.9, 0.6),
}
"""How errors of neighbouring lines correlate, and the share of the variance that does."""


def curve_table(law: Law) -> RunTable:
    """Three schedules of 4000 steps: constant, cosine, and a fall of two thirds at half way."""
    last, peak, warmup = 4000, 3e-4, 100
    every = np.arange(last + 1)
    rise = np.minimum(every / warmup, 1.0)
    angle = np.pi * np.maximum(every - warmup, 0) / (last - warmup)
    rates = {
        "constant": np.full(last + 1, peak),
        "cosine": 0.1 * peak + 0.45 * peak * (1 + np.cos(angle)),
        "fall": np.where(every < last // 2, peak, peak / 3),
    }
    steps = np.arange(100, last + 1, 50, dtype=float)
    found: dict[str, list[Any]] = {"run": [], "step": [], "lr": [], "loss": []}
    for name, rate in rates.items():
        bound = law.on(rate * rise)  # type: ignore[attr-defined]
        at = {"t": steps, "i": np.ones(len(steps))}
        found["run"] += [name] * len(steps)
        found["step"] += steps.tolist()
        found["lr"] += (rate * rise)[steps.astype(int)].tolist()
        found["loss"] += bound.predict(CURVE_TRUTHS[law.name], at).tolist()
    columns = {k: np.array(v, dtype=object if k == "run" else float) for k, v in found.items()}
    columns["warmup_steps"] = np.full(len(columns["step"]), float(warmup))
    return RunTable(columns, {"path": "curves.csv"})


def lasting(run: Array, memory: tuple[float, float], rng: np.random.Generator) -> Array:
    """Draw errors (n,) of unit variance, a share of which correlates from line to line."""
    keep, share = memory
    part = rng.standard_normal(len(run))
    for k in range(1, len(run)):
        if run[k] == run[k - 1]:
            part[k] = keep * part[k - 1] + np.sqrt(1 - keep**2) * part[k]
    return np.sqrt(share) * part + np.sqrt(1 - share) * rng.standard_normal(len(run))


def measure_curves(
    law: Law, memory: tuple[float, float], objective: str, repetitions: int
) -> list[str]:
    """Return each parameter's coverage, all parameters', and how many fits were not trusted."""
    told, truth, rng = curve_table(law), CURVE_TRUTHS[law.name], np.random.default_rng(0)
    hits = []
    for seed in range(repetitions):
        loss = told["loss"] * np.exp(0.002 * lasting(told["run"], memory, rng))
        bound, runs = prepare(law.name, RunTable({**told.columns, "loss": loss}, told.meta))
        solution = solve(bound, runs, find_objective(objective))
        if solution.status is not FitStatus.CONVERGED:
            continue
        spread = covariance(solution, seed)
        found, _ = intervals(solution, describe(solution, spread, {}), spread, None)
        hits.append([found[name].low <= value <= found[name].high for name, value in truth.items()])
    shares = [*np.mean(hits, axis=0), float(np.mean(hits))]
    marks = ["" if ACCEPTED[0] <= v <= ACCEPTED[1] else " !" for v in shares]
    cells = [f"{v:.3f}{m}" for v, m in zip(shares, marks, strict=True)]
    return [*cells[:-1], f"**{cells[-1]}**", str(repetitions - len(hits))]


def print_curves(repetitions: int, objective: str) -> None:
    for name, truth in CURVE_TRUTHS.items():
        print(f"\n{name}, {objective}, {repetitions} repetitions\n")
        print(f"| correlation | {' | '.join(truth)} | all | not trusted |")
        print("|---" * (3 + len(truth)) + "|")
        for words, memory in MEMORIES.items():
            cells = measure_curves(registry.find("laws", name), memory, objective, repetitions)
            print(f"| {words} | {' | '.join(cells)} |", flush=True)


def chance_error(repetitions: int) -> float:
    """Return the standard error of a share of repetitions that is the nominal level."""
    return float(np.sqrt(LEVEL * (1 - LEVEL) / repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--bootstrap", type=int, default=0)
    parser.add_argument("--objectives", default="robust,mse_log,hoffmann")
    parser.add_argument("--noises", default="normal;t, 3 dof;uneven")
    parser.add_argument("--only", default="", help="designs whose name holds this")
    parser.add_argument("--frontiers", action="store_true", help="approaches 1 and 2 instead")
    parser.add_argument("--curves", action="store_true", help="laws of loss curves instead")
    asked = parser.parse_args()
    if asked.curves:
        for objective in asked.objectives.split(","):
            print_curves(asked.repetitions, objective)
        return
    if asked.frontiers:
        print("| design | noise | isoFLOP, parabola | isoFLOP, Akima | envelope |")
        print("|---|---|---|---|---|")
        for name, design in DESIGNS.items():
            for kind in asked.noises.split(";") if "budget" in design else ():
                cells = measure_frontiers(design, kind, asked.repetitions)
                print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)
        return
    print(f"nominal {LEVEL:.0%}, {asked.repetitions} repetitions, noise {NOISE:g}", end="")
    print(f", standard error of a cell {chance_error(asked.repetitions):.3f}", end="")
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
