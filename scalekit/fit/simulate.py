"""Make a table of runs from a known law: for tests, demonstrations and planning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scalekit.errors import UsageError, did_you_mean
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate, can_allocate
from scalekit.laws.base import COLUMN_OF, Array, Law
from scalekit.results.table import RunTable

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    # Besiroglu et al. 2024, arXiv:2404.10102, the refit of Hoffmann et al.'s approach 3.
    "chinchilla": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
}
"""Parameters to simulate with unless others are given."""


def complete_theta(law: Law, given: Mapping[str, float]) -> dict[str, float]:
    """Fill a law's parameters from the published ones.

    Raises:
        UsageError: A name that the law does not have, or a value missing.
    """
    for name in given:
        if name not in law.names:
            raise UsageError(
                f"--theta {name}: {law.name} has none; {did_you_mean(name, law.names)}"
            )
    theta = {**PUBLISHED.get(law.name, {}), **given}
    missing = [name for name in law.names if name not in theta]
    if missing:
        raise UsageError(
            f"--theta: {law.name} needs {', '.join(missing)}; write "
            f"--theta {','.join(f'{m}=...' for m in missing)}"
        )
    return {name: float(theta[name]) for name in law.names}


def simulate(
    law: Law,
    theta: Mapping[str, float],
    inputs: Mapping[str, Array],
    *,
    noise: float = 0.0,
    seed: int = 0,
    budget: Array | None = None,
) -> RunTable:
    """Make a table of runs with given inputs.

    Args:
        law: Any law.
        theta: Published parameters.
        inputs: By symbol, each (n,).
        noise: Standard deviation of log loss.
        seed: Of the noise.
        budget: Planned FLOPs (n,), where the runs belong to budgets.
    """
    inputs = {s: np.asarray(v, dtype=float) for s, v in inputs.items()}
    n = len(next(iter(inputs.values())))
    loss = law.predict(theta, inputs)
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(n))
    names = np.empty(n, dtype=object)
    names[:] = [f"sim-{i + 1:0{len(str(n))}d}" for i in range(n)]
    columns: dict[str, np.ndarray] = {
        "run": names,
        "source": np.full(n, f"simulate {law.name}", dtype=object),
        "status": np.full(n, "done", dtype=object),
    }
    if budget is not None:
        columns["budget"] = np.asarray(budget, dtype=float)
    for symbol in ("N", "D", "U", "C", *inputs):
        if symbol in inputs:
            columns[COLUMN_OF.get(symbol, symbol)] = inputs[symbol]
    if "C" not in inputs and {"N", "D"} <= set(inputs):
        columns["flops"] = 6.0 * inputs["N"] * inputs["D"]
        columns["flops_kind"] = np.full(n, "6N_total", dtype=object)
    columns["params_kind"] = np.full(n, "total", dtype=object)
    columns["loss"] = loss
    columns["loss_unit"] = np.full(n, "nats/token", dtype=object)
    columns["seed"] = np.full(n, float(seed))
    return RunTable(columns, {"path": f"simulate {law.name}", "params_kind": "total"})


def isoflop_inputs(
    law: Law,
    theta: Mapping[str, float],
    budgets: Sequence[float],
    *,
    n_sizes: int = 5,
    width: float = 4.0,
    off_centre: float = 1.0,
) -> tuple[dict[str, Array], Array]:
    """Lay an isoFLOP grid around a law's own optimum: inputs by symbol and the budget, (n,).

    Args:
        law: A law of N and D.
        theta: Published parameters.
        budgets: FLOPs.
        n_sizes: Sizes a budget, geometric from N*/width to N* * width.
        width: Half-width as a factor.
        off_centre: Factor by which the grid's centre misses the optimum.
    """
    if not can_allocate(law):
        raise UsageError(f"--law {law.name}: has no optimum over N and D; give --sizes instead")
    flops = np.asarray(budgets, dtype=float)
    best = np.exp(allocate(Fitted(law, theta, SIX_N_D), theta, flops)[0])
    factors = np.geomspace(1 / width, width, n_sizes) * off_centre
    N = (best[:, None] * factors).ravel()
    C = np.repeat(flops, n_sizes)
    return {"N": N, "D": C / (6.0 * N)}, C
