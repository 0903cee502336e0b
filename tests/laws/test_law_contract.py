"""What every law must keep: derivatives, transforms, nesting. A new law is tested by existing."""

import numpy as np
import pytest

from scalekit import registry
from scalekit.laws.base import Law

LAWS = [registry.find("laws", name) for name in registry.names("laws")]
ALL = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


def some_inputs(law: Law, n: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ranges = {"N": (1e7, 1e10), "D": (1e9, 1e12), "C": (1e17, 1e22), "U": (1e9, 1e11)}
    found = {}
    for symbol in law.inputs:
        low, high = ranges.get(symbol, (1e1, 1e3))
        found[symbol] = np.exp(rng.uniform(np.log(low), np.log(high), n))
    return found


def points_inside(law: Law, count: int = 6, seed: int = 1) -> np.ndarray:
    return law.grid(count, seed)


@ALL
def test_the_gradient_is_that_of_the_prediction(law: Law) -> None:
    frame = law.frame(some_inputs(law))
    phi = points_inside(law)
    jac = law.jacobian(law.state(phi, frame))
    for k in range(phi.shape[1]):
        step = np.zeros(phi.shape[1])
        step[k] = 1e-6
        up, down = (law.state(phi + s * step, frame).log_loss for s in (1, -1))
        # Central differences of step h err by h^2 and by rounding over h: 1e-9 on values near 1.
        np.testing.assert_allclose(jac[:, k], (up - down) / 2e-6, atol=2e-7, rtol=2e-6)


@ALL
def test_the_second_derivatives_are_those_of_the_gradient(law: Law) -> None:
    frame = law.frame(some_inputs(law))
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
def test_published_and_internal_parameters_are_two_names_of_one_point(law: Law) -> None:
    centre = law.frame(some_inputs(law)).centre
    for phi in points_inside(law):
        theta = dict(zip(law.names, law.to_published(phi, centre), strict=True))
        np.testing.assert_allclose(law.to_internal(theta, centre), phi, atol=1e-9)


@ALL
def test_a_prediction_does_not_depend_on_the_other_runs_in_the_call(law: Law) -> None:
    inputs = some_inputs(law)
    centre = law.frame(inputs).centre
    phi = points_inside(law)[0]
    theta = dict(zip(law.names, law.to_published(phi, centre), strict=True))
    whole = law.predict(theta, inputs)
    alone = law.predict(theta, {s: v[:1] for s, v in inputs.items()})
    assert alone[0] == pytest.approx(whole[0], rel=1e-10)


@ALL
def test_a_law_equals_the_laws_it_nests(law: Law) -> None:
    for name, values in law.nests.items():
        inner = registry.find("laws", name)
        inputs = some_inputs(law)
        frame = inner.frame({s: inputs[s] for s in inner.inputs})
        phi = points_inside(inner)[0]
        theta = dict(zip(inner.names, inner.to_published(phi, frame.centre), strict=True))
        inner_loss = inner.predict(theta, {s: inputs[s] for s in inner.inputs})
        outer_loss = law.predict({**theta, **values}, inputs)
        np.testing.assert_allclose(outer_loss, inner_loss, rtol=1e-12)


@ALL
def test_a_law_says_what_it_is(law: Law) -> None:
    assert "L =" in law.formula
    assert "arXiv" in law.source
    for param in law.params:
        assert param.doc
        assert param.low < param.high
        assert param.low <= param.start[0] < param.start[1] <= param.high
