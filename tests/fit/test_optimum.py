"""The compute-optimal problem: published numbers, cost laws, closed form against search."""

from typing import Any

import numpy as np
import pytest
from fit_examples import BESIROGLU, CHINCHILLA, HOFFMANN, ROUNDED, isoflop_table, with_columns

from scalekit import registry
from scalekit.commands._fit_text import fit_lines
from scalekit.fit.optimum import (
    SIX_N_D,
    Fitted,
    _search,
    allocate,
    errors,
    exponents,
    fit_cost,
    frontier,
    optimum_entry,
    predict_loss,
)
from scalekit.fit.result import CostLaw, FitStatus
from scalekit.fit.run import fit


def tokens_per_param(theta, flops: float) -> float:
    log_n, log_d, _ = allocate(Fitted(CHINCHILLA, theta, SIX_N_D), theta, np.array([flops]))[:, 0]
    return float(np.exp(log_d - log_n))


@pytest.mark.parametrize(
    ("theta", "ratio"),
    [
        (BESIROGLU, 18.38),
        ({**ROUNDED, "alpha": 0.3392, "beta": 0.2849}, 59.19),
        (ROUNDED, 92.83),
    ],
)
def test_rounding_the_published_law_moves_its_optimum(theta, ratio: float) -> None:
    """CH-1a: tokens per parameter at 5.88e23 FLOPs."""
    assert tokens_per_param(theta, 5.88e23) == pytest.approx(ratio, abs=0.006)


def test_the_budget_of_chinchilla_itself_gives_the_same_trap() -> None:
    """P7, at 5.76e23 FLOPs."""
    assert tokens_per_param(HOFFMANN, 5.76e23) == pytest.approx(58.93, abs=0.006)
    assert tokens_per_param(ROUNDED, 5.76e23) == pytest.approx(92.65, abs=0.006)


def test_two_digits_of_a_power_law_lose_a_third_of_the_tokens() -> None:
    """LL-1, Llama 3: D* = A C^a at 3.8e25 with the text's (0.29, 0.53) and the figure's values."""
    assert pytest.approx(10.46e12, rel=1e-3) == 0.29 * 3.8e25**0.53
    assert pytest.approx(16.29e12, rel=1e-3) == 0.299 * 3.8e25**0.537


@pytest.mark.parametrize("cost", [SIX_N_D, CostLaw(2.3, 1.07, 0.0), CostLaw(40.0, 0.9, 0.0)])
def test_the_closed_form_is_the_minimum_that_a_search_finds(cost: CostLaw) -> None:
    fitted = Fitted(CHINCHILLA, BESIROGLU, cost)
    flops = np.geomspace(1e17, 1e25, 9)
    log_n, log_d, _ = allocate(fitted, BESIROGLU, flops)
    np.testing.assert_allclose(cost.factor * np.exp(cost.power * log_n + log_d), flops, rtol=1e-12)
    # The search solves for the slope, which rounding blurs by 1e-11 here.
    found = _search(fitted, BESIROGLU, np.log(flops / cost.factor))
    np.testing.assert_allclose(found, log_n, atol=1e-8)
    slopes = np.gradient(np.stack([log_n, log_d]), np.log(flops), axis=1)[:, 4]
    np.testing.assert_allclose(exponents(fitted, BESIROGLU, 1e20), slopes, rtol=1e-10)


NUMERIC = {
    "repeat_exp": {"R_D_star": 15.4, "R_N_star": 5.3},
    "repeat_penalty": {"P": 1e-3, "delta": 0.8, "kappa": 0.3},
}


