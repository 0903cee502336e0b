"""fit.json files with numbers written down: what they predict depends on no solver."""

from pathlib import Path

import numpy as np

from scalekit.fit.result import CostLaw, FitResult, FitStatus, Interval
from scalekit.fit.run import write_fit

THETA = {"E": 1.8516, "A": 564.53, "B": 2712.2, "alpha": 0.35727, "beta": 0.37949}
# A Cholesky factor of the relative covariance of thirty runs with 0.3 % noise.
FACTOR = [
    [0.009146, 0.0, 0.0, 0.0, 0.0],
    [0.101640, 0.058242, 0.0, 0.0, 0.0],
    [0.078736, -0.039403, 0.039493, 0.0, 0.0],
    [0.017626, 0.009619, -0.000521, 0.000592, 0.0],
    [0.010800, -0.005587, 0.005232, -0.000292, 0.000123],
]
REPEATS = {
    "E": 1.8691,
    "A": 520.82,
    "B": 1487.7,
    "alpha": 0.35266,
    "beta": 0.35266,
    "R_D_star": 15.388,
    "R_N_star": 5.3097,
}


def chinchilla(**changes) -> FitResult:
    values = np.array(list(THETA.values()))
    spread = np.array(FACTOR) * values[:, None]
    plain = {
        "law": "chinchilla",
        "approach": "parametric",
        "theta": THETA,
        "objective": {"name": "robust"},
        "status": FitStatus.CONVERGED,
        "message": "9 of 9 starts reached the same optimum",
        "n_runs": 30,
        "data": {
            "path": "data.csv",
            "sha256": "5feb",
            "params_kind": "total",
            "flops_kind": "6N_total",
            "loss_unit": "nats/token",
        },
        "intervals": {"E": Interval(1.8205, 1.8804, 0.9, "profile")},
        "diagnostics": {
            "dof": 25,
            "noise": 0.002,
            "covariance": "sandwich-t",
            "inputs": {"N": [2.0e7, 3.4e9], "D": [5.2e8, 7.8e10], "C": [1e18, 1e20]},
            "tokens_per_param": {"low": 1.43, "high": 411.0},
        },
        "covariance": tuple(map(tuple, (spread @ spread.T).tolist())),
        "cost": CostLaw(6.0, 1.0, 0.0),
        "version": "0.1.0",
    }
    return FitResult(**{**plain, **changes})


def repeats(**changes) -> FitResult:
    return chinchilla(law="repeat_exp", theta=REPEATS, covariance=None, intervals={}, **changes)


def written(folder: Path, fit: FitResult, name: str = "fit.json") -> Path:
    path = folder / name
    write_fit(fit, path)
    return path
