"""Where a run computes: the device, its number format and peak, and how batches get there."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scalekit.errors import InputError, UsageError
from scalekit.peaks import NumberFormat, peak_flops


@dataclass(frozen=True)
class Device:
    """A device together with the number format of the products on it."""

    torch: torch.device
    dtype: Literal["float32", "bfloat16"]

    @property
    def name(self) -> str:
        """Return what a person calls this device."""
        if self.torch.type == "cuda":
            return torch.cuda.get_device_name(self.torch)
        return _cpu_name()

    @property
    def peak_flops(self) -> float | None:
        """Return the peak FLOP/s of this number format here, or None where it is not known."""
        return peak_flops(self.name, self.products) if self.torch.type == "cuda" else None

    @property
    def products(self) -> NumberFormat:
        """Return the number format of matrix products.

        Where TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 is in the environment, as containers and setup
        lines may have it, torch lets GPUs cut float32 to TF32.
        """
        cuts = torch.get_float32_matmul_precision() != "highest" and self.torch.type == "cuda"
        return "tf32" if cuts and self.dtype == "float32" else self.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, torch.bfloat16)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turn rows (B, T + 1) into inputs and targets, both (B, T), on the device."""
        assert rows.ndim == 2
        tensor = torch.from_numpy(rows)
        if self.torch.type == "cuda":
            tensor = tensor.pin_memory().to(self.torch, non_blocking=True)
        return tensor[:, :-1].contiguous(), tensor[:, 1:].contiguous()

    def take(self) -> None:
        """Make a GPU the one that this process computes on, and start it.

        Its counters answer only then, and streams are made on the one that was taken.
        """
        if self.torch.type == "cuda":
            torch.cuda.set_device(self.torch.index or 0)

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize(self.torch)


def choose_device(name: str, dtype: Literal["float32", "bfloat16"]) -> Device:
    """Find the device of that name; `auto` is the GPU where there is one.

    Raises:
        UsageError: torch knows no such device.
        InputError: The device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r}: unknown; choose from auto, cpu, cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name!r}: not supported; choose from auto, cpu, cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device 'cuda': torch finds no GPU here; use cpu, or a torch with CUDA")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name!r}: torch finds {torch.cuda.device_count()} GPUs here, and the first "
            "is cuda:0; choose one of those"
        )
    return Device(device, dtype)


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory, for a process that only trains.

    glibc hands every large block back to the system when it is freed and gets it again, zeroed a
    page at a time, for the next one. A training step frees and asks for the same sizes each time.

    Returns:
        Whether this C library knows the request (glibc does).
    """
    trim_threshold, mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
