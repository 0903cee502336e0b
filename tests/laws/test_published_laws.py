"""Numbers that the published laws must give, from their formulas alone."""

import numpy as np
import pytest

from scalekit import registry
from scalekit.fit.optimum import SIX_N_D, Fitted, allocate
from scalekit.fit.run import fit
from scalekit.fit.simulate import simulate

KAPLAN = registry.find("laws", "kaplan")
CHINCHILLA = registry.find("laws", "chinchilla")
TIED = registry.find("laws", "chinchilla_tied")
COUPLED = registry.find("laws", "coupled")
POWER = registry.find("laws", "power")
REPEAT = registry.find("laws", "repeat_exp")

# Kaplan et al. 2020, arXiv:2001.08361: joint fit of N (non-embedding) and D.
JOINT = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
# Muennighoff et al. 2023, arXiv:2305.16264: the constants in the authors' notebook.
LR_POWER, BATCH_POWER, LR_COMPUTE, BATCH_COMPUTE = (
    registry.find("laws", name)
    for name in ("lr_power", "batch_power", "lr_compute", "batch_compute")
)
C4 = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D_star": 15.387756,
    "R_N_star": 5.309743,
}


def one(**inputs: float) -> dict[str, np.ndarray]:
    return {symbol: np.array([value]) for symbol, value in inputs.items()}


def test_kaplans_single_laws_give_the_printed_losses() -> None:
    """KAP-1: evaluated from the printed constants."""
    size = {"E": 0.0, "A": 8.8e13**0.076, "alpha": 0.076}
    data = {"E": 0.0, "A": 5.4e13**0.095, "alpha": 0.095}
    assert POWER.predict(size, one(C=1.5e9))[0] == pytest.approx(2.3036, abs=5e-5)
    assert POWER.predict(data, one(C=22e9))[0] == pytest.approx(2.0992, abs=5e-5)
    joint = KAPLAN.predict(JOINT, one(N=1.5e9, D=22e9))[0]
    assert joint == pytest.approx(2.3125, abs=5e-5)


def test_the_coupled_law_fitted_to_kaplans_gives_its_power_back() -> None:
    """KAP-2: with E = 0 and beta = 1 the coupled law is Kaplan's, k is alpha_D."""
    rng = np.random.default_rng(0)
    inputs = {"N": np.exp(rng.uniform(14, 23, 60)), "D": np.exp(rng.uniform(18, 27, 60))}
    table = simulate(KAPLAN, JOINT, inputs)
    result = fit(table, laws=["coupled"], fix={"E": 0.0, "beta": 1.0}, objective="mse_log")
    assert result.theta["k"] == pytest.approx(JOINT["alpha_D"], rel=1e-6)
    assert result.theta["alpha"] == pytest.approx(0.076 / 0.103, rel=1e-6)
    A = JOINT["N_c"] ** (0.076 / 0.103)
    assert result.theta["A"] == pytest.approx(A, rel=1e-4)


def test_gadres_coordinates_are_the_tied_chinchilla_law() -> None:
    """GA-2: (a M^eta + b M^-eta) C^-eta is A N^-2eta + B D^-2eta with A = a 6^-eta."""
    a, b, eta, E = 141.3, 189.5, 0.1212, 1.508
    rng = np.random.default_rng(1)
    N, D = np.exp(rng.uniform(15, 23, 20)), np.exp(rng.uniform(19, 27, 20))
    M, C = D / N, 6 * N * D
    gadre = E + (a * M**eta + b * M**-eta) * C**-eta
    theta = {"E": E, "A": a * 6**-eta, "B": b * 6**-eta, "alpha": 2 * eta}
    np.testing.assert_allclose(TIED.predict(theta, {"N": N, "D": D}), gadre, rtol=1e-12)


def test_a_coupled_law_with_k_one_is_chinchillas_and_so_is_its_optimum() -> None:
    """SK-4: k does not move the optimum."""
    theta = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}
    rng = np.random.default_rng(2)
    inputs = {"N": np.exp(rng.uniform(15, 23, 20)), "D": np.exp(rng.uniform(19, 27, 20))}
    np.testing.assert_allclose(
        COUPLED.predict({**theta, "k": 1.0}, inputs), CHINCHILLA.predict(theta, inputs), rtol=1e-12
    )
    flops = np.geomspace(1e18, 1e24, 5)
    expected = allocate(Fitted(CHINCHILLA, theta, SIX_N_D), theta, flops)[:2]
    for k in (0.4, 1.0, 1.7):
        found = allocate(Fitted(COUPLED, {**theta, "k": k}, SIX_N_D), {**theta, "k": k}, flops)
        np.testing.assert_allclose(found[:2], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("N", "D", "loss"),
    [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)],
)
def test_the_data_constrained_law_gives_its_authors_numbers(N, D, loss: float) -> None:
    """DC-1, with 25e9 unique tokens."""
    assert REPEAT.predict(C4, one(N=N, D=D, U=25e9))[0] == pytest.approx(loss, rel=1e-12)


def test_repeated_tokens_are_worth_what_the_paper_says() -> None:
    """DC-1: effective epochs of 1, 2, 4, 8, 16, 40 and 100, for a model small enough to be full."""
    epochs = np.array([1, 2, 4, 8, 16, 40, 100.0])
    U, N = 25e9, 1e7
    loss = REPEAT.predict(C4, {"N": np.full(7, N), "D": U * epochs, "U": np.full(7, U)})
    data = loss - C4["E"] - C4["A"] * N ** -C4["alpha"]
    worth = (data / C4["B"]) ** (-1 / C4["beta"]) / U
    assert worth == pytest.approx([1, 1.968, 3.726, 6.624, 10.58, 15.17, 16.36], abs=5e-3)


