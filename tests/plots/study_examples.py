"""Studies to draw and report: runs of a known Chinchilla surface, their curves and a fit by hand.

The fit is built by hand, not by the fitter, so that a figure's test fails for the figure's reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scalekit import registry
from scalekit.analysis.study import Curve, Study
from scalekit.fit.envelope import fit_envelope
from scalekit.fit.isoflop import fit_isoflop
from scalekit.fit.result import CostLaw, FitResult, FitStatus, Interval
from scalekit.fit.rows import select
from scalekit.results.table import RunTable

THETA = {"E": 1.82, "A": 482.0, "B": 2085.4, "alpha": 0.348, "beta": 0.366}


def surface(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """The published fit of Besiroglu et al. 2024, rounded."""
    t = THETA
    return t["E"] + t["A"] * N ** -t["alpha"] + t["B"] * D ** -t["beta"]


def optimal_params(C: np.ndarray | float) -> np.ndarray:
    a, b = THETA["alpha"], THETA["beta"]
    scale = (a * THETA["A"] / (b * THETA["B"])) ** (1 / (a + b))
    return scale * (np.asarray(C) / 6) ** (b / (a + b))


def isoflop_table(
    budgets: Sequence[float] = tuple(np.geomspace(1e18, 1e21, 5)),
    sizes: int = 7,
    width: float = 6.0,
    noise: float = 0.002,
    seed: int = 0,
) -> RunTable:
    """Sample sizes around the optimum of each budget, with log-normal noise."""
    rng = np.random.default_rng(seed)
    C = np.repeat(np.asarray(budgets, dtype=float), sizes)
    spread = np.tile(np.geomspace(1 / width, width, sizes), len(budgets))
    N = optimal_params(C) * spread
    D = C / (6 * N)
    n = C.size
    columns = {
        "run": np.array([f"run{k:03d}" for k in range(n)], dtype=object),
        "source": np.full(n, "simulated", dtype=object),
        "group": np.full(n, "", dtype=object),
        "status": np.full(n, "done", dtype=object),
        "budget": C,
        "params": N,
        "params_kind": np.full(n, "non_embedding_head", dtype=object),
        "tokens": D,
        "flops": 6 * N * D,
        "flops_kind": np.full(n, "6N_non_embedding_head", dtype=object),
        "loss": surface(N, D) * np.exp(noise * rng.standard_normal(n)),
        "loss_unit": np.full(n, "nats/token", dtype=object),
        "loss_sem": np.full(n, 0.002),
        "seed": np.zeros(n),
        "lr": 3e-3 * (N / 1e6) ** -0.25,
    }
    return RunTable(columns, {"path": "runs.csv"})


def curves_of(table: RunTable, points: int = 60, seed: int = 1) -> tuple[Curve, ...]:
    """Give each run a loss curve that ends at its loss."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(len(table)):
        D, N, final = table["tokens"][k], table["params"][k], table["loss"][k]
        tokens = D * np.geomspace(1e-3, 1.0, points)
        loss = surface(np.full(points, N), tokens)
        loss = loss * final / loss[-1]
        norm = 0.5 * np.exp(0.1 * rng.standard_normal(points)) * (tokens / D) ** -0.1
        lr = table["lr"][k] * np.minimum(1, tokens / (0.01 * D)) * np.cos(1.3 * tokens / D)
        steps = {
            "tokens": tokens,
            "loss": loss * np.exp(0.01 * rng.standard_normal(points)),
            "lr": lr,
            "grad_norm": norm,
        }
        at = slice(9, None, 10)
        evals = {"tokens": tokens[at], "flops": 6 * N * tokens[at], "val_loss": loss[at]}
        out.append(
            Curve(
                str(table["run"][k]),
                str(table["status"][k]),
                float(N),
                float(table["budget"][k]),
                steps,
                evals,
            )
        )
    return tuple(out)


