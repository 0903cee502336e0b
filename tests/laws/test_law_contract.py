"""What every law must keep: derivatives, transforms, nesting. A new law is tested by existing."""

import numpy as np
import pytest
from law_examples import NAMES, TRUTHS, example, table

from scalekit import registry
from scalekit.fit.result import FitStatus
from scalekit.fit.run import fit
from scalekit.laws.base import Law

ALL = pytest.mark.parametrize("name", NAMES)


def points_inside(law: Law, count: int = 6, seed: int = 1) -> np.ndarray:
    return law.grid(count, seed)


@ALL
def test_the_gradient_is_that_of_the_prediction(name: str) -> None:
    law, inputs = example(name)
    frame = law.frame(inputs)
    phi = points_inside(law)
    jac = law.jacobian(law.state(phi, frame))
    for k in range(phi.shape[1]):
        step = np.zeros(phi.shape[1])
        step[k] = 1e-6
        up, down = (law.state(phi + s * step, frame).log_loss for s in (1, -1))
        # Central differences of step h err by h^2 and by rounding over h: 1e-9 on values near 1.
        np.testing.assert_allclose(jac[:, k], (up - down) / 2e-6, atol=2e-7, rtol=2e-6)


@ALL
def test_the_second_derivatives_are_those_of_the_gradient(name: str) -> None:
    law, inputs = example(name)
    frame = law.frame(inputs)
    phi = points_inside(law)
    state = law.state(phi, frame)
    rng = np.random.default_rng(2)
    v, w, g = (rng.uniform(0.5, 1.5, state.log_loss.shape) for _ in range(3))
    gradient, square = law.sums(state, v, w, g)
    jac = law.jacobian(state)
    np.testing.assert_allclose(gradient, np.einsum("sn,spn->sp", v, jac), rtol=1e-10, atol=1e-12)
    # L''/L = (log L)'' + J J', and (log L)'' comes from differences of the gradient.
    bend = np.empty_like(square)
    for k in range(phi.shape[1]):
        step = np.zeros(phi.shape[1])
        step[k] = 1e-5
        up, down = (law.jacobian(law.state(phi + s * step, frame)) for s in (1, -1))
        bend[:, k] = np.einsum("sn,spn->sp", g, (up - down) / 2e-5)
    expected = np.einsum("sn,spn,sqn->spq", w + g, jac, jac) + bend
    scale = np.abs(expected).max()
    np.testing.assert_allclose(square, expected, atol=1e-6 * scale)


@ALL
def test_published_and_internal_parameters_are_two_names_of_one_point(name: str) -> None:
    law, inputs = example(name)
    centre = law.frame(inputs).centre
    for phi in points_inside(law):
        theta = dict(zip(law.names, law.to_published(phi, centre), strict=True))
        np.testing.assert_allclose(law.to_internal(theta, centre), phi, atol=1e-9)


@ALL
def test_a_prediction_does_not_depend_on_the_other_runs_in_the_call(name: str) -> None:
    law, inputs = example(name)
    centre = law.frame(inputs).centre
    phi = points_inside(law)[0]
    theta = dict(zip(law.names, law.to_published(phi, centre), strict=True))
    whole = law.predict(theta, inputs)
    alone = law.predict(theta, {s: v[:1] for s, v in inputs.items()})
    assert alone[0] == pytest.approx(whole[0], rel=1e-10)


@ALL
def test_a_law_equals_the_laws_it_nests(name: str) -> None:
    law, inputs = example(name)
    for nested, values in law.nests.items():
        inner = registry.find("laws", nested)
        frame = inner.frame({s: inputs[s] for s in inner.inputs})
        phi = points_inside(inner)[0]
        theta = dict(zip(inner.names, inner.to_published(phi, frame.centre), strict=True))
        inner_loss = inner.predict(theta, {s: inputs[s] for s in inner.inputs})
        outer_loss = law.predict({**theta, **values}, inputs)
        np.testing.assert_allclose(outer_loss, inner_loss, rtol=1e-12)


@ALL
def test_a_law_says_what_it_is(name: str) -> None:
    law = registry.find("laws", name)
    assert law.name == name
    symbol = "L" if law.response == "loss" else law.response
    assert law.formula.startswith(f"{symbol} = ")
    assert "arXiv" in law.source
    for param in law.params:
        assert param.doc
        assert param.low < param.high
        assert param.low <= param.start[0] < param.start[1] <= param.high


SLOW = {"repeat_exp"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]
)
def test_a_law_is_recovered_from_its_own_noiseless_runs(name: str) -> None:
    result = fit(table(name), laws=[name], objective="mse_log")
    assert result.status is FitStatus.CONVERGED, result.message
    # Noiseless residuals are 1e-15; the flattest law here has condition 1e9. An exponent that is
    # zero has no relative error.
    assert result.theta == pytest.approx(TRUTHS[name], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]
)
def test_every_interval_holds_its_own_value(name: str) -> None:
    result = fit(table(name, noise=0.003), laws=[name])
    for parameter, value in result.theta.items():
        ends = result.intervals.get(parameter)
        assert ends is None or ends.low <= value <= ends.high, parameter
    assert result.intervals
