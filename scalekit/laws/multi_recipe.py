"""One law for several recipes: shared exponents, and for each recipe what a parameter is worth.

A recipe is an optimiser, an architecture, a data mixture: whatever the column `group` names. Each
but the reference has two efficiencies: it does with N params what the reference does with rho_N N,
and likewise for tokens. Fits of each recipe alone are ill-conditioned and their exponents cannot
be compared; here a new recipe costs two parameters.

Since both efficiencies only rescale N and D, a recipe reaches with compute C = 6 N D what the
reference reaches with rho_N rho_D C: that product is its compute multiplier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalekit.errors import InputError
from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Array, Frame, Law, Param
from scalekit.laws.chinchilla import LAW as ALONE

COLUMN = "group"
SYMBOL = "r"


@dataclass(frozen=True)
class MultiRecipe(PowerLaw):
    """The Chinchilla law with efficiencies a recipe; `levels` are the recipes, reference first.

    Inside, the efficiency of N is alpha ln rho_N: the shift of ln A that it causes. With that the
    law stays a sum of powers, the indicator of a recipe standing for an input's logarithm.
    """

    def at_levels(self, levels: Sequence[str]) -> Law:
        """Return the law of these recipes, the reference first."""
        return for_levels(levels) if levels else self

    def bind(
        self, columns: Mapping[str, Array], rows: Array, where: str
    ) -> tuple[Law, dict[str, Array]]:
        """Take the recipes from the column; the one with the most runs is the reference.

        Raises:
            InputError: A row names no recipe, or all name one.
        """
        words = [str(cell).strip() for cell in columns[COLUMN][rows]]
        if "" in words:
            row = int(rows[words.index("")]) + 1
            raise InputError(f"{where}: no recipe in column {COLUMN!r} of row {row}; name it")
        counts = Counter(words)
        if len(counts) < 2:
            raise InputError(
                f"{where}: column {COLUMN!r} names one recipe, {words[0]!r}; {self.name} compares "
                f"several, map the column that names them with --map {COLUMN}=COLUMN"
            )
        levels = sorted(counts, key=lambda word: (-counts[word], word))
        codes = [levels.index(word) + 1.0 for word in words]
        return for_levels(levels), {SYMBOL: np.array(codes)}

    @property
    def given(self) -> dict[str, float]:
        """The reference recipe."""
        return {SYMBOL: 1.0}

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre N and D; a recipe's indicator stands in for an input's logarithm."""
        plain = Law.frame(replace(self, inputs=("N", "D")), inputs, centre)
        code = np.asarray(inputs[SYMBOL], dtype=float)
        logs, middle = dict(plain.logs), dict(plain.centre)
        for k, level in enumerate(self.levels[1:], start=2):
            for symbol in ("N", "D"):
                logs[f"{symbol} of {level}"] = (code == k).astype(float)
                middle[f"{symbol} of {level}"] = 0.0
        return self.lay_out(Frame(middle, logs))

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Return the Chinchilla law's coordinates, alpha ln rho_N and beta ln rho_D."""
        phi = super().to_internal(theta, centre)
        for k, exponent in self._efficiencies:
            phi[k] *= phi[exponent]
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        theta = super().to_published(phi, centre)
        for k, exponent in self._efficiencies:
            theta[..., k] = np.exp(phi[..., k] / phi[..., exponent])
        return theta

    def published_jacobian(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Differentiate the published parameters by the internal coordinates: (p, p)."""
        turn = super().published_jacobian(phi, centre)
        for k, exponent in self._efficiencies:
            rho = np.exp(phi[k] / phi[exponent])
            turn[k, k] = rho / phi[exponent]
            turn[k, exponent] = -rho * phi[k] / phi[exponent] ** 2
        return turn

    @property
    def _efficiencies(self) -> list[tuple[int, int]]:
        """The position of each efficiency, and of the exponent that it stands with."""
        return [
            (k, self.index("alpha" if name.startswith("rho_N") else "beta"))
            for k, name in enumerate(self.names)
            if name in self.unsearched
        ]


def for_levels(levels: Sequence[str]) -> MultiRecipe:
    """Return the law of these recipes, the reference first.

    >>> for_levels(["adamw", "muon"]).names
    ('E', 'A', 'B', 'alpha', 'beta', 'rho_N[muon]', 'rho_D[muon]')
    """
    others = tuple(levels[1:])
    worth = {"N": "params", "D": "tokens"}
    efficiencies = tuple(
        # Low and high are of the internal coordinate, an exponent times ln rho.
        Param(f"rho_{s}[{r}]", "log", 0.05, 20.0, f"worth of {word} under {r}", (0.7, 1.5))
        for r in others
        for s, word in worth.items()
    )
    extra = {s: tuple((f"{s} of {r}", f"rho_{s}[{r}]") for r in others) for s in worth}
    return MultiRecipe(
        name="multi_recipe",
        formula="L = E + A (rho_N N)^-alpha + B (rho_D D)^-beta, rho of each recipe",
        source="Volkova et al. 2026, arXiv:2602.07712",
        inputs=("N", "D", SYMBOL),
        params=(*ALONE.params, *efficiencies),
        nests={"chinchilla": {p.name: 1.0 for p in efficiencies}},
        held=ALONE.names,
        coded=(SYMBOL,),
        reads=(COLUMN,),
        levels=tuple(levels),
        terms=(
            Term("A", (("N", "alpha"), *extra["N"])),
            Term("B", (("D", "beta"), *extra["D"])),
        ),
        floor="E",
        unsearched=frozenset(p.name for p in efficiencies),
    )


LAW = for_levels(("reference", "other"))