@pytest.mark.parametrize("name", NUMERIC)
def test_a_searched_optimum_is_where_moving_along_the_budget_does_not_pay(name: str) -> None:
    """Independently: scipy's bounded minimiser on the same line."""
    from scipy.optimize import minimize_scalar

    law = registry.find("laws", name)
    theta = {**BESIROGLU, **NUMERIC[name]}
    fitted = Fitted(law, theta, SIX_N_D, given={"U": 2e10})
    for flops in (1e20, 1e22, 1e23):
        log_n, log_d, log_l = allocate(fitted, theta, np.array([flops]))[:, 0]

        def loss(x: float, flops=flops) -> float:
            N = np.exp(np.array([x]))
            return float(fitted.log_loss(theta, N, flops / 6 / N)[0])

        found: Any = minimize_scalar(
            loss, bounds=(log_n - 1, log_n + 1), method="bounded", options={"xatol": 1e-10}
        )
        # Comparing values tells places apart to the square root of rounding over the bend.
        assert log_n == pytest.approx(found.x, abs=3e-7)
        assert log_l <= found.fun + 1e-15
        assert np.exp(log_n + log_d) * 6 == pytest.approx(flops, rel=1e-12)


def test_an_optimum_at_the_end_of_the_search_is_flagged() -> None:
    law = registry.find("laws", "repeat_exp")
    healthy = {**BESIROGLU, **NUMERIC["repeat_exp"]}
    no_data = {**healthy, "B": 1e-9}
    for theta, is_end in ((healthy, False), (no_data, True)):
        fitted = Fitted(law, theta, SIX_N_D, given={"U": 2e10})
        assert optimum_entry(fitted, 1e21, 1e20, "none")["at_search_end"] is is_end
    # A closed form has no search; what it puts beyond one token a run is no better.
    closed = Fitted(CHINCHILLA, {**BESIROGLU, "B": 1e-9}, SIX_N_D)
    assert optimum_entry(closed, 1e21, 1e20, "none")["at_search_end"] is True


def test_losses_without_a_trend_are_fitted_and_their_optimum_is_called_none() -> None:
    table = isoflop_table(budgets=np.geomspace(1e18, 1e21, 4), n_sizes=7)
    losses = 3.0 + 0.02 * np.random.default_rng(18).standard_normal(28)
    result = fit(with_columns(table, loss=losses), predict=[1e22])
    assert result.status is FitStatus.BOUND_HIT
    (entry,) = result.optimum
    assert entry["at_search_end"] is True
    assert np.isfinite([entry[word] for word in ("params", "tokens", "tokens_per_param")]).all()
    # Alpha and beta near zero put N* beyond any float; no line of what is printed is as long.
    assert max(map(len, fit_lines(result))) < 300


def test_flops_counted_as_6nd_are_recognised_and_others_fitted() -> None:
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(15, 22, 30)), np.exp(rng.uniform(20, 26, 30))
    assert fit_cost(N, D, 6 * N * D * (1 + 1e-8)) == SIX_N_D
    other = fit_cost(N, D, 3.3 * N**1.04 * D)
    assert (other.factor, other.power) == pytest.approx((3.3, 1.04), rel=1e-9)
    assert other.worst_miss < 1e-9
    curved = fit_cost(N, D, 6 * (N + 1e7) * D)
    assert curved.worst_miss > 0.05


def test_a_cost_law_that_misses_is_warned_of() -> None:
    table = isoflop_table(budgets=np.geomspace(1e15, 1e20, 6), noise=0.002)
    flops = 6 * (table["params"] + 2e7) * table["tokens"]
    result = fit(with_columns(table, flops=flops))
    assert any("FLOPs follow from params and tokens only within" in w for w in result.warnings)
    assert not fit(table).warnings


def test_the_delta_method_is_the_spread_of_draws() -> None:
    result = fit(isoflop_table(noise=1e-4, seed=2), objective="mse_log", predict=[1e21])
    assert result.covariance is not None
    covariance = np.array(result.covariance)
    fitted = Fitted(CHINCHILLA, result.theta, SIX_N_D, covariance, 20.0)
    error = errors(fitted, lambda theta: allocate(fitted, theta, np.array([1e21]))[:, 0])
    values = np.array(list(result.theta.values()))
    # A linear function of log parameters is normal where parameters are: small noise makes it so.
    draws = np.random.default_rng(0).multivariate_normal(values, covariance, 4000)
    paths = [allocate(fitted, fitted.at(row), np.array([1e21]))[:, 0] for row in draws]
    # 4000 draws know a spread to 1.1 %.
    np.testing.assert_allclose(np.std(paths, axis=0), error, rtol=0.06)