def hand_made_fit(table: RunTable, held: np.ndarray, dropped: np.ndarray) -> FitResult:
    """Write down a fit with the true parameters and intervals around them."""
    rng = np.random.default_rng(3)
    spread = {"E": 0.02, "A": 60.0, "B": 300.0, "alpha": 0.006, "beta": 0.007}
    theta = dict(THETA)
    draws = tuple(
        tuple(theta[n] + spread[n] * rng.standard_normal() for n in theta) for _ in range(64)
    )
    rows = tuple(
        {
            "run": str(table["run"][k]),
            "loss": float(table["loss"][k]),
            "predicted": float(surface(table["params"][k], table["tokens"][k])),
            "low": float(surface(table["params"][k], table["tokens"][k]) * 0.99),
            "high": float(surface(table["params"][k], table["tokens"][k]) * 1.01),
        }
        for k in np.flatnonzero(held)
    )
    p = THETA["beta"] / (THETA["alpha"] + THETA["beta"])
    return FitResult(
        law="chinchilla",
        approach="parametric",
        theta=theta,
        objective={"name": "huber", "delta": 1e-3, "value": 0.0123},
        status=FitStatus.CONVERGED,
        message="the gradient is small and the starts agree",
        n_runs=int(len(table) - dropped.sum()),
        dropped=tuple(
            {"run": str(table["run"][k]), "row": int(k), "reason": "stands apart"}
            for k in np.flatnonzero(dropped)
        ),
        data={
            "path": "runs.csv",
            "sha256": "0" * 64,
            "params_kind": "non_embedding_head",
            "flops_kind": "6N_non_embedding_head",
            "loss_unit": "nats/token",
        },
        intervals={
            n: Interval(theta[n] - 1.64 * s, theta[n] + 1.64 * s, 0.9, "bootstrap")
            for n, s in spread.items()
        },
        exponents={
            "params": {"value": p, "low": p - 0.02, "high": p + 0.02},
            "tokens": {"value": 1 - p, "low": 1 - p - 0.02, "high": 1 - p + 0.02},
        },
        holdout={"rule": "largest-budget", "n_runs": int(held.sum()), "mape": 0.0021}
        | {"bias": -0.0004, "worst": 0.0049, "theta": theta, "rows": rows},
        diagnostics={"condition": 1234.5, "tokens_per_param": {"low": 0.6, "high": 920.0}},
        draws=draws,
        cost=CostLaw(6.0, 1.0, 0.0),
        covariance=tuple(tuple(spread[m] ** 2 if m == n else 0.0 for m in spread) for n in spread),
        optimum=tuple(_optimum(c) for c in (1e21, 1e23)),
        others=(fit_isoflop(select(table, "NDC")), fit_envelope(select(table, "NDC"))),
        starts=20,
        seed=7,
        version="0.1.0",
    )


def _optimum(C: float) -> dict:
    N = float(optimal_params(C))
    D = C / (6 * N)
    L = float(surface(N, D))  # type: ignore[arg-type]
    values = {"params": N, "tokens": D, "loss": L, "tokens_per_param": D / N}
    spread = {"params": 0.1, "tokens": 0.1, "loss": 0.003, "tokens_per_param": 0.2}
    between = {
        n: {"low": v * (1 - spread[n]), "high": v * (1 + spread[n])} for n, v in values.items()
    }
    return {"flops": C, **values, "extrapolation": C / 1e21, "intervals": between}


def full_study() -> Study:
    """A study with everything: a diverged run, a dropped one, a held-out budget, curves, a plan."""
    table = isoflop_table()
    n = len(table)
    columns = dict(table.columns)
    status, loss = columns["status"].copy(), columns["loss"].copy()
    status[3], loss[3] = "diverged", np.nan
    columns |= {"status": status, "loss": loss, "device_s": np.full(n, 90.0)}
    columns["energy_j"] = np.where(np.arange(n) == 4, np.nan, 3.6e5)
    columns["entropy"] = np.full(n, 1.815)
    table = RunTable(columns, {"path": "runs.csv", "sha256": "0" * 64})
    held = columns["budget"] == columns["budget"].max()
    dropped = np.arange(n) == 5
    plan = tuple(
        {"id": f"todo{k}", "plan": {"params": 3e9 * k, "tokens": 2e11, "budget": 3.6e21 * k}}
        for k in (1, 2)
    )
    return Study(
        table,
        hand_made_fit(table, held, dropped),
        curves_of(table),
        plan,
        tuple(_record(str(run)) for run in columns["run"]),
        "isoflop-demo",
    )


