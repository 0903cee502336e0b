"""What several ways through one model share: rotary positions, the MLP's bend, the norms' epsilon.

Legend: B rows, T tokens a row, d head_dim, F d_ff.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NORM_EPS = 1e-6


def rotation_angles(context: int, head_dim: int, theta: float) -> Tensor:
    """Return the angles (T, d/2) by which RoPE turns neighbouring pairs.

    Pairs are interleaved, as in Su et al. 2021, arXiv:2104.09864, equation 15.
    """
    speeds = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return torch.outer(torch.arange(context, dtype=torch.float64), speeds)


def rotation_table(angles: Tensor) -> Tensor:
    """Return the unit complex numbers (T, 1, d/2) of the angles (T, d/2)."""
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).unsqueeze(1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x (B, T, heads, d) by its position: one complex product forward, one backward.

    A table of pairs of real numbers (T, 1, d/2, 2) does the same in real ones.
    """
    wide = x if x.dtype.itemsize >= 4 else x.float()
    if not table.is_complex():
        cos, sin = table[: x.shape[1]].unbind(-1)  # (T, 1, d/2)
        even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)  # (B, T, heads, d/2)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).type_as(x)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table[: x.shape[1]]).flatten(-2).type_as(x)


def activate(x: Tensor, mlp: str) -> Tensor:
    """Bend what an MLP's first map gives: (..., F), of swiglu (..., 2 F), to (..., F)."""
    if mlp == "swiglu":
        gate, x = x.chunk(2, dim=-1)
        return F.silu(gate) * x
    return F.relu(x).square() if mlp == "relu2" else F.gelu(x)
