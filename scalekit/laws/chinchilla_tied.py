"""The Chinchilla law with one exponent for N and D."""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="chinchilla_tied",
    formula="L = E + A N^-alpha + B D^-alpha",
    source="Gadre et al. 2024, arXiv:2403.08540, equation 4, with alpha = 2 eta",
    inputs=("N", "D"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude of the model-size term", (0.05, 3.0)),
        Param("B", "amplitude", 1e-8, 1e4, "amplitude of the data term", (0.05, 3.0)),
        Param("alpha", "linear", 0.01, 3.0, "exponent of N and of D", (0.03, 1.6)),
    ),
    terms=(Term("A", (("N", "alpha"),)), Term("B", (("D", "alpha"),))),
    floor="E",
)