def _record(run: str) -> dict:
    """A run's record without its lines: header, attempts, end."""
    config = {
        "model": {"arch": "gpt"},
        "data": {"source": "synthetic", "tokenizer": "symbols"},
        "train": {"optimizer": "adamw", "schedule": "cosine", "warmup_frac": 0.05},
    }
    attempt = {"n": 1, "time": "2026-01-02T03:04:05+00:00", "host": "node7", "device": "cpu"}
    return {
        "header": {"id": run, "config": config},
        "attempts": [attempt | {"code": "0.1.0+abcdef123456", "torch": "2.13.0"}],
        "end": {"status": "done", "device_s": 90.0},
    }


def bare_study() -> Study:
    """A table alone: no fit, no curves, no plan."""
    return Study(isoflop_table())


def small_study() -> Study:
    """Six runs on two budgets, a fit without intervals and without other approaches."""
    table = isoflop_table((1e18, 1e19), sizes=3)
    nothing = np.zeros(len(table), dtype=bool)
    fit = hand_made_fit(table, nothing, nothing)
    poor = replace(fit, intervals={}, draws=None, covariance=None, others=(), holdout={})
    return Study(table, replace(poor, optimum=()))


def with_columns(table: RunTable, **more: np.ndarray) -> RunTable:
    """The table with columns added or replaced."""
    return RunTable({**table.columns, **more}, table.meta)


def tuned_study(noise: float = 0.0) -> Study:
    """Six sizes and lengths, each at eight rates and five batches on a bowl around a known optimum.

    The optimum: lr* = 2e4 N^-0.7 D^0.3, batch* = 0.5 D^0.55.
    """
    rng = np.random.default_rng(4)
    rows = []
    for N, D in ((1e8, 2e9), (1e8, 2e10), (3e8, 5e9), (3e8, 5e10), (1e9, 2e10), (1e9, 1e11)):
        best_lr, best_batch = 2e4 * N**-0.7 * D**0.3, 0.5 * D**0.55
        for lr in best_lr * np.geomspace(1 / 6, 8, 8):
            for batch in best_batch * np.geomspace(1 / 5, 4, 5):
                x, y = np.log(lr / best_lr), np.log(batch / best_batch)
                loss = float(surface(N, D)) * (1 + 0.006 * x**2 + 0.004 * y**2)  # type: ignore[arg-type]
                rows.append((N, D, lr, batch, loss * np.exp(noise * rng.standard_normal())))
    N, D, lr, batch, loss = np.array(rows).T
    columns = {"params": N, "tokens": D, "lr": lr, "batch_tokens": batch, "loss": loss}
    words = {"params_kind": "non_embedding_head", "loss_unit": "nats/token"}
    columns |= {k: np.full(len(N), v, dtype=object) for k, v in words.items()}
    return Study(RunTable(columns, {"path": "rates.csv"}), name="rates")


def seeds_study(spread: float = 0.004, seeds: int = 5) -> Study:
    """Every run of an isoFLOP sweep with several seeds, apart by a known share of the loss."""
    table = isoflop_table(sizes=3, noise=0.0)
    place = np.repeat(np.arange(len(table)), seeds)
    many = table.where(place)
    rng = np.random.default_rng(6)
    loss = many["loss"] * (1 + spread * rng.standard_normal(place.size))
    names = np.array([f"r{k}" for k in range(place.size)], dtype=object)
    seed = np.tile(np.arange(seeds, dtype=float), len(table))
    many = with_columns(many, run=names, seed=seed, loss=loss)
    nothing = np.zeros(place.size, dtype=bool)
    fit = hand_made_fit(many, nothing, nothing)
    return Study(many, replace(fit, diagnostics={**fit.diagnostics, "noise": 0.005}))


