"""The peak FLOP/s of devices by number format: what MFU is a share of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

NumberFormat = Literal["bfloat16", "tf32", "float32"]


@dataclass(frozen=True)
class Peak:
    """One device's peak FLOP/s; None where its maker states none.

    Attributes:
        bfloat16: Of matrix units, dense, adding in float32.
        tf32: The same for float32 numbers cut to TF32.
        float32: Outside matrix units.
        source: The maker's document.
    """

    bfloat16: float | None
    tf32: float | None
    float32: float | None
    source: str


# Makers print most rates of matrix units with sparsity, which doubles them: here they are halved.
PEAKS = {
    "A10": Peak(125e12, 62.5e12, 31.2e12, "NVIDIA A10 data sheet"),
    "A30": Peak(165e12, 82e12, 10.3e12, "NVIDIA A30 data sheet"),
    "A40": Peak(149.7e12, 74.8e12, 37.4e12, "NVIDIA A40 data sheet"),
    "A100": Peak(312e12, 156e12, 19.5e12, "NVIDIA A100 data sheet"),
    "L4": Peak(121e12, 60e12, 30.3e12, "NVIDIA L4 data sheet"),
    "L40S": Peak(362e12, 183e12, 91.6e12, "NVIDIA L40S data sheet"),
    "H100": Peak(989e12, 494e12, 67e12, "NVIDIA H100 data sheet, SXM"),
    "H100 NVL": Peak(835e12, 417e12, 60e12, "NVIDIA H100 data sheet, NVL"),
    "H100 PCIe": Peak(756e12, 378e12, 51e12, "NVIDIA H100 data sheet, PCIe"),
    "H200": Peak(989e12, 494e12, 67e12, "NVIDIA H200 data sheet, SXM"),
    "H200 NVL": Peak(835e12, 417e12, 60e12, "NVIDIA H200 data sheet, NVL"),
    "GH200": Peak(989e12, 494e12, 67e12, "NVIDIA GH200 data sheet"),
    "B200": Peak(2.25e15, None, None, "NVIDIA DGX B200 data sheet, an eighth of it"),
    "MI300X": Peak(1307e12, 653e12, 163e12, "AMD Instinct MI300X data sheet"),
    "RTX 3090": Peak(71e12, 35.6e12, 35.6e12, "NVIDIA GA102 white paper, appendix A"),
    "RTX 4090": Peak(165e12, 82.6e12, 82.6e12, "NVIDIA Ada white paper, appendix A"),
}
"""By words that a device's name holds, as its driver says it; the longest entry wins."""

_OTHERS = {"MIG", "Laptop", "Mobile", "Max-Q", "D", "Ti", "SUPER"}
"""Words that make a part of a device, or another one, of a name that is in the table."""

_VIRTUAL = re.compile(r"\d+[ABCQ](ME)?")
"""The last word of a virtual GPU, as in A100-4-20C: gigabytes of a device that others share."""


def peak_flops(name: str, number_format: NumberFormat) -> float | None:
    """Return a device's peak FLOP/s, or None where the table does not know it.

    >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16"), peak_flops("NVIDIA H100 PCIe", "bfloat16")
    (989000000000000.0, 756000000000000.0)
    >>> peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16") is None
    True
    """
    words = set(re.split(r"[\s-]+", name)) | set(name.split())
    if words & _OTHERS or any(map(_VIRTUAL.fullmatch, words)):
        return None
    fitting = [key for key in PEAKS if words >= set(key.split())]
    return getattr(PEAKS[max(fitting, key=len)], number_format) if fitting else None
