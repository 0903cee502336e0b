"""A law of the shape: width and depth apart instead of one count of parameters."""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="width_depth",
    formula="L = E + A w^-alpha + B l^-beta + C D^-gamma",
    source="McLeish et al. 2025, arXiv:2502.06857 (their a, b, c)",
    inputs=("w", "l", "D"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the width term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-8, 1e4, "amplitude of the depth term", (0.05, 3.0)),
        Param("C", "amplitude", 1e-8, 1e4, "amplitude of the data term", (0.05, 3.0)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of the width", (0.05, 1.2)),
        Param("beta", "linear", 0.01, 3.0, "exponent of the depth", (0.05, 1.2)),
        Param("gamma", "linear", 0.01, 3.0, "exponent of the tokens", (0.05, 1.2)),
    ),
    # Depths span less than a decade, so their term is never as well determined as the others.
    condition_limit=1e8,
    terms=(
        Term("A", (("w", "alpha"),)),
        Term("B", (("l", "beta"),)),
        Term("C", (("D", "gamma"),)),
    ),
    floor="E",
)