def spent_study() -> Study:
    """The full study with its runs' plan, each estimated at 60 s on two GPUs, and their use."""
    study = full_study()
    assert study.table is not None
    lines = tuple(
        {
            "id": str(run),
            "plan": {"params": 1e9, "tokens": 1e10, "budget": float(budget), "estimate": 60.0},
            "resources": {"gpus": 2},
        }
        for run, budget in zip(study.runs, study.column("budget"), strict=True)
    )
    used = 120.0 * np.exp(0.2 * np.random.default_rng(8).standard_normal(len(study.table)))
    return replace(study, table=with_columns(study.table, device_s=used), plan=lines)


LINK = """from scalekit.laws.power import power_of
LAW = power_of("L")
"""
"""A law file of a link from loss to accuracy: floor and a falling power."""


def task_study(link: str = "") -> Study:
    """Runs with an accuracy that follows from the loss: 0.2 + 9 L^-3.5."""
    study = full_study()
    assert study.table is not None
    assert study.fit is not None
    with np.errstate(invalid="ignore"):
        accuracy = 0.2 + 9.0 * study.column("loss") ** -3.5
    table = with_columns(study.table, accuracy=accuracy)
    if not link:
        return replace(study, table=table)
    theta = {"E": 0.2, "A": 9.0, "alpha": 3.5}
    second = replace(study.fit, law=link, theta=theta, exponents={}, optimum=(), holdout={})
    second = replace(second, others=(), draws=None)
    return replace(study, table=table, fit=replace(study.fit, others=(second,)))


def lines_study(held: str = "fall") -> Study:
    """Step lines of three schedules under a law of curves, one schedule held out of a check."""
    law = registry.find("laws", "annealing")
    theta = {"L_0": 2.418, "A": 0.601, "alpha": 0.498, "C": 0.564}
    peak = np.full(3001, 3e-4)
    rates = {"constant": peak, "cosine": peak * np.cos(np.linspace(0, 1.4, 3001)), "fall": peak}
    rates["fall"] = np.where(np.arange(3001) < 2000, peak, 0.3 * peak)
    rng = np.random.default_rng(9)
    steps = np.arange(100.0, 3001.0, 25.0)
    columns: dict[str, list] = {"run": [], "step": [], "lr": [], "loss": [], "warmup_steps": []}
    for name, rate in rates.items():
        clean = law.on(rate).predict(theta, {"t": steps, "i": np.ones(len(steps))})
        columns["run"] += [name] * len(steps)
        columns["step"] += steps.tolist()
        columns["lr"] += rate[steps.astype(int)].tolist()
        columns["loss"] += (clean * np.exp(1e-3 * rng.standard_normal(len(steps)))).tolist()
        columns["warmup_steps"] += [0.0] * len(steps)
    words = {k: np.array(v, dtype=object if k == "run" else float) for k, v in columns.items()}
    words["loss_unit"] = np.full(len(words["run"]), "nats/token", dtype=object)
    table = RunTable(words, {"path": "curves.csv"})
    known = small_study().fit
    assert known is not None
    asked = {"hold_out": f"run=='{held}'"}
    fit = replace(
        known,
        n_runs=len(table),
        exponents={},
        covariance=None,
        law="annealing",
        theta=theta,
        data={"loss_unit": "nats/token"},
        holdout={"theta": {**theta, "C": 0.5}, "rows": [{"run": held}], "n_runs": 117},
        diagnostics={"asked": asked},
    )
    return Study(table, fit, name="curves")


SOME_FIGURES = ("isoflop", "frontier", "design", "curves")
"""Enough for what analyze does with figures; each is drawn in full by its own tests."""

OWN_STUDY: dict[str, Callable[[], Study]] = {
    "hparam": tuned_study,
    "noise": seeds_study,
    "cost": spent_study,
    "two_step": task_study,
    "curve_fit": lines_study,
}


def study_for(name: str) -> Study:
    """The study that a plot's contract is held to: one with all that the plot can show."""
    return OWN_STUDY.get(name, full_study)()
