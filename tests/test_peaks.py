"""The table of peaks: found by the names that drivers give, and by no other device's."""

from __future__ import annotations

import pytest

from scalekit.peaks import PEAKS, peak_flops


# Names as `torch.cuda.get_device_name` gives them; dense rates of the makers' data sheets.
@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_device_is_found_by_the_name_that_its_driver_gives(name: str, entry: str) -> None:
    assert peak_flops(name, "bfloat16") == PEAKS[entry].bfloat16
    assert peak_flops(name, "float32") == PEAKS[entry].float32


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "GRID A100-4-20C",
        "GRID A100-1-5CME",
        "NVIDIA A40-8Q",
        "NVIDIA L40S-48C",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA H20",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA RTX A4000",
        "Tesla V100-SXM2-32GB",
        "AMD EPYC",
        "",
    ],
)
def test_a_part_of_a_device_or_a_relative_is_unknown(name: str) -> None:
    assert peak_flops(name, "bfloat16") is None


@pytest.mark.parametrize("entry", PEAKS)
def test_an_entry_has_a_source_and_rates_that_fall_with_precision(entry: str) -> None:
    peak = PEAKS[entry]
    rates = [r for r in (peak.bfloat16, peak.tf32, peak.float32) if r is not None]
    assert peak.source
    assert rates == sorted(rates, reverse=True)
    # In TFLOP/s: a factor of a thousand is the mistake to expect.
    assert all(10e12 < rate < 5e15 for rate in rates)
