"""Models trained once and served for their life: published numbers, conventions, limits."""

import numpy as np
import pytest
from decision_examples import CHINCHILLA, MUENNIGHOFF, SARDANA, TRUTH, fit_of, noisy_fit

from scalekit.analysis.allocation import optima
from scalekit.analysis.ask import ask
from scalekit.analysis.serving import at_budget, at_loss, at_run, at_size, served
from scalekit.errors import UsageError
from scalekit.fit.result import CostLaw


@pytest.fixture(scope="module")
def sardana():
    return ask(fit_of("chinchilla", SARDANA))


def optimal_tokens(theta, params: float) -> float:
    """The tokens at which a size is compute-optimal."""
    a, b = theta["alpha"], theta["beta"]
    return ((b * theta["B"]) / (a * theta["A"]) * params**a) ** (1 / b)


def test_thirteen_billion_served_two_trillion_tokens_should_be_seven(sardana) -> None:
    """SA-1: "7B on 2.1x the data, 1.7e22 FLOPs, 17 %"."""
    found = served(sardana, at_size(sardana.one, 13e9), 2e12)
    before = found["reference"]
    assert before["params"] == 13e9
    assert before["tokens"] == pytest.approx(optimal_tokens(SARDANA, 13e9), rel=1e-9)
    assert before["tokens"] == pytest.approx(5.76e11, rel=1e-3)
    assert found["params"] == pytest.approx(6.97e9, rel=1e-3)
    assert found["tokens"] == pytest.approx(1.248e12, rel=1e-3)
    assert found["tokens"] / before["tokens"] == pytest.approx(2.16, abs=0.01)
    assert found["saved"] == pytest.approx(0.1745, abs=1e-4)
    assert before["flops"] - found["flops"] == pytest.approx(1.692e22, rel=1e-3)
    sizes = {"N": np.array([found["params"]]), "D": np.array([found["tokens"]])}
    reached = CHINCHILLA.predict(SARDANA, sizes)[0]
    sizes = {"N": np.array([13e9]), "D": np.array([before["tokens"]])}
    assert reached == pytest.approx(CHINCHILLA.predict(SARDANA, sizes)[0], rel=1e-12)
    assert found["training_flops"] + found["inference_flops"] == pytest.approx(found["flops"])
    assert found["inference_flops"] == pytest.approx(2 * found["params"] * 2e12)


def test_twenty_tokens_a_parameter_as_reference_more_than_double_the_savings(sardana) -> None:
    """SA-1's caveat: 4.2B and 43 %."""
    found = served(sardana, at_run(13e9, 20 * 13e9), 2e12)
    assert found["params"] == pytest.approx(4.2e9, rel=0.02)
    assert found["saved"] == pytest.approx(0.43, abs=0.005)
    assert found["reference"]["convention"] == "on the tokens given"


@pytest.mark.parametrize("cost", [CostLaw(6.0, 1.0, 0.0), CostLaw(7.0, 1.03, 0.0)])
def test_serving_next_to_nothing_is_the_compute_optimum(cost: CostLaw) -> None:
    one = ask(fit_of("chinchilla", TRUTH, cost))
    best = optima(one, [1e22])[0]
    for reference in (at_budget(one.one, 1e22), at_loss(one.one, best["loss"])):
        found = served(one, reference, 1.0)
        assert found["params"] == pytest.approx(best["params"], rel=1e-7)
        assert found["tokens"] == pytest.approx(best["tokens"], rel=1e-7)
        assert found["saved"] == pytest.approx(0, abs=1e-10)
        assert found["reference"]["tokens"] == pytest.approx(best["tokens"], rel=1e-7)


def test_the_best_model_is_where_neither_size_nor_data_pays(sardana) -> None:
    """At fixed loss the total's derivative vanishes: a Lagrange condition, checked by hand.

    For 6 N D + 2 N T under A N^-a + B D^-b = const:
    (6 D + 2 T) / (6 N) = (a A N^-(a+1)) / (b B D^-(b+1)).
    """
    for tokens in (1e11, 2e12, 5e13):
        found = served(sardana, at_size(sardana.one, 3e10), tokens)
        N, D, t = found["params"], found["tokens"], SARDANA
        left = (6 * D + 2 * tokens) / (6 * N)
        right = (t["alpha"] * t["A"] * N ** -(t["alpha"] + 1)) / (
            t["beta"] * t["B"] * D ** -(t["beta"] + 1)
        )
        # Towards the smallest size that reaches the loss at all, tokens rise ever more steeply and
        # the five-point rule errs more: 2e-8 at the last.
        assert left == pytest.approx(right, rel=1e-7)


def test_more_serving_makes_the_model_smaller_and_the_savings_larger(sardana) -> None:
    found = [served(sardana, at_size(sardana.one, 3e10), t) for t in (1e11, 1e12, 1e13)]
    params = [entry["params"] for entry in found]
    assert params == sorted(params, reverse=True)
    saved = [entry["saved"] for entry in found]
    assert saved == sorted(saved)
    assert 0 < saved[0] < saved[-1] < 1


def test_the_true_best_model_lies_inside_its_intervals() -> None:
    truth = ask(fit_of("chinchilla", TRUTH))
    noisy = ask(noisy_fit())
    right = served(truth, at_size(truth.one, 13e9), 2e12)
    found = served(noisy, at_size(noisy.one, 13e9), 2e12)
    for word in ("params", "tokens", "saved", "loss"):
        ends = found["intervals"][word]
        assert ends["low"] < found[word] < ends["high"]
        # One fit of thirty runs; twice the half-width is 3.4 standard errors.
        assert abs(right[word] - found[word]) < ends["high"] - ends["low"]


def test_a_law_of_repeated_data_can_be_served_too() -> None:
    one = ask(fit_of("repeat_exp", MUENNIGHOFF), {"U": 1e11})
    found = served(one, at_budget(one.one, 1e22), 2e12)
    assert found["params"] < found["reference"]["params"]
    assert 0 < found["saved"] < 0.5
    assert found["epochs"] == pytest.approx(found["tokens"] / 1e11)


def test_a_size_that_hardly_matters_runs_out_of_the_search_and_is_refused() -> None:
    flat = ask(fit_of("chinchilla", {**SARDANA, "A": 0.5, "alpha": 0.02}))
    with pytest.raises(UsageError, match="more than 10000 times off the reference"):
        served(flat, at_run(1e10, 1e10), 1e30)
