"""Effective data transferred: the data of its own task that pretraining saved a model.

It is what a model of the same size would need beyond its fine-tuning data to reach the same loss
from scratch; the table holds it in the column `data_transferred`, in the units of F.
"""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param

LAW = PowerLaw(
    name="transfer",
    formula="data_transferred = k F^alpha N^beta",
    source="Hernandez et al. 2021, arXiv:2102.01293, equation 1.1, N without embeddings",
    inputs=("F", "N"),
    params=(
        Param("k", "amplitude", 1.0, 1e18, "proximity of the two tasks", (1e4, 1e14)),
        Param("alpha", "linear", 1e-4, 3.0, "exponent of the fine-tuning data", (0.02, 1.0)),
        Param("beta", "linear", 1e-4, 3.0, "exponent of the size", (0.02, 1.0)),
    ),
    terms=(Term("k", (("F", "-alpha"), ("N", "-beta"))),),
    asymptotes=(),
    response="data_transferred",
)
