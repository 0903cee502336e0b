"""Tuned hyperparameters: the bottom of a bowl in every cell, its edge, and what then is fitted."""

from pathlib import Path

import numpy as np
import pytest
from law_examples import TRUTHS, table

from scalekit import errors, registry
from scalekit.cli import run
from scalekit.errors import FitError
from scalekit.fit.prepare import prepare
from scalekit.fit.run import fit
from scalekit.results.table import RunTable, write_table

LR, BATCH = (registry.find("laws", name) for name in ("lr_power", "batch_power"))
SIZES = [(N, ratio * N) for N in (1e8, 2e8, 5e8, 1e9) for ratio in (20, 80)]


def best_of(N: float, D: float) -> tuple[float, float]:
    inputs = {"N": np.array([N]), "D": np.array([D])}
    lr = LR.predict(TRUTHS["lr_power"], inputs)[0]
    return lr, BATCH.predict(TRUTHS["batch_power"], inputs)[0]


def sweep(
    *, noise: float = 0.0, centre: float = 1.0, seed: int = 0, n: int = 7, scatter: float = 0.0
) -> RunTable:
    """Runs of a bowl around each cell's optimum; `centre` moves the rates that are tried."""
    rng = np.random.default_rng(seed)
    rows = []
    for N, D in SIZES:
        lr, batch = best_of(N, D)
        for u in np.linspace(-0.9, 0.9, n):
            for v in np.linspace(-1.1, 1.1, n):
                x, y = u + 0.13 + np.log(centre), v - 0.21
                loss = 2.0 + 300 * N**-0.34 + 800 * D**-0.36
                loss *= 1 + 0.006 * x**2 + 0.004 * y**2 + 0.002 * x * y
                loss *= np.exp(noise * rng.standard_normal())
                ends = D * np.exp(scatter * rng.uniform(-1, 1))
                rows.append((N, ends, lr * np.exp(x), batch * np.exp(y), loss))
    names = ("params", "tokens", "lr", "batch_tokens", "loss")
    return RunTable(dict(zip(names, np.array(rows).T, strict=True)), {"path": "sweep.csv"})


def test_the_bottoms_of_noiseless_bowls_give_both_laws_back() -> None:
    """Also where whole steps make the tokens of one cell's runs differ a little."""
    for scatter in (0.0, 0.004):
        told = sweep(scatter=scatter)
        result = fit(told, laws=["lr_power", "batch_power"], objective="mse_log")
        assert result.n_runs == len(SIZES)
        # The loss falls with the tokens, so that ragged tokens blur a bowl by 1e-3 of its loss.
        rel, abs_ = (0.5, 0.05) if scatter else (1e-6, 1e-9)
        for one in (result, *result.others):
            assert one.theta == pytest.approx(TRUTHS[one.law], rel=rel, abs=abs_)


def test_a_bowl_is_read_better_than_its_best_run() -> None:
    """The negative control of Step Law: arg-mins of a grid carry its spacing and the noise."""
    truth = np.log([best_of(N, D)[0] for N, D in SIZES])
    misses = {"bowl": [], "best run": []}
    for seed in range(5):
        told = sweep(noise=0.0005, seed=seed)
        _, runs = prepare("lr_power", told)
        misses["bowl"].append(np.log(runs.loss) - truth)
        # Each cell stands at its best run's row.
        misses["best run"].append(np.log(told["lr"][runs.rows]) - truth)
    spread = {name: np.sqrt(np.mean(np.square(found))) for name, found in misses.items()}
    assert spread["bowl"] < 0.5 * spread["best run"]


def test_an_optimum_at_the_edge_is_left_out_and_named() -> None:
    told = sweep()
    first = told["params"] == SIZES[0][0]
    # All rates of the two cells of the smallest size lie above their best.
    best = LR.predict(TRUTHS["lr_power"], {"N": told["params"], "D": told["tokens"]})
    low = told["lr"] < 1.2 * best
    cut = told.where(~(first & low))
    result = fit(cut, laws=["lr_power"])
    assert result.n_runs == len(SIZES) - 2
    edges = [w for w in result.warnings if "lr is best at the low edge or beyond; left out" in w]
    assert len(edges) == 2
    reasons = {entry["reason"] for entry in result.dropped}
    assert any("no optimum, params 1e+08" in reason for reason in reasons)
    # Nothing is dropped silently: every run is used by a bowl or listed with its reason.
    _, whole = prepare("lr_power", cut)
    listed = {entry["row"] for entry in whole.dropped}
    assert all(reason for reason in reasons)
    assert len(listed) == len(whole.dropped) < len(cut)