def test_the_optimum_with_scarce_data_is_the_papers() -> None:
    """DC-1: 1e22 FLOPs and 25e9 unique tokens; the printed optimum comes from a grid."""
    fitted = Fitted(REPEAT, C4, SIX_N_D, given={"U": 25e9})
    log_n, log_d, log_l = allocate(fitted, C4, np.array([1e22]))[:, 0]
    # A grid's best is within its spacing, and no better than a minimum.
    assert np.exp(log_d) == pytest.approx(2.3734e11, rel=1e-3)
    assert np.exp(log_n) == pytest.approx(7.0224e9, rel=1e-3)
    printed = fitted.log_loss(C4, np.array([7.0224e9]), np.array([1e22 / 6 / 7.0224e9]))[0]
    assert log_l <= printed <= log_l + 1e-7


@pytest.mark.parametrize(
    ("C", "lr", "batch"), [(8.46e22, 4.246e-4, 9.22e6), (9.95e23, 3.12e-4, 2.07e7)]
)
def test_deepseeks_rate_and_batch_are_those_of_its_own_runs(C, lr, batch: float) -> None:
    """DS-1, arXiv:2401.02954: 7B and 67B on 2e12 tokens; they trained at 4.2e-4 and 9.4M, and at
    3.2e-4 and 18.9M."""
    theta = {"scale": 0.3118, "exponent_C": -0.1250}
    assert LR_COMPUTE.predict(theta, one(C=C))[0] == pytest.approx(lr, rel=2e-3)
    theta = {"scale": 0.2920, "exponent_C": 0.3271}
    assert BATCH_COMPUTE.predict(theta, one(C=C))[0] == pytest.approx(batch, rel=3e-3)


@pytest.mark.parametrize(
    ("N", "D", "lr", "batch"), [(1e9, 1e11, 1.632e-3, 1.108e6), (7e9, 1.4e12, 9.17e-4, 5.0e6)]
)
def test_step_laws_rate_and_batch_are_the_printed_ones(N, D, lr, batch: float) -> None:
    """ST-1, arXiv:2503.04715: 1.79 N^-.713 D^.307 and .58 D^.571."""
    theta = {"scale": 1.79, "exponent_N": -0.713, "exponent_D": 0.307}
    assert LR_POWER.predict(theta, one(N=N, D=D))[0] == pytest.approx(lr, rel=2e-3)
    theta = {"scale": 0.58, "exponent_N": 0.0, "exponent_D": 0.571}
    # Constants of two digits.
    assert BATCH_POWER.predict(theta, one(N=N, D=D))[0] == pytest.approx(batch, rel=5e-3)


def test_a_rate_that_follows_compute_is_one_that_follows_params_and_tokens_alike() -> None:
    """DeepSeek's form is Step Law's with equal exponents."""
    N, D = 3e9, 2e11
    by_compute = LR_COMPUTE.predict({"scale": 0.3118, "exponent_C": -0.125}, one(C=6 * N * D))[0]
    theta = {"scale": 0.3118 * 6**-0.125, "exponent_N": -0.125, "exponent_D": -0.125}
    assert LR_POWER.predict(theta, one(N=N, D=D))[0] == pytest.approx(by_compute, rel=1e-12)


def test_the_broken_power_law_is_the_printed_one() -> None:
    """BN-1, Caballero et al. 2022, arXiv:2210.14891: one break."""
    theta = {"a": 0.5, "b": 2.0, "c_0": 0.1, "c_1": 0.4, "d_1": 1e4, "f_1": 0.3}
    found = registry.find("laws", "bnsl").predict(theta, {"C": np.array([1, 1e2, 1e4, 1e6, 1e8])})
    assert found == pytest.approx([2.5, 1.761915, 1.232667, 0.579621, 0.507962], abs=6e-7)


def test_a_speed_up_with_a_pinned_asymptote_is_one_at_every_budget() -> None:
    """SP-1: ((L_w - L_inf) / (L_b - L_inf))^(1 / alpha) with L_inf 1.6 and losses 2.50 and 2.45.

    The printed 1.7711 is that of alpha = .1; at the .0941 beside it the formula gives 1.8357.
    """
    for alpha, factor in ((0.1, 1.7711), (0.0941, 1.8357)):
        assert (0.9 / 0.85) ** (1 / alpha) == pytest.approx(factor, abs=6e-5)
        for C in (1e18, 1e21, 1e24):
            theta = {"E": 1.6, "A": 0.9 * C**alpha, "alpha": alpha}
            assert POWER.predict(theta, one(C=C))[0] == pytest.approx(2.50, rel=1e-12)
            # Of five printed digits, a loss keeps a tenth of .85 of their share.
            assert POWER.predict(theta, one(C=factor * C))[0] == pytest.approx(2.45, abs=3e-6)


def test_gadres_link_is_the_exponential_of_errors() -> None:
    """GA-1, RedPajama as printed: Err = .857 - 2.21 e^(-.715 L)."""
    L = np.linspace(2.0, 4.0, 5)
    theta = {"floor": 1 - 0.857, "k": 2.21, "gamma": 0.715}
    accuracy = registry.find("laws", "link_exp").predict(theta, {"L": L})
    np.testing.assert_allclose(1 - accuracy, 0.857 - 2.21 * np.exp(-0.715 * L), rtol=1e-12)
