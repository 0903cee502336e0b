"""Energy and CO2e: a hand-made case to the digit, and how they grow."""

from __future__ import annotations

import pytest

from scalekit.footprint import co2e_kg, site_kwh
from scalekit.peaks import peak_flops


def test_a_budget_on_an_h100_costs_what_hand_arithmetic_says() -> None:
    """700 W at 40 % of 989 TFLOP/s, 1e21 FLOPs, PUE 1.2, 0.4 kg CO2e per kWh."""
    peak = peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")
    assert peak is not None
    assert peak == 989e12
    joules = 1e21 * 700 / (0.4 * peak)
    # Four digits are known of each.
    assert joules / 1e21 == pytest.approx(1.7695e-12, rel=5e-5)
    assert site_kwh(joules) == pytest.approx(491.5, rel=2e-4)
    assert co2e_kg(joules, 400, 1.2) == pytest.approx(235.9, rel=2e-4)


def test_a_site_without_overhead_draws_what_its_computers_draw() -> None:
    assert site_kwh(3.6e6) == 1.0
    assert site_kwh(3.6e6, 1.5) == 1.5
    assert co2e_kg(3.6e6, 0.0, 1.5) == 0.0
