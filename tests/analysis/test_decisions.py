"""Published decisions: serving a model for its life, the cost of a wrong size."""

import numpy as np
import pytest

from scalekit import registry
from scalekit.analysis.decisions import compute_for_loss, deadweight, serve
from scalekit.errors import InputError
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate
from scalekit.fit.result import CostLaw
from scalekit.fit.simulate import PUBLISHED

CHINCHILLA = registry.find("laws", "chinchilla")
TRUTH = PUBLISHED["chinchilla"]
# Sardana & Frankle 2023, arXiv:2401.00448: their coefficients of Chinchilla's law.
SARDANA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}


def optimal_tokens(fitted: Fitted, params: float) -> float:
    """The tokens at which a size is compute-optimal."""
    t = fitted.theta
    a, b = t["alpha"], t["beta"]
    return ((b * t["B"]) / (a * t["A"]) * params**a) ** (1 / b)


def test_thirteen_billion_served_two_trillion_tokens_should_be_seven() -> None:
    """SA-1: "7B on 2.1x the data, 1.7e22 FLOPs, 17 %"."""
    fitted = Fitted(CHINCHILLA, SARDANA, SIX_N_D)
    tokens = optimal_tokens(fitted, 13e9)
    assert tokens == pytest.approx(5.76e11, rel=1e-3)
    found = serve(fitted, 13e9, tokens, 2e12)
    assert found.params == pytest.approx(6.97e9, rel=1e-3)
    assert found.tokens == pytest.approx(1.248e12, rel=1e-3)
    assert found.tokens / tokens == pytest.approx(2.16, abs=0.01)
    assert found.saved == pytest.approx(0.1745, abs=1e-4)
    saved = found.flops / (1 - found.saved) - found.flops
    assert saved == pytest.approx(1.692e22, rel=1e-3)
    loss = CHINCHILLA.predict(
        SARDANA, {"N": np.array([found.params]), "D": np.array([found.tokens])}
    )
    assert loss[0] == pytest.approx(found.loss, rel=1e-12)


def test_the_reference_must_be_said() -> None:
    fitted = Fitted(CHINCHILLA, SARDANA, SIX_N_D)
    found = serve(fitted, 13e9, 20 * 13e9, 2e12)
    assert found.params == pytest.approx(4.2e9, rel=0.02)
    assert found.saved == pytest.approx(0.43, abs=0.005)


def test_serving_nothing_is_the_compute_optimum() -> None:
    fitted = Fitted(CHINCHILLA, SARDANA, CostLaw(7.0, 1.03, 0.0))
    log_n, log_d, _ = allocate(fitted, SARDANA, np.array([1e22]))[:, 0]
    found = serve(fitted, np.exp(log_n), np.exp(log_d), 0.0)
    # A minimum is flat to the square root of rounding.
    assert found.params == pytest.approx(np.exp(log_n), rel=1e-5)
    assert found.saved == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(
    ("ratio", "waste"), [(4 / 3, 0.029), (0.75, 0.029), (2, 0.156), (0.5, 0.156), (4, 0.486)]
)
def test_a_wrong_size_wastes_the_known_share(ratio: float, waste: float) -> None:
    """At 1e21 FLOPs; printed to three digits, and alike above and below to two."""
    fitted = Fitted(CHINCHILLA, TRUTH, SIX_N_D)
    assert deadweight(fitted, 1e21, ratio) == pytest.approx(waste, abs=0.004)


def test_the_optimal_size_wastes_nothing_and_no_compute_beats_the_floor() -> None:
    fitted = Fitted(CHINCHILLA, TRUTH, SIX_N_D)
    assert deadweight(fitted, 1e21, 1.0) == pytest.approx(0, abs=1e-12)
    loss = float(np.exp(allocate(fitted, TRUTH, np.array([1e21]))[2, 0]))
    assert compute_for_loss(fitted, loss) == pytest.approx(1e21, rel=1e-9)
    with pytest.raises(InputError, match="no compute reaches it"):
        compute_for_loss(fitted, 1.8)
