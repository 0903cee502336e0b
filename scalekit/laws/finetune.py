"""The loss after fine-tuning: a product of powers of the size and of the data that tuned it.

With `--map params=COLUMN` the size may as well be the tokens that a model was pretrained on, or the
parameters of its adapters: the law is the same for each.
"""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="finetune",
    formula="L = E + A N^-alpha F^-beta",
    source="Zhang et al. 2024, arXiv:2402.17193, equation 1, F the different tokens of fine-tuning",
    inputs=("N", "F"),
    params=(
        Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0)),
        Param("A", "amplitude", 1e-8, 1e4, "amplitude", (0.05, 3.0)),
        Param("alpha", "linear", 1e-4, 3.0, "exponent of N", (0.01, 1.0)),
        Param("beta", "linear", 1e-4, 3.0, "exponent of F", (0.01, 1.0)),
    ),
    terms=(Term("A", (("N", "alpha"), ("F", "beta"))),),
    floor="E",
)
