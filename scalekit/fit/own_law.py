"""A user's own law, checked before it is fitted: a wrong gradient ends in a wrong fit, silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from scalekit import registry
from scalekit.errors import InputError
from scalekit.laws.base import Array, Law

Value = TypeVar("Value")

_POINTS = 8
_ROWS = 200
_STEP = 1e-5
_TOLERANCE = 1e-3
"""Central differences of this step err by 1e-9; a wrong sign or a forgotten term errs by 1e-1."""

_ROUND_TRIP = 1e-6


def find_law(name: str) -> Law:
    """Return a member of the family, or the law of a user's file.

    Raises:
        UsageError: No such member.
        InputError: The file cannot be read, or offers no law.
    """
    law = registry.find("laws", name)
    if is_own(name):
        _check_is_law(law, name)
    return law


def is_own(name: str) -> bool:
    """Whether a law is named by a user's file."""
    return name.endswith(".py")


def _check_is_law(law: Any, path: str) -> None:
    if not isinstance(law, Law):
        raise InputError(
            f"{path}: LAW is a {type(law).__name__}, not a law; make it an instance of a class "
            "derived from scalekit.laws.base.Law"
        )
    repeated = sorted({name for name in law.names if law.names.count(name) > 1})
    if repeated or not law.names:
        found = f"names {repeated[0]!r} twice" if repeated else "has no parameters"
        raise InputError(f"{path}: the law {found}; name every parameter once")


def check_gradient(law: Law, inputs: Mapping[str, Array], path: str) -> None:
    """Compare a law's gradient with central differences of its prediction, on the user's runs.

    Raises:
        InputError: The law fails on these runs, predicts nothing finite, its gradient is not that
            of its prediction, or its two kinds of parameters do not turn into each other.
    """
    with np.errstate(all="ignore"):
        some = _some(law, inputs)
        frame = _run(path, "laying out the runs", lambda: law.frame(some))
        phi = _run(path, "drawing starts", lambda: np.clip(law.grid(_POINTS, 0), *law.box))
        state = _run(path, "predicting", lambda: law.state(phi, frame))
        jac = _run(path, "differentiating", lambda: law.jacobian(state))
        n = len(next(iter(some.values())))
        _check_shape(path, "state(...).log_loss", state.log_loss, (len(phi), n))
        _check_shape(path, "jacobian(...)", jac, (*phi.shape, n))
        finite = np.isfinite(state.log_loss).all(axis=1)
        if not finite.any():
            raise InputError(
                f"{path}: predicts no finite loss at any of {len(phi)} points of its start ranges; "
                "mend the formula, or the parameters' start"
            )
        for k, name in enumerate(law.names):
            step = np.zeros(phi.shape[1])
            step[k] = _STEP
            up, down = (law.state(phi + side * step, frame).log_loss for side in (1, -1))
            _check_slope(path, name, jac[finite, k], ((up - down) / (2 * _STEP))[finite])
        _run(path, "turning parameters", lambda: _check_round_trip(law, phi, frame.centre, path))


def _some(law: Law, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Take the law's inputs at runs from the first to the last."""
    n = len(next(iter(inputs.values())))
    rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).astype(int))
    return {symbol: inputs[symbol][rows] for symbol in law.inputs}


def _run(path: str, doing: str, step: Callable[[], Value]) -> Value:
    """Run a step of the user's code; whatever it raises is an error of the file."""
    try:
        return step()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: {type(error).__name__} while {doing}, {error}; mend the file"
        ) from error


def _check_shape(path: str, what: str, found: Any, wanted: tuple[int, ...]) -> None:
    if np.shape(found) != wanted:
        raise InputError(f"{path}: {what} has shape {np.shape(found)}, not {wanted}; mend the file")


def _check_slope(path: str, name: str, told: Array, measured: Array) -> None:
    size = np.abs(measured).max(axis=1) + 1e-6
    wrong = np.abs(told - measured).max(axis=1) / size
    worst = int(np.argmax(np.nan_to_num(wrong, nan=np.inf)))
    if not wrong[worst] <= _TOLERANCE:
        run = int(np.argmax(np.nan_to_num(np.abs(told - measured)[worst], nan=np.inf)))
        raise InputError(
            f"{path}: the jacobian says that log loss moves by {told[worst, run]:.6g} with "
            f"{name!r}, central differences say {measured[worst, run]:.6g}; mend it, remembering "
            "that it is by the internal coordinates"
        )


def _check_round_trip(law: Law, phi: Array, centre: Mapping[str, float], path: str) -> None:
    for row in phi:
        theta = dict(zip(law.names, map(float, law.to_published(row, centre)), strict=True))
        miss = np.abs(law.to_internal(theta, centre) - row)
        if not miss.max() <= _ROUND_TRIP * max(1.0, float(np.abs(row).max())):
            name = law.names[int(np.argmax(miss))]
            raise InputError(
                f"{path}: to_internal does not undo to_published, {name!r} misses by "
                f"{miss.max():.3g}; mend one of them"
            )
