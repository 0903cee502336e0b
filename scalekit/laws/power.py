"""The saturating power law of one input; of training FLOPs unless another is named."""

from scalekit.laws._powers import PowerLaw, Term
from scalekit.laws.base import Param


def power_of(symbol: str, *, floor: bool = True) -> PowerLaw:
    """Build the power law of one input, with or without an irreducible loss.

    >>> power_of("N", floor=False).names
    ('A', 'alpha')
    """
    irreducible = Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 5.0))
    return PowerLaw(
        name="power",
        formula=f"L = {'E + ' if floor else ''}A {symbol}^-alpha",
        source="Kaplan et al. 2020, arXiv:2001.08361, section 1.2, with an irreducible loss",
        inputs=(symbol,),
        params=(
            *((irreducible,) if floor else ()),
            Param("A", "amplitude", 1e-8, 1e4, "amplitude", (0.05, 3.0)),
            Param("alpha", "linear", 0.001, 3.0, "exponent", (0.03, 1.6)),
        ),
        terms=(Term("A", ((symbol, "alpha"),)),),
        floor="E" if floor else None,
    )


LAW = power_of("C")