def test_a_prediction_interval_contains_its_confidence_interval() -> None:
    result = fit(isoflop_table(noise=0.01), predict=[1e20, 1e23])
    near, far = result.optimum
    for entry in (near, far):
        band, wide = entry["intervals"]["loss"], entry["intervals"]["loss_prediction"]
        assert wide["low"] < band["low"] < entry["loss"] < band["high"] < wide["high"]
        product = entry["params"] * entry["tokens"]
        assert 6 * product == pytest.approx(entry["flops"], rel=1e-9)
    widths = [e["intervals"]["loss"]["high"] - e["intervals"]["loss"]["low"] for e in (near, far)]
    assert widths[1] > 2 * widths[0]
    assert far["extrapolation"] == pytest.approx(1e3)


def test_frontier_and_prediction_agree_on_the_path() -> None:
    result = fit(isoflop_table(noise=0.01))
    fitted = Fitted(CHINCHILLA, result.theta, SIX_N_D, np.array(result.covariance), 20.0, 1e-4)
    path = frontier(fitted, np.geomspace(1e18, 1e22, 5))
    loss = predict_loss(fitted, path["params"], path["tokens"])
    np.testing.assert_allclose(path["loss"], loss["loss"], rtol=1e-12)
    # Along the path the loss's error is that of a fixed point: the optimum is flat.
    np.testing.assert_allclose(path["loss_low"], loss["low"], rtol=1e-5)


@pytest.mark.parametrize(
    ("theta", "without_embedding", "total", "analytic"),
    [(BESIROGLU, 0.7805, 0.5154, 0.5126), (HOFFMANN, 0.7388, 0.4577, 0.4565)],
)
def test_counting_without_embeddings_turns_chinchilla_into_kaplan(
    theta, without_embedding: float, total: float, analytic: float
) -> None:
    """PS-1, Pearce & Song 2024, arXiv:2406.12907: the same surface, two ways of counting.

    20 model sizes with N_total = N + 47491 N^(1/3); for each compute the best of them is read off,
    and N of the best is regressed on C, once without embeddings and once with.
    """
    N = np.logspace(2.9, 9.2, 20)
    both = N + 47491.0 * N ** (1 / 3)
    for counted, low, expected in ((N, 12.95, without_embedding), (both, 14.0, total)):
        C = np.logspace(low, 20.7, 200)
        D = C[:, None] / (6 * counted)
        loss = CHINCHILLA.predict(
            theta, {"N": np.broadcast_to(both, D.shape).ravel(), "D": D.ravel()}
        )
        best = loss.reshape(D.shape).argmin(axis=1)
        slope = np.polyfit(np.log(C), np.log(counted[best]), 1)[0]
        # How the levels of compute are spaced is not published; the slope moves by half a per cent.
        assert slope == pytest.approx(expected, rel=0.02)
    fitted = Fitted(CHINCHILLA, theta, SIX_N_D)
    assert exponents(fitted, theta, 1e20)[0] == pytest.approx(analytic, abs=6e-5)


def test_an_optimum_within_the_fitted_compute_may_lie_outside_the_fitted_sizes() -> None:
    """Sizes that stop short of the optimum leave it to the law, however small the budget."""
    table = isoflop_table(noise=0.002)
    small = table.where(table["params"] < 4e8)
    flops = float(small["flops"].max())
    entry = fit(small, predict=[flops]).optimum[0]
    assert entry["extrapolation"] == pytest.approx(1.0)
    assert entry["outside"] == {
        "params": pytest.approx(entry["params"] / small["params"].max(), rel=1e-12)
    }
    inside = fit(table, predict=[float(np.median(table["flops"]))]).optimum[0]
    assert inside["outside"] == {}
