"""Fits with numbers given, and a fit of noisy runs with refits: what decisions are asked of."""

import numpy as np

from scalekit import registry
from scalekit.fit.result import CostLaw, FitResult, FitStatus
from scalekit.fit.run import fit
from scalekit.fit.simulate import PUBLISHED, isoflop_inputs, simulate
from scalekit.results.table import RunTable, stated_kinds

CHINCHILLA = registry.find("laws", "chinchilla")
TRUTH = PUBLISHED["chinchilla"]
# Sardana & Frankle 2023, arXiv:2401.00448: their coefficients of Chinchilla's law.
SARDANA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}
# Muennighoff et al. 2023, arXiv:2305.16264, as in their code.
MUENNIGHOFF = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D_star": 15.387756,
    "R_N_star": 5.309743,
}
SIX = CostLaw(6.0, 1.0, 0.0)


def fit_of(law: str, theta, cost: CostLaw = SIX, **diagnostics) -> FitResult:
    """A fit that knows its numbers and nothing of their errors."""
    return FitResult(
        law=law,
        approach="parametric",
        theta=theta,
        objective={"name": "given"},
        status=FitStatus.CONVERGED,
        message="given",
        n_runs=0,
        diagnostics=diagnostics,
        cost=cost,
    )


def noisy_fit(bootstrap: int = 0, noise: float = 0.003, seed: int = 1, **options) -> FitResult:
    """Thirty isoFLOP runs of Besiroglu's law, 1e18 to 1e20 FLOPs."""
    inputs, budget = isoflop_inputs(CHINCHILLA, TRUTH, list(np.geomspace(1e18, 1e20, 5)), n_sizes=6)
    table = simulate(CHINCHILLA, TRUTH, inputs, noise=noise, seed=seed, budget=budget)
    table = RunTable(table.columns, {**table.meta, **stated_kinds(table.columns)})
    return fit(table, bootstrap=bootstrap, **options)
