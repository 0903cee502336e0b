"""Laws of loss curves: schedules from step lines, areas, groups of changes, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from law_examples import PEAK, TRUTHS, curve_columns, ramped, schedules, table

from scalekit import errors, registry
from scalekit.cli import run
from scalekit.errors import InputError
from scalekit.fit.prepare import prepare
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit, read_fit
from scalekit.laws._curves import read_schedule
from scalekit.laws.annealing import areas
from scalekit.results.table import RunTable, write_table

ANNEALING = registry.find("laws", "annealing")
MULTI_POWER = registry.find("laws", "multi_power")


def twice_summed(rates: np.ndarray, memory: float) -> np.ndarray:
    """S2 as printed: the sum over i of the sum over k <= i of (eta_k-1 - eta_k) memory^(i-k)."""
    falls = -np.diff(rates, prepend=rates[0])
    total = []
    for last in range(len(rates)):
        inner = [
            sum(falls[k] * memory ** (i - k) for k in range(1, i + 1)) for i in range(last + 1)
        ]
        total.append(sum(inner))
    return np.array(total)


@pytest.mark.parametrize("memory", [0.9, 0.999])
def test_the_areas_by_recursion_are_the_double_sum(memory: float) -> None:
    """TI-2, Tissue et al. 2024, arXiv:2408.11029."""
    rates = ramped(PEAK * np.cos(np.linspace(0, 1.4, 90)), warmup=20)
    s1, s2 = areas(rates, memory)
    np.testing.assert_allclose(s1, np.cumsum(rates), rtol=1e-15)
    np.testing.assert_allclose(s2, twice_summed(rates, memory), rtol=1e-12, atol=1e-16)


def test_a_constant_rate_has_no_second_area() -> None:
    """TI-2."""
    assert not areas(np.full(500, PEAK), 0.999)[1].any()


def exact(theta: dict[str, float], rates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The multi-power law summed over every change of the rate."""
    falls, spent = -np.diff(rates), np.cumsum(rates)
    changed = np.arange(1, len(rates))
    losses = []
    for step in steps:
        k = changed[(changed <= step) & (falls != 0)]
        x = theta["C"] * rates[k] ** -theta["gamma"] * (spent[step] - spent[k - 1])
        paid = np.sum(falls[k - 1] * (1 - (1 + x) ** -theta["beta"]))
        losses.append(
            theta["L_0"] + theta["A"] * spent[step] ** -theta["alpha"] - theta["B"] * paid
        )
    return np.array(losses)


@pytest.mark.parametrize("name", ["constant", "cosine", "fall"])
def test_groups_of_changes_stand_for_each_change(name: str) -> None:
    rates = schedules()[name]
    steps = np.arange(300, 4000, 200)
    theta = dict(TRUTHS["multi_power"])
    found = MULTI_POWER.on(rates).predict(theta, {"t": steps, "i": np.ones(len(steps))})
    # Ages within a fifth of each other share a place; curves are logged to 1e-4 nats.
    np.testing.assert_allclose(found, exact(theta, rates, steps), atol=5e-5)


def test_a_law_that_falls_below_zero_keeps_a_slope_that_leads_back() -> None:
    law = ANNEALING.on(np.linspace(PEAK, 0.0, 4001))
    inputs = {"t": np.array([3000.0, 3900.0]), "i": np.ones(2)}
    theta = {**TRUTHS["annealing"], "C": 200.0}
    frame = law.frame(inputs)
    phi = law.to_internal(theta, frame.centre)[None]
    state = law.state(phi, frame)
    assert state.log_loss[0, 1] < np.log(1e-2)
    step = np.array([0, 0, 0, 1e-6])
    up, down = (law.state(phi + side * step, frame).log_loss for side in (1, -1))
    np.testing.assert_allclose(law.jacobian(state)[:, 3], (up - down) / 2e-6, rtol=1e-6)


def lines(steps: list[float], rates: list[float], **more: list[float]) -> dict[str, np.ndarray]:
    columns = {"step": steps, "lr": rates, **more}
    return {name: np.array(values, dtype=float) for name, values in columns.items()}


def schedule(columns: dict[str, np.ndarray]) -> np.ndarray:
    return read_schedule(columns, np.arange(len(columns["step"])), "runs.csv: run 'a'")


def test_a_schedule_is_read_between_its_lines() -> None:
    sloping = schedule(lines([0, 4, 8], [4.0, 2.0, 1.0]))
    assert sloping.tolist() == [4.0, 3.5, 3.0, 2.5, 2.0, 1.75, 1.5, 1.25, 1.0]
    # Flat, a change, flat: a jump where the new rate is first reported, not a ramp.
    jumping = schedule(lines([0, 2, 4, 6, 8], [2.0, 2.0, 2.0, 1.0, 1.0]))
    assert jumping.tolist() == [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]