def test_a_best_run_at_the_edge_is_warned_of_though_the_bowl_has_a_bottom() -> None:
    told = sweep(centre=1.9, n=5)
    result = fit(told, laws=["lr_power"])
    assert any("best run has the lowest lr that was tried; extend" in w for w in result.warnings)


def test_a_sweep_without_a_bottom_is_refused() -> None:
    with pytest.raises(FitError, match=r"no cell .* has its best lr inside what was tried"):
        fit(sweep(centre=30.0), laws=["lr_power"])
    few = sweep(n=2)
    with pytest.raises(FitError, match="fewer than three values of each axis"):
        fit(few, laws=["lr_power"])


def test_a_sweep_of_the_rate_alone_needs_no_batch() -> None:
    told = sweep()
    middle = np.isclose(told["batch_tokens"], [best_of(N, D)[1] * np.exp(-0.21) for N, D in
                        zip(told["params"], told["tokens"], strict=True)])  # fmt: skip
    alone = told.where(middle)
    columns = {name: v for name, v in alone.columns.items() if name != "batch_tokens"}
    result = fit(RunTable(columns, told.meta), laws=["lr_power"], objective="mse_log")
    # The bowl is tilted, so off the best batch the best rate is another, in every cell alike.
    for name in ("exponent_N", "exponent_D"):
        assert result.theta[name] == pytest.approx(TRUTHS["lr_power"][name], abs=1e-6)


def test_the_exponents_at_other_windows_are_said() -> None:
    result = fit(sweep(noise=0.0005), laws=["lr_power"])
    told = [w for w in result.remarks if w.startswith("lr by least squares within 0.005: N^")]
    assert len(told) == 1
    assert "within 0.01: N^" in told[0]
    assert "within 0.02: N^" in told[0]


def test_a_table_of_tuned_runs_is_taken_as_it_is_and_says_so() -> None:
    result = fit(table("lr_power", noise=0.01), laws=["lr_power"])
    assert result.n_runs == 60
    assert any("every row is taken as tuned" in w for w in result.warnings)


def test_a_negative_exponent_can_be_held() -> None:
    result = fit(sweep(), laws=["lr_power"], fix={"exponent_N": -0.5})
    assert result.theta["exponent_N"] == -0.5


def test_a_tuned_rate_is_predicted_with_its_interval_from_the_command_line(
    tmp_path: Path, capsys
) -> None:
    path, out = tmp_path / "sweep.csv", tmp_path / "fit.json"
    write_table(sweep(noise=0.0003), path)
    assert run(["fit", str(path), "--law", "lr_power", "-o", str(out)]) == errors.OK
    assert "8 of 8 cells of params and tokens have an optimum" in capsys.readouterr().err
    argv = ["predict", str(out), "--params", "1e9", "--tokens", "1e11"]
    assert run(argv) == errors.OK
    taken = capsys.readouterr()
    assert "lr at params 1e9, tokens 1e11: 0.001" in taken.out
    # The longest runs have 8e10 tokens, the largest model 1e9 params.
    assert "warning: tokens is 1.25 times that of the nearest fitted run" in taken.err
    assert "warning: params" not in taken.err
    assert run([*argv, "--format", "csv"]) == errors.OK
    head, row = (line.split(",") for line in capsys.readouterr().out.splitlines())
    found = {name: float(value) for name, value in zip(head, row, strict=True)}
    truth = best_of(1e9, 1e11)[0]
    assert found["lr_prediction_low"] < truth < found["lr_prediction_high"]
    assert found["lr_prediction_low"] < found["lr_low"] < found["lr"] < found["lr_high"]
    assert run(["predict", str(out), "--flops", "1e21"]) == errors.USAGE
    assert run([*argv, "--yaml"]) == errors.USAGE
