"""Laws of tuned hyperparameters: the best learning rate or batch as a power of size and data."""

from __future__ import annotations

from collections.abc import Sequence

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param


def tuned_power(name: str, response: str, symbols: Sequence[str], source: str) -> PowerLaw:
    """Build the power law of a tuned hyperparameter.

    The exponents carry the sign of print: a negative one makes the hyperparameter shrink.

    >>> tuned_power("lr_power", "lr", ("N", "D"), "me").formula
    'lr = scale N^exponent_N D^exponent_D'
    """
    return PowerLaw(
        name=name,
        formula=" ".join([f"{response} = scale", *(f"{s}^exponent_{s}" for s in symbols)]),
        source=source,
        inputs=tuple(symbols),
        params=(
            # In the unit of the response, from a millionth of a rate to a billion tokens.
            Param("scale", "amplitude", 1e-12, 1e12, "value at one, in front", (1e-4, 1.0)),
            *(
                Param(f"exponent_{s}", "linear", -3.0, 3.0, f"exponent of {s}", (-1.0, 1.0))
                for s in symbols
            ),
        ),
        terms=(Term("scale", tuple((s, f"-exponent_{s}") for s in symbols)),),
        response=response,
        tuned=True,
    )