def test_the_order_of_lines_does_not_matter() -> None:
    told = lines([0, 4, 8, 12], [4.0, 2.0, 1.0, 1.0])
    mixed = {name: values[[2, 0, 3, 1]] for name, values in told.items()}
    assert schedule(mixed).tolist() == schedule(told).tolist()


def test_the_rates_before_the_first_line_are_told_and_never_guessed() -> None:
    steps, rates = [20.0, 22.0, 24.0], [4.0, 4.0, 4.0]
    with pytest.raises(InputError, match=r"begins at step 20, .* --map warmup_steps=2000, 0 for"):
        schedule(lines(steps, rates))
    flat = schedule(lines(steps, rates, warmup_steps=[0.0] * 3))
    assert flat.tolist() == [4.0] * 25
    rising = schedule(lines(steps, rates, warmup_steps=[10.0] * 3))
    assert rising[:12].tolist() == [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0, 4.0]
    # A warm-up that is not over at the first line rises to that line's rate.
    longer = schedule(lines(steps, rates, warmup_steps=[1000.0] * 3))
    assert longer[10] == pytest.approx(2.0)


BAD = {
    "one line": (lines([10], [1.0]), "has one line, but a curve has many"),
    "a step twice": (lines([1, 2, 2], [1.0, 1.0, 1.0]), "has step 2 twice"),
    "no rate": (lines([1, 2, 3], [1.0, np.nan, 1.0]), "no learning rate in row 2"),
    "a negative rate": (lines([1, 2, 3], [1.0, 1.0, -1.0]), "no learning rate in row 3"),
    "two warm-ups": (
        lines([1, 2, 3], [1.0, 1.0, 1.0], warmup_steps=[5, 6, 5]),
        "tells warmup_steps as",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_curve_that_cannot_be_followed_is_refused(name: str) -> None:
    columns, says = BAD[name]
    with pytest.raises(InputError, match=says):
        schedule(columns)


def test_curves_of_several_sizes_are_refused_with_the_option_that_settles_it() -> None:
    told = table("annealing")
    sizes = np.where(told["run"] == "fall", 2e8, 1e8)
    mixed = RunTable({**told.columns, "params": sizes}, told.meta)
    with pytest.raises(InputError, match=r"curves of 2 sizes.*--drop 'params!=100000000'"):
        fit(mixed, laws=["annealing"])
    assert fit(mixed, laws=["annealing"], drop=["params!=1e8"]).n_runs < len(told)


def test_lines_left_out_of_a_fit_still_are_history() -> None:
    whole = table("annealing")
    result = fit(whole, laws=["annealing"], drop=["step<1500"], objective="mse_log")
    assert result.theta == pytest.approx(TRUTHS["annealing"], rel=1e-5)
    # Negative control: a table that begins there has lost its past, and says so.
    with pytest.raises(InputError, match=r"annealing\.csv: run 'constant' begins at step 1500"):
        fit(whole.where(whole["step"] >= 1500), laws=["annealing"])


def test_lines_of_a_fifth_of_a_curve_are_resampled_together() -> None:
    _, runs = prepare("annealing", table("annealing"))
    sizes = np.bincount(runs.cluster)
    assert len(sizes) == 15  # three curves
    assert sizes.min() >= 15
    for one in range(15):
        mine = runs.cluster == one
        assert len(np.unique(runs.inputs["i"][mine])) == 1
        assert np.ptp(runs.inputs["t"][mine]) <= 50 * sizes[one]


def correlated(told: RunTable, seed: int) -> RunTable:
    """Noise whose neighbours on a curve correlate by .8."""
    noise = np.random.default_rng(seed).standard_normal(len(told))
    for k in range(1, len(told)):
        if told["run"][k] == told["run"][k - 1]:
            noise[k] = 0.8 * noise[k - 1] + 0.6 * noise[k]
    return RunTable({**told.columns, "loss": told["loss"] * np.exp(0.002 * noise)}, told.meta)


@pytest.mark.slow
def test_intervals_that_know_lasting_errors_hold_the_truth() -> None:
    """Nominal 90 % with errors that correlate along the curve; lines taken alone do not."""
    told = table("annealing")
    held = {"lasting": 0, "lines": 0}
    for seed in range(20):
        noisy = correlated(told, seed)
        lines_alone = {**noisy.columns, "line": np.arange(len(noisy), dtype=float)}
        for kind, one, cluster in (
            ("lasting", noisy, None),
            ("lines", RunTable(lines_alone, noisy.meta), "line"),
        ):
            found = fit(one, laws=["annealing"], objective="mse_log", cluster=cluster).intervals
            held[kind] += sum(
                found[name].low < value < found[name].high
                for name, value in TRUTHS["annealing"].items()
            )
    # Of 80 intervals; in five times as many repetitions 73 and 38.
    assert held["lasting"] > 64
    assert held["lasting"] > held["lines"] + 15


def test_curves_worth_few_lines_are_doubted_and_resamples_do_not_stand_in() -> None:
    told = table("annealing")
    rng = np.random.default_rng(5)
    drift = np.zeros(len(told))
    for k in range(len(told)):
        kept = k and told["run"][k] == told["run"][k - 1]
        drift[k] = (0.98 * drift[k - 1] if kept else 0.0) + 0.2 * rng.standard_normal()
    drifting = RunTable({**told.columns, "loss": told["loss"] * np.exp(2e-3 * drift)}, told.meta)
    result = fit(drifting, laws=["annealing"], objective="mse_log", bootstrap=60)
    lasting = result.diagnostics["lasting_errors"]
    assert lasting["effective"] < 12
    assert any("add curves, not lines" in w for w in result.warnings)
    assert {one.method for one in result.intervals.values()} <= {"lasting-errors-t", "profile"}
    # A column that the user names stands for what belongs together, as for any other law.
    named = fit(drifting, laws=["annealing"], objective="mse_log", cluster="run")
    assert "lasting_errors" not in named.diagnostics
    # Negative control: independent errors are worth their number.
    plain = fit(table("annealing", noise=2e-3), laws=["annealing"], objective="mse_log")
    assert not any("add curves, not lines" in w for w in plain.warnings)


def test_every_fit_of_curves_says_what_its_intervals_are_of() -> None:
    result = fit(table("annealing", noise=1e-3), laws=["annealing"])
    assert any("another schedule can err by more" in w for w in result.warnings)


def test_an_unseen_schedule_is_predicted_and_the_wrong_law_predicts_it_worse() -> None:
    told = table("multi_power", noise=1e-4)
    right, wrong = (
        fit(told, laws=[name], hold_out="run=='cosine'", objective="mse_log")
        for name in ("multi_power", "annealing")
    )
    assert right.holdout["mape"] < 1e-3
    assert wrong.holdout["mape"] > 3 * right.holdout["mape"]


def test_a_constant_rate_alone_identifies_no_annealing() -> None:
    told = table("annealing", noise=1e-3)
    flat = {**told.columns, "lr": np.full(len(told), PEAK)}
    alone = RunTable(flat, told.meta).where(told["run"] == "constant")
    result = fit(alone, laws=["annealing"])
    assert result.status is FitStatus.UNIDENTIFIED


def test_a_sweeps_folder_is_read_as_curves(make_sweep, tmp_path: Path, capsys) -> None:
    folder, lines_of = make_sweep(3, r0="done", r1="done", r2="done")
    argv = ["fit", str(folder.root), "--law", "annealing"]
    assert run(argv) == errors.REFUSED
    taken = capsys.readouterr()
    assert "curves of 3 sizes" in taken.err
    assert "curves are of the training loss" in taken.err
    sizes = {line["plan"]["params"]["non_embedding"] for line in lines_of}
    other = [f"params!={size}" for size in sorted(sizes)[:1]]
    # Four lines a run at one rate: too few to tell four parameters apart, and it says so.
    out, figures = str(tmp_path / "fit.json"), str(tmp_path / "figures")
    kept = [*argv, "--drop", other[0], "-o", out]
    assert run(kept) in (errors.OK, errors.NOT_IDENTIFIED)
    # The figure is of the lines that were fitted, not of the runs' ends.
    assert run(["plot", out, "curve_fit", "-o", figures, "-t", "png"]) == errors.OK
    shown = (tmp_path / "figures" / "curve_fit.csv").read_text(encoding="utf-8").splitlines()
    assert len(shown) > 1 + len(lines_of)
    assert "Traceback" not in capsys.readouterr().err
    assert run([*argv, "--law", "chinchilla"]) == errors.USAGE
    assert "--law annealing: of whole curves" in capsys.readouterr().err


def test_curves_are_fitted_and_held_out_from_the_command_line(tmp_path: Path, capsys) -> None:
    path, out = tmp_path / "curves.csv", tmp_path / "fit.json"
    write_table(table("annealing", noise=1e-3), path)
    argv = ["fit", str(path), "--law", "annealing", "--hold-out", "run=='cosine'", "-o", str(out)]
    assert run(argv) == errors.OK
    shown = capsys.readouterr().out
    assert "L = L_0 + A S1^-alpha - C S2" in shown
    assert "held out  run=='cosine'" in shown
    result = read_fit(out)
    assert result.status is FitStatus.CONVERGED
    assert result.holdout["mape"] < 2e-3
    assert run(["predict", str(out), "--params", "1e9", "--tokens", "1e10"]) == errors.USAGE
    assert "is a law of t, i" in capsys.readouterr().err


def test_a_table_of_final_rows_is_no_table_of_curves(tmp_path: Path, capsys) -> None:
    told = curve_columns()
    path = tmp_path / "data.csv"
    n = len(told["step"])
    runs = np.array([f"r{i}" for i in range(n)], dtype=object)
    write_table(RunTable({**told, "run": runs, "loss": np.full(n, 3.0)}), path)
    assert run(["fit", str(path), "--law", "annealing"]) == errors.REFUSED
    assert "name a table of step lines" in capsys.readouterr().err
