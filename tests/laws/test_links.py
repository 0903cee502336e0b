"""From loss to accuracy: links, chance and ceiling, and two steps in one interval."""

from pathlib import Path

import numpy as np
import pytest
from law_examples import TRUTHS, table

from scalekit import errors, registry
from scalekit.analysis.respond import respond, respond_through
from scalekit.cli import run
from scalekit.errors import UsageError
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit, write_fit
from scalekit.results.table import RunTable, write_table

CHINCHILLA, LOGISTIC, EXPONENTIAL = (
    registry.find("laws", name) for name in ("chinchilla", "link_logistic", "link_exp")
)


def test_chance_can_be_held_as_the_floor() -> None:
    result = fit(table("link_logistic", noise=0.01), laws=["link_logistic"], fix={"floor": 0.25})
    assert result.status is FitStatus.CONVERGED
    assert result.theta["floor"] == pytest.approx(0.25, rel=1e-12)
    assert "floor" not in result.intervals
    assert result.intervals["ceiling"].low < 0.9 < result.intervals["ceiling"].high
    with pytest.raises(UsageError, match="can only hold floor, ceiling, slope"):
        fit(table("link_logistic"), laws=["link_logistic"], fix={"middle": 3.0})


def test_a_ceiling_that_no_run_comes_near_is_left_open_upwards() -> None:
    loss = np.linspace(2.6, 5.0, 40)
    truth = {"floor": 0.25, "ceiling": 1.0, "slope": 2.0, "middle": 1.5}
    accuracy = LOGISTIC.predict(truth, {"L": loss})
    ends = []
    for seed in (0, 3):
        noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(40))
        told = RunTable({"loss": loss, "accuracy": accuracy * noise})
        ends.append(fit(told, laws=["link_logistic"]))
    inside, at_bound = ends
    # A profile ends where accuracies do; the normal interval of these runs would end at 1.3.
    assert inside.intervals["ceiling"].method == "profile"
    assert inside.intervals["ceiling"].low < inside.theta["ceiling"] < 0.7
    assert inside.intervals["ceiling"].high == pytest.approx(1.0)
    assert at_bound.status is FitStatus.BOUND_HIT
    assert at_bound.theta["ceiling"] == pytest.approx(1.0)


def test_the_wrong_link_predicts_better_models_worse() -> None:
    told = table("link_logistic", noise=0.002, n=80)
    right, wrong = (
        fit(told, laws=[name], hold_out="loss<2.2") for name in ("link_logistic", "link_exp")
    )
    assert wrong.holdout["mape"] > 3 * right.holdout["mape"]


SMALL = {"N": np.geomspace(1e8, 2e9, 24), "D": np.tile([5e9, 2e10, 8e10], 8)}
LARGE = {"N": 7e9, "D": 1e12}


def ladder(seed: int, noise: float = 0.003) -> RunTable:
    """Runs with their loss and accuracy, both noisy, from the same truth."""
    rng = np.random.default_rng(seed)
    loss = CHINCHILLA.predict(TRUTHS["chinchilla"], SMALL)
    loss = loss * np.exp(noise * rng.standard_normal(24))
    accuracy = EXPONENTIAL.predict(TRUTHS["link_exp"], {"L": loss})
    accuracy = accuracy * np.exp(2 * noise * rng.standard_normal(24))
    columns = {"params": SMALL["N"], "tokens": SMALL["D"], "loss": loss, "accuracy": accuracy}
    return RunTable(columns, {"path": "ladder.csv"})


def true_accuracy() -> float:
    inputs = {symbol: np.array([value]) for symbol, value in LARGE.items()}
    loss = CHINCHILLA.predict(TRUTHS["chinchilla"], inputs)
    return float(EXPONENTIAL.predict(TRUTHS["link_exp"], {"L": loss})[0])


def test_two_steps_predict_an_accuracy_with_both_steps_errors() -> None:
    told = ladder(0)
    steps = fit(told, objective="mse_log"), fit(told, laws=["link_exp"], objective="mse_log")
    both = respond_through(steps[1], steps[0], LARGE)
    alone = respond(steps[1], {"L": both["loss"]})
    assert both["accuracy"] == pytest.approx(alone["accuracy"], rel=1e-12)
    assert both["loss"] == pytest.approx(
        CHINCHILLA.predict(steps[0].theta, {s: np.array([v]) for s, v in LARGE.items()})[0]
    )

    def width(entry, name: str) -> float:
        ends = entry["intervals"][name]
        return ends["high"] - ends["low"]

    for name in ("accuracy", "accuracy_prediction"):
        assert width(both, name) > 1.05 * width(alone, name)
    assert width(both, "accuracy_prediction") > width(both, "accuracy")


@pytest.mark.slow
def test_the_two_step_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Nominal 90 %: of 60 repetitions at least 48 (a binomial's 2 % point) and, since the law is
    right and the noise even, not all for sure."""
    inside = 0
    for seed in range(60):
        told = ladder(seed)
        steps = fit(told, objective="mse_log"), fit(told, laws=["link_exp"], objective="mse_log")
        ends = respond_through(steps[1], steps[0], LARGE)["intervals"]["accuracy"]
        inside += ends["low"] < true_accuracy() < ends["high"]
    assert inside >= 48


def test_two_steps_that_do_not_fit_together_are_refused() -> None:
    told = ladder(1)
    loss, link = fit(told), fit(told, laws=["link_exp"])
    with pytest.raises(UsageError, match="chinchilla takes no loss; give a link"):
        respond_through(loss, loss, LARGE)
    with pytest.raises(UsageError, match="predicts no loss of a run"):
        respond_through(link, link, LARGE)
    with pytest.raises(UsageError, match="tokens not given"):
        respond_through(link, loss, {"N": 7e9})


def test_an_accuracy_is_predicted_from_the_command_line(tmp_path: Path, capsys) -> None:
    told = ladder(2)
    path, first, second = (tmp_path / name for name in ("runs.csv", "loss.json", "link.json"))
    write_table(told, path)
    write_fit(fit(told), first)
    argv = ["fit", str(path), "--law", "link_exp", "-o", str(second)]
    assert run(argv) == errors.OK
    capsys.readouterr()
    argv = ["predict", str(second), "--through", str(first), "--params", "7e9", "--tokens", "1e12"]
    assert run([*argv, "--format", "csv"]) == errors.OK
    head, row = (line.split(",") for line in capsys.readouterr().out.splitlines())
    found = dict(zip(head, row, strict=True))
    assert found["through"] == "chinchilla"
    ends = (float(found[f"accuracy_prediction_{side}"]) for side in ("low", "high"))
    low, high = ends
    assert low < true_accuracy() < high
    assert run(["predict", str(second), "--loss", "2.3"]) == errors.OK
    assert "accuracy at loss 2.3: 0." in capsys.readouterr().out
    for argv, says in (
        (["predict", str(second)], "nothing is asked"),
        (
            ["predict", str(second), "--params", "7e9", "--tokens", "1e12"],
            "is a law of L; give --loss",
        ),
    ):
        assert run(argv) == errors.USAGE
        assert says in capsys.readouterr().err
