"""From energy to what it costs the world: a site's overhead and its grid. Pure arithmetic.

Conventions: `E_site = E_IT PUE` and `CO2e = E_site CI`, location-based; what making the hardware
emitted is not in it.
"""

from __future__ import annotations

JOULES_PER_KWH = 3.6e6


def site_kwh(joules: float, pue: float = 1.0) -> float:
    """Return the kWh that a site draws for so many joules of its computers."""
    return joules * pue / JOULES_PER_KWH


def co2e_kg(joules: float, grid_intensity: float, pue: float = 1.0) -> float:
    """Return the kg of CO2e of so many joules of computers.

    Args:
        joules: What the computers drew.
        grid_intensity: In gCO2e per kWh.
        pue: The site's energy over that of its computers.
    """
    return site_kwh(joules, pue) * grid_intensity / 1e3
