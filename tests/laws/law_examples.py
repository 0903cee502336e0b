"""A truth and a table for every law, so that a new law is tested by naming its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from scalekit import registry
from scalekit.laws.base import COLUMN_OF, Law
from scalekit.results.table import RunTable

REFDATA = Path(
    os.environ.get("SCALEKIT_REFDATA", Path(__file__).resolve().parents[3] / "shared" / "refdata")
)
"""Data that the project does not ship: beside the checkout, or where the variable says."""

NEEDS_REFDATA = [
    pytest.mark.data,
    pytest.mark.skipif(not REFDATA.is_dir(), reason=f"no reference data at {REFDATA}"),
]

NAMES = registry.names("laws")
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}

RANGES = {
    "N": (1e7, 1e10), "D": (2e8, 1e12), "C": (1e17, 1e22), "U": (1e8, 1e11),
    "w": (128, 4096), "l": (2, 64), "L": (1.6, 5.0), "F": (1e5, 1e9),
}  # fmt: skip

TRUTHS: Mapping[str, Mapping[str, float]] = {
    "chinchilla": BESIROGLU,
    "power": {"E": 1.6, "A": 400.0, "alpha": 0.13},
    "chinchilla_tied": {"E": 1.5, "A": 140.0, "B": 190.0, "alpha": 0.25},
    # Videau's exponents on Farseer's data, as refitted.
    "coupled": {"E": 0.27, "A": 900.0, "B": 8000.0, "alpha": 0.39, "beta": 0.43, "k": 0.47},
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "width_depth": {
        "E": 1.6, "A": 40.0, "B": 1.2, "C": 2000.0, "alpha": 0.6, "beta": 0.7, "gamma": 0.36,
    },
    # Muennighoff et al. 2023, fitted to C4.
    "repeat_exp": {
        "E": 1.8691, "A": 520.82, "B": 1487.7, "alpha": 0.34, "beta": 0.36,
        "R_D_star": 15.388, "R_N_star": 5.31,
    },
    "repeat_penalty": {
        "E": 1.8, "A": 400.0, "B": 1500.0, "P": 0.01, "alpha": 0.34, "beta": 0.35, "delta": 0.8,
        "kappa": 0.5,
    },
    # The constants released with Farseer's data.
    "farseer": {
        "s": -0.062465, "q": 0.13, "S": 0.128488, "B": 230.734, "b": -0.1729, "Q": -1.54421,
        "A": -1.665631, "a": 0.0459, "E": 3.133347,
    },
    "multi_recipe": {
        **BESIROGLU, "rho_N[muon]": 1.1, "rho_D[muon]": 1.4, "rho_N[sgd]": 0.8, "rho_D[sgd]": 0.5,
    },
    # Refitted to the 400M curves of Luo et al. 2025; and what they published for them.
    "annealing": {"L_0": 2.418, "A": 0.601, "alpha": 0.498, "C": 0.564},
    "multi_power": {
        "L_0": 2.37474466, "A": 0.65421216, "alpha": 0.42878731, "B": 523.42464371,
        "C": 2.02462735, "beta": 0.59350493, "gamma": 0.63472457,
    },
    "link_exp": {"floor": 0.143, "k": 2.21, "gamma": 0.715},
    "link_logistic": {"floor": 0.25, "ceiling": 0.9, "slope": 2.0, "middle": 3.0},
    "bnsl": {"a": 0.5, "b": 200.0, "c_0": 0.1, "c_1": 0.2, "d_1": 1e20, "f_1": 0.8},
    "finetune": {"E": 1.1, "A": 60.0, "alpha": 0.12, "beta": 0.08},
    "transfer": {"k": 1.9e4, "alpha": 0.18, "beta": 0.38},
    # Step Law and DeepSeek as printed.
    "lr_power": {"scale": 1.79, "exponent_N": -0.713, "exponent_D": 0.307},
    "batch_power": {"scale": 0.58, "exponent_N": 0.0, "exponent_D": 0.571},
    "lr_compute": {"scale": 0.3118, "exponent_C": -0.1250},
    "batch_compute": {"scale": 0.2920, "exponent_C": 0.3271},
}  # fmt: skip

PEAK = 3e-4


def ramped(rates: np.ndarray, warmup: int = 200) -> np.ndarray:
    """Let a schedule rise from zero in a straight line."""
    every = np.arange(len(rates))
    return np.where(every < warmup, PEAK * every / warmup, rates)


def schedules(n_steps: int = 4000) -> dict[str, np.ndarray]:
    """Learning rates by step of three runs: constant, cosine, and constant with one fall."""
    every = np.arange(n_steps + 1)
    cosine = PEAK * (0.55 + 0.45 * np.cos(np.pi * every / n_steps))
    fall = np.where(every < n_steps // 2, PEAK, 0.3 * PEAK)
    whole = {"constant": np.full(n_steps + 1, PEAK), "cosine": cosine, "fall": fall}
    return {name: ramped(rates) for name, rates in whole.items()}


def columns_of(law: Law, n: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    """Make the columns that a law reads of a table, but for its response."""
    if {"t", "i"} == set(law.inputs):
        return curve_columns()
    rng = np.random.default_rng(seed)
    found = {}
    for symbol in law.inputs:
        if symbol not in law.coded:
            low, high = np.log(RANGES[symbol])
            found[COLUMN_OF.get(symbol, symbol)] = np.exp(rng.uniform(low, high, n))
    if law.coded:
        words = np.array(["adamw", "muon", "sgd", "adamw"], dtype=object)
        found["group"] = words[np.arange(n) % 4]
    return found


def curve_columns(every: int = 50) -> dict[str, np.ndarray]:
    """Make step lines of `schedules`, one in `every` steps."""
    runs, steps, rates = [], [], []
    for name, lr in schedules().items():
        some = np.arange(every, len(lr), every)
        runs += [name] * len(some)
        steps.append(some.astype(float))
        rates.append(lr[some])
    return {
        "run": np.array(runs, dtype=object),
        "step": np.concatenate(steps),
        "lr": np.concatenate(rates),
    }


def bound(law: Law, columns: Mapping[str, np.ndarray]) -> tuple[Law, dict[str, np.ndarray]]:
    """Return the law of these columns, and its inputs by symbol."""
    n = len(next(iter(columns.values())))
    law, codes = law.bind(columns, np.arange(n), "made here")
    plain = {s: columns[COLUMN_OF.get(s, s)] for s in law.inputs if s not in codes}
    return law, {**plain, **codes}


def example(name: str, n: int = 60, seed: int = 0) -> tuple[Law, dict[str, np.ndarray]]:
    """Return a law ready to predict, and inputs for it."""
    law = registry.find("laws", name)
    return bound(law, columns_of(law, n, seed))


def table(name: str, noise: float = 0.0, n: int = 60, seed: int = 0) -> RunTable:
    """Simulate a table of a law's own runs; `noise` is that of the response's logarithm."""
    law = registry.find("laws", name)
    columns = columns_of(law, n, seed)
    ready, inputs = bound(law, columns)
    response = ready.predict(TRUTHS[name], inputs)
    errors = np.exp(noise * np.random.default_rng(seed + 1).standard_normal(len(response)))
    if "run" not in columns:
        columns["run"] = np.array([f"r{i:03d}" for i in range(n)], dtype=object)
    return RunTable({**columns, law.response: response * errors}, {"path": f"{name}.csv"})
