"""What a law must offer: a formula as a value, with its gradient in coordinates that fit well.

A law is fitted in *internal coordinates*: logarithms of positive parameters, with each amplitude
replaced by the logarithm of what its term contributes at the centre of the runs (the geometric
means of the inputs). Exponents stay as they are. In these coordinates the Chinchilla law's normal
matrix has condition 1e3 to 1e4, against 1e11 in the published ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalekit.errors import UsageError

Array = np.ndarray

COLUMN_OF = {
    "N": "params",
    "D": "tokens",
    "C": "flops",
    "U": "unique_tokens",
    "F": "finetune_tokens",
    "w": "model.d_model",
    "l": "model.n_layers",
    "L": "loss",
    "t": "step",
    "r": "group",
    "i": "run",
}
"""The table's column for each symbol that a formula may use; another symbol is its own column."""


@dataclass(frozen=True)
class Param:
    """One parameter of a law.

    Attributes:
        name: As published (`E`, `A`, `alpha`).
        transform: `linear`: fitted as it is. `log`: fitted as its logarithm. `amplitude`: fitted
            as the logarithm of its term at the centre of the runs.
        low: Smallest value, of the term's contribution for an amplitude.
        high: Largest value, likewise.
        doc: What it means.
        start: Where starting points are drawn, in the same units as `low`.
    """

    name: str
    transform: str
    low: float
    high: float
    doc: str
    start: tuple[float, float] = (0.1, 1.0)

    def inside(self, value: float) -> float:
        """Return the internal coordinate of a value of `low`, `high` or `start`."""
        return float(value if self.transform == "linear" else np.log(value))


@dataclass(frozen=True)
class Frame:
    """The inputs of one set of runs as a law wants them: everything that no parameter changes.

    Attributes:
        centre: Mean logarithm of each input, by symbol.
        logs: Centred logarithms, by symbol, each (n,).
        extra: What the law precomputed.
    """

    centre: Mapping[str, float]
    logs: Mapping[str, Array]
    extra: Any = None


@dataclass(frozen=True)
class State:
    """A law evaluated at S points of its parameter space over n runs.

    Attributes:
        log_loss: (S, n).
        phi: (S, p), the internal coordinates.
        frame: The runs.
        parts: What the law keeps for its derivatives.
    """

    log_loss: Array
    phi: Array
    frame: Frame
    parts: Any = None


