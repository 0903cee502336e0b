"""The Chinchilla law: irreducible loss plus one power of N and one of D."""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="chinchilla",
    formula="L = E + A N^-alpha + B D^-beta",
    source="Hoffmann et al. 2022, arXiv:2203.15556, equation 2",
    inputs=("N", "D"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the model-size term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-8, 1e4, "amplitude of the data term", (0.05, 3.0)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of N", (0.03, 1.6)),
        Param("beta", "linear", 0.01, 3.0, "exponent of D", (0.03, 1.6)),
    ),
    terms=(Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))),
    floor="E",
)
