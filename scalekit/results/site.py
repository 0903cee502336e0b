"""What a sweep's own file says that no record holds: its site, and the rules that set its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.footprint import co2e_kg, site_kwh
from scalekit.results.store import SweepFolder


@dataclass(frozen=True)
class Site:
    """A site as a profile describes it; None where it does not say.

    Attributes:
        pue: The site's energy over that of its computers.
        grid_intensity: In gCO2e per kWh.
    """

    pue: float | None = None
    grid_intensity: float | None = None

    def co2e_kg(self, joules: float) -> float | None:
        """Return the kg of CO2e of so many joules; None without the grid's intensity."""
        if self.grid_intensity is None:
            return None
        return co2e_kg(joules, self.grid_intensity, self.pue or 1.0)

    def describe(self, joules: float) -> str:
        """Say the energy and its CO2e, with what they rest on.

        >>> Site(1.2, 400).describe(3.6e6)
        '1 kWh, 0.48 kg CO2e at PUE 1.2 and 400 g/kWh'
        >>> Site(None, 400).describe(3.6e6)
        '1 kWh, 0.4 kg CO2e at 400 g/kWh, without a PUE'
        >>> Site().describe(3.6e6)
        '1 kWh'
        """
        kwh, kg = f"{site_kwh(joules):.3g} kWh", self.co2e_kg(joules)
        if kg is None:
            return kwh
        grid = f"{self.grid_intensity:g} g/kWh"
        rests = f"{grid}, without a PUE" if self.pue is None else f"PUE {self.pue:g} and {grid}"
        return f"{kwh}, {kg:.3g} kg CO2e at {rests}"


def read_site(folder: SweepFolder) -> Site:
    """Read the profile that a sweep's folder holds; an empty site where it has none."""
    said = _section(folder, "profile")
    return Site(_number(said.get("pue")), _number(said.get("grid_intensity")))


def read_rules(folder: SweepFolder) -> dict[str, str]:
    """Read by which expressions a sweep's folder says that settings were derived, by setting."""
    return {str(key): str(rule) for key, rule in _section(folder, "derive").items()}


def _section(folder: SweepFolder, name: str) -> Mapping[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(folder.sweep_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    section = value.get(name) if isinstance(value, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