@dataclass(frozen=True)
class Law(ABC):
    """A law as a value: name, formula, source, parameters, prediction and derivatives.

    Attributes:
        nests: Laws this one contains, by name: the values at which its own extra parameters make
            it equal to them.
        asymptotes: Parameters that runs may leave open on one side; their intervals are profiles.
        caution: A sentence that every fit of the law carries as a warning.
        response: The column that the law predicts; what is said of the loss below holds for it.
        tuned: Whether the response is a hyperparameter at its best, so that a sweep of it is first
            reduced to the best of each size and length.
        coded: Inputs that are no numbers of a row but names of something in the table, a recipe or
            a curve; `bind` turns them into codes 1, 2, ...
        reads: Columns besides the inputs' that `bind` reads.
        levels: The names behind the codes that predictions need, in order; bound laws only.
        condition_limit: Above this condition of the normal matrix (centred, its columns of equal
            length) a design does not identify the parameters.
    """

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...]
    params: tuple[Param, ...]
    nests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    condition_limit: float = 1e6
    held: tuple[str, ...] | None = None
    starts: int = 8
    asymptotes: tuple[str, ...] = ("E",)
    caution: str = ""
    response: str = "loss"
    tuned: bool = False
    coded: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()

    def bind(
        self, columns: Mapping[str, Array], rows: Array, where: str
    ) -> tuple[Law, dict[str, Array]]:
        """Return the law of these runs, and the codes (n,) of its coded inputs by symbol.

        Args:
            columns: All columns of the table.
            rows: (n,), positions of the rows in use.
            where: What an error names.
        """
        return self, {}

    def at_levels(self, levels: Sequence[str]) -> Law:
        """Return the law of the recipes that a fit knew, as `bind` did from the table."""
        return self

    def clusters(self, inputs: Mapping[str, Array]) -> Array | None:
        """Return which rows (n,) of a run belong together, None where each stands for itself."""
        return None

    def sequence(self, inputs: Mapping[str, Array]) -> tuple[Array, Array] | None:
        """Return the curve (n,) and the place on it (n,) of rows whose errors last along it."""
        return None

    @property
    def given(self) -> dict[str, float]:
        """The inputs besides N and D at which an optimum is asked unless others are given."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns that the inputs come from."""
        return tuple(COLUMN_OF.get(s, s) for s in self.inputs)

    @property
    def is_of_final_loss(self) -> bool:
        """Whether the law predicts what a whole run ends at."""
        return self.response == "loss" and "t" not in self.inputs

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of every vector."""
        return tuple(p.name for p in self.params)

    @property
    def box(self) -> tuple[Array, Array]:
        """Lower and upper ends of the internal coordinates, each (p,)."""
        return (
            np.array([p.inside(p.low) for p in self.params]),
            np.array([p.inside(p.high) for p in self.params]),
        )

    def index(self, name: str) -> int:
        """Return the position of a parameter."""
        return self.names.index(name)

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre the inputs' logarithms, on their own means unless a centre is given."""
        logs = {s: np.log(np.asarray(inputs[s], dtype=float)) for s in self.inputs}
        if centre is None:
            centre = {s: float(v.mean()) for s, v in logs.items()}
        return Frame(centre, {s: v - centre[s] for s, v in logs.items()})

    @abstractmethod
    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate the logarithm of the loss at phi (S, p)."""

    @abstractmethod
    def jacobian(self, state: State) -> Array:
        """Differentiate the logarithm of the loss by the internal coordinates: (S, p, n)."""

    @abstractmethod
    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Turn published parameters into internal coordinates (p,)."""

    @abstractmethod
    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Turn internal coordinates (..., p) into published parameters (..., p)."""

    def sums(self, state: State, v: Array, w: Array, g: Array) -> tuple[Array, Array]:
        """Add up what Newton's method needs over the runs.

        Args:
            state: The law at S points.
            v: (S, n), weights of the gradient.
            w: (S, n), weights of the outer products of the gradient.
            g: (S, n), weights of the loss's own second derivatives, relative to the loss.

        Returns:
            sum v J, (S, p), and sum w J J' + sum g (second derivative of L) / L, (S, p, p), where
            J is the gradient of log L.
        """
        jac = self.jacobian(state)
        gradient = np.einsum("sn,spn->sp", v, jac)
        square = (jac * w[:, None, :]) @ jac.transpose(0, 2, 1)
        return gradient, square + self.curvature(state, g)

    def curvature(self, state: State, g: Array) -> Array:
        """Sum g times the loss's second derivatives over the loss: (S, p, p).

        Here by central differences of the analytic gradient; a law overrides it where speed asks.
        """
        step = 1e-5
        count = state.phi.shape[1]
        rows = []
        for k in range(count):
            slopes = []
            for sign in (1.0, -1.0):
                phi = state.phi.copy()
                phi[:, k] += sign * step
                other = self.state(phi, state.frame)
                ratio = np.exp(other.log_loss - state.log_loss)
                slopes.append(np.einsum("sn,spn->sp", g * ratio, self.jacobian(other)))
            rows.append((slopes[0] - slopes[1]) / (2 * step))
        found = np.stack(rows, axis=1)
        return (found + found.transpose(0, 2, 1)) / 2

    def published_jacobian(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Differentiate the published parameters by the internal coordinates: (p, p)."""
        step = 1e-6
        columns = []
        for k in range(len(phi)):
            ends = []
            for sign in (1.0, -1.0):
                moved = phi.copy()
                moved[k] += sign * step
                ends.append(self.to_published(moved, centre))
            columns.append((ends[0] - ends[1]) / (2 * step))
        return np.stack(columns, axis=1)

    def predict(self, theta: Mapping[str, float], inputs: Mapping[str, Array]) -> Array:
        """Predict the loss (n,) from published parameters and inputs by symbol.

        Raises:
            UsageError: An input of the law is missing.
        """
        missing = [c for s, c in zip(self.inputs, self.columns, strict=True) if s not in inputs]
        if missing:
            raise UsageError(
                f"{self.name}: predicts {self.response} from {', '.join(self.columns)}; "
                f"{', '.join(missing)} not given"
            )
        frame = self.frame({s: np.atleast_1d(inputs[s]) for s in self.inputs})
        phi = self.to_internal(theta, frame.centre)
        return np.exp(self.state(phi[None], frame).log_loss[0])

    def gradient(self, theta: Mapping[str, float], inputs: Mapping[str, Array]) -> Array:
        """Differentiate log loss by the internal coordinates at published parameters: (p, n)."""
        frame = self.frame({s: np.atleast_1d(inputs[s]) for s in self.inputs})
        phi = self.to_internal(theta, frame.centre)
        return self.jacobian(self.state(phi[None], frame))[0]

    def allocation(self, theta: Mapping[str, float]) -> tuple[float, float, float, float] | None:
        """Return (A, alpha, B, beta) if the optimum is that of A N^-alpha + B D^-beta."""
        return None

    def grid(self, n: int, seed: int) -> Array:
        """Spread n starting points (n, p) over the parameters' `start` ranges."""
        low = np.array([p.inside(p.start[0]) for p in self.params])
        high = np.array([p.inside(p.start[1]) for p in self.params])
        unit = np.random.default_rng(seed).random((n, len(low)))
        return low + (high - low) * unit
