"""The coupled law: a power of the sum of the N and D terms, between Kaplan and Chinchilla."""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="coupled",
    formula="L = E + (A N^-alpha + B D^-beta)^k",
    source="k = 1 is Hoffmann et al. 2022, arXiv:2203.15556, equation 2; E = 0 and beta = 1 is "
    "Kaplan et al. 2020, arXiv:2001.08361, equation 1.5",
    inputs=("N", "D"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-12, 1e12, "amplitude of the model-size term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-12, 1e12, "amplitude of the data term", (0.05, 3.0)),
        Param("alpha", "linear", 0.01, 5.0, "exponent of N inside the power", (0.05, 1.5)),
        Param("beta", "linear", 0.01, 5.0, "exponent of D inside the power", (0.05, 1.5)),
        Param("k", "linear", 0.05, 3.0, "power of the sum", (0.2, 1.6)),
    ),
    nests={"chinchilla": {"k": 1.0}},
    # k trades against E and both exponents: on a 5 by 7 grid over three decades 1e7 is ordinary.
    condition_limit=1e9,
    terms=(Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))),
    floor="E",
    outer="k",
)
