"""A fit ready to be asked: its law with numbers, what is held, and how intervals are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalekit.errors import FitError, InputError, UsageError, did_you_mean
from scalekit.fit.bootstrap import METHOD as DRAWS_METHOD
from scalekit.fit.bootstrap import bca
from scalekit.fit.intervals import LEVEL, t_quantile
from scalekit.fit.optimum import SIX_N_D, Fitted, beyond, can_allocate, errors, slopes
from scalekit.fit.prepare import law_of
from scalekit.fit.result import FitResult, FitStatus
from scalekit.fit.shape import check_theta
from scalekit.fit.uncertainty import METHOD
from scalekit.laws.base import COLUMN_OF, Array, Law

DELTA = "delta"
BOOTSTRAP = "bootstrap"
BY = (DELTA, BOOTSTRAP)
"""Ways to an interval: the covariance of theta by the delta method, or the fit's own refits."""

NOT_ACCELERATED = "bootstrap-bc"
"""What intervals from refits are called where the fit holds no influence of each run."""

_FEWEST_DRAWS = 50
_UNBOUNDED = 700.0
"""Logarithm from which a number counts as infinite: e^709 is where floats end."""

Theta = Mapping[str, float]
Function = Callable[[Theta], Array]


@dataclass(frozen=True)
class Ask:
    """A law with numbers, and all that an answer from it needs.

    Attributes:
        fit: What was fitted.
        one: The law with its numbers and everything that is held.
        method: How intervals are made, as an interval states it.
        draws: Refits of theta (n_draws, p) where intervals come from them, else None.
        ranges: Smallest and largest of what was fitted, by the word of each input.
    """

    fit: FitResult
    one: Fitted
    method: str
    draws: Array | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def law(self) -> Law:
        """The law that is asked."""
        return self.one.law

    @property
    def has_intervals(self) -> bool:
        """Whether the fit knows how sure it is."""
        return self.draws is not None or self.one.covariance is not None

    @property
    def reach(self) -> float:
        """The t quantile of one side of an interval."""
        return t_quantile(0.5 + LEVEL / 2, self.one.dof)

    def log_loss(self, theta: Theta, inputs: Mapping[str, Array]) -> Array:
        """Predict log loss (k,) at inputs by symbol, each (k,), and at what is held."""
        size = len(next(iter(inputs.values())))
        held = {s: np.full(size, value) for s, value in (self.one.given or {}).items()}
        return np.log(self.law.predict(theta, {**held, **inputs}))

    def cost(self, N: Array, D: Array) -> Array:
        """Return the training FLOPs of sizes and tokens."""
        return self.one.cost.factor * N**self.one.cost.power * D

    def span(self, function: Function) -> tuple[Array, Array, Array]:
        """Return a function of theta (k,) with the ends of its interval, low and high.

        By the delta method the interval is symmetric on the function's own scale; from refits it
        is the bias-corrected and accelerated percentile interval (Efron 1987). NaN where the fit
        has neither.
        """
        value = function(self.one.theta)
        if self.draws is not None:
            return (value, *self._from_draws(function, value))
        wide = self.reach * errors(self.one, function)
        return value, value - wide, value + wide

    def _from_draws(self, function: Function, value: Array) -> tuple[Array, Array]:
        assert self.draws is not None
        rows = np.stack([function(self.one.at(row)) for row in self.draws])
        rows = np.clip(np.nan_to_num(rows, nan=np.inf), -_UNBOUNDED, _UNBOUNDED)
        moves = np.zeros((1, len(value)))
        if self.fit.influence is not None and self.one.covariance is not None:
            # A function that is infinite nearby has no slope there, and its interval no skew.
            with np.errstate(invalid="ignore"):
                moves = np.array(self.fit.influence) @ slopes(self.one, function).T
            moves = np.where(np.isfinite(moves).all(axis=0), moves, 0.0)
        ends = [bca(rows[:, k], float(value[k]), moves[:, k], LEVEL) for k in range(len(value))]
        found = np.array([[e.low, e.high] for e in ends]).reshape(-1, 2)
        found = np.where(np.abs(found) >= _UNBOUNDED, np.sign(found) * np.inf, found)
        return found[:, 0], found[:, 1]

    def with_noise(self, value: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """Widen an interval of log loss by the noise of a single run."""
        noise = self.reach * np.sqrt(self.one.noise)
        return value - np.hypot(value - low, noise), value + np.hypot(high - value, noise)

    def interval(self, low: float, high: float) -> dict[str, Any]:
        """Write an interval as `fit.json` holds it."""
        return {"low": float(low), "high": float(high), "level": LEVEL, "method": self.method}

    def outside(self, values: Mapping[str, float]) -> dict[str, float]:
        """List what lies outside the fitted runs, as a ratio to the nearer end."""
        return beyond(values, self.ranges)


def fitted(fit: FitResult) -> Fitted:
    """Return the fit's law with its numbers.

    Raises:
        FitError: The fit is not of a law (approaches 1 and 2), or its runs do not identify one, or
            a parameter of the law has no number.
        InputError: A parameter is negative where the law takes its logarithm.
    """
    if fit.approach != "parametric":
        raise FitError(
            f"{fit.approach}: gives a frontier but no law; fit with --approach parametric"
        )
    if fit.status is FitStatus.UNIDENTIFIED:
        raise FitError(f"{fit.law}: {fit.message}")
    law, numbers = law_of(fit), dict(fit.theta)
    if open_ones := [name for name in law.names if numbers.get(name) is None]:
        raise FitError(
            f"{fit.law}: the fit has no number for {', '.join(open_ones)}; fit the table again"
        )
    try:
        check_theta(law, numbers)
    except ValueError as error:
        raise InputError(f"{fit.law}: no such fit, {error}; fit the table again") from error
    return Fitted(
        law,
        numbers,
        fit.cost or SIX_N_D,
        None if fit.covariance is None else np.array(fit.covariance, dtype=float),
        float(fit.diagnostics.get("dof") or np.inf),
        float(fit.diagnostics.get("noise") or 0.0) ** 2,
        fit.diagnostics.get("given") or None,
    )


def ask(fit: FitResult, given: Mapping[str, float] | None = None, by: str = DELTA) -> Ask:
    """Make a fit ready to be asked.

    Args:
        fit: Of a law (approach parametric).
        given: Inputs besides N, D and C to hold, over those that the fit was made with.
        by: A name of `BY`.

    Raises:
        FitError: The fit is of no law, or its runs do not identify one.
        UsageError: An input that the law does not take, a value no run can have, or refits that
            the fit does not hold.
    """
    if by not in BY:
        raise UsageError(f"--intervals {by}: unknown; {did_you_mean(by, BY)}")
    one = fitted(fit)
    others = [symbol for symbol in one.law.inputs if symbol not in "NDC"]
    for symbol, value in (given or {}).items():
        if symbol not in others:
            takes = f"{did_you_mean(symbol, others)}" if others else "leave it out"
            inputs = ", ".join(one.law.inputs)
            raise UsageError(f"--given {symbol}: {fit.law} is a law of {inputs}; {takes}")
        if not (value > 0 and np.isfinite(value)):
            raise UsageError(f"--given {symbol}={value:g}: not positive; write a count")
    held = {**(one.given or {}), **(given or {})}
    one = Fitted(one.law, one.theta, one.cost, one.covariance, one.dof, one.noise, held or None)
    return Ask(fit, one, *_way(fit, by), fitted_ranges(fit))


def _way(fit: FitResult, by: str) -> tuple[str, Array | None]:
    if by == DELTA:
        return str(fit.diagnostics.get("covariance") or METHOD), None
    n_draws = len(fit.draws or ())
    if n_draws < _FEWEST_DRAWS:
        raise UsageError(
            f"--intervals bootstrap: the fit holds {n_draws} refits, {_FEWEST_DRAWS} are the "
            "least; fit with --bootstrap 1000"
        )
    method = NOT_ACCELERATED if fit.influence is None else DRAWS_METHOD
    return method, np.array(fit.draws, dtype=float)


def fitted_ranges(fit: FitResult) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest of what was fitted, by the word of each input."""
    measured = fit.diagnostics.get("inputs", {})
    found = {
        str(COLUMN_OF.get(s, s)): (float(low), float(high)) for s, (low, high) in measured.items()
    }
    ratio = fit.diagnostics.get("tokens_per_param")
    if ratio:
        found["tokens_per_param"] = (float(ratio["low"]), float(ratio["high"]))
    return found


def check_allocates(one: Ask) -> None:
    """Refuse to look for an optimum where the law has none.

    Raises:
        UsageError: The law does not trade N against D, or lacks an input.
    """
    check_inputs(one, {"N", "D"} & set(one.law.inputs))
    if not can_allocate(one.law, one.one.given):
        inputs = ", ".join(one.law.inputs)
        raise UsageError(f"{one.fit.law}: a law of {inputs} has no optimum over params and tokens")


def check_inputs(one: Ask, known: set[str]) -> None:
    """Refuse a question that leaves an input of the law open.

    Raises:
        UsageError: An input is neither known nor held.
    """
    held = known | set(one.one.given or {})
    missing = [s for s in one.law.inputs if s not in held and s != "C"]
    if missing:
        options = {"N": "--params", "D": "--tokens", "U": "--unique-tokens"}
        say = [f"{s} ({COLUMN_OF.get(s, s)})" for s in missing]
        write = [options.get(s, f"--given {s}=NUMBER") for s in missing]
        raise UsageError(
            f"{one.fit.law}: needs {' and '.join(say)} as well; add {' and '.join(write)}"
        )
