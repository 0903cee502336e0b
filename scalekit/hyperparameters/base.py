"""What a rule must offer: a hyperparameter as a formula of size, data or compute, and its origin.

A member of `hyperparameters/` binds `RULE`, a `Rule`. Expressions of a sweep file call it by its
name, with its inputs in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rule:
    """A member of the family; a value that can be called.

    Attributes:
        name: The file name.
        inputs: What it is called with, in order; all are above zero.
        gives: What comes out, with its unit.
        formula: As published, with the inputs' names.
        source: Who published it.
        fitted_on: How its authors count and train; elsewhere the rule is a first guess.
        compute: The formula.
        doubt: What of it was not checked against its source.
        fitted_range: The least and the most that it was fitted on, of N, D or D/N, where known.
    """

    name: str
    inputs: tuple[str, ...]
    gives: str
    formula: str
    source: str
    fitted_on: str
    compute: Callable[..., float]
    doubt: str = ""
    fitted_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """Return how it is written."""
        return f"{self.name}({', '.join(self.inputs)})"

    def __call__(self, *values: float) -> float:
        """Return the hyperparameter.

        Raises:
            ValueError: An input is not above zero.
        """
        assert len(values) == len(self.inputs)
        for name, value in zip(self.inputs, values, strict=True):
            if value <= 0:
                raise ValueError(f"{self.name} needs {name} above 0, found {value:g}")
        return self.compute(*values)

    def describe(self) -> str:
        """Return one line for a person who chooses."""
        doubt = f"; {self.doubt}" if self.doubt else ""
        return f"{self.call}: {self.gives}, {self.formula} ({self.source}; {self.fitted_on}{doubt})"
