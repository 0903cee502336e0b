"""The device: chosen by name, its peak known or unknown, its batches shifted by one token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch

from scalekit.errors import InputError, UsageError
from scalekit.train import device as device_module
from scalekit.train.device import choose_device, keep_freed_memory
from scalekit.train.provenance import told_with_format


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """Make torch believe in a GPU of a given name; nothing is computed on it."""

    def pretend(name: str) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: name)

    return pretend


def test_auto_is_the_gpu_where_there_is_one(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto", "float32").torch.type == "cpu"
    gpu("NVIDIA A100-SXM4-80GB")
    assert choose_device("auto", "float32").torch.type == "cuda"
    assert choose_device("cpu", "float32").torch.type == "cpu"
    assert choose_device("cuda:1", "float32").torch.index == 1


@pytest.mark.parametrize("name", ["tpu", "", "mps", "cuda:x", "meta"])
def test_an_unknown_device_is_a_usage_error_with_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"choose from auto, cpu, cuda") as caught:
        choose_device(name, "float32")
    assert str(caught.value).startswith(f"--device {name!r}: ")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU here; use cpu"):
        choose_device("cuda", "float32")


def test_a_gpu_beyond_those_that_are_there_is_refused(gpu) -> None:
    gpu("NVIDIA H200")
    with pytest.raises(InputError, match=r"--device 'cuda:2': torch finds 2 GPUs here"):
        choose_device("cuda:2", "float32")


def test_a_gpu_is_taken_by_its_number(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu("NVIDIA H200")
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for name in ("cuda", "cuda:1", "cpu"):
        choose_device(name, "float32").take()
    assert taken == [0, 1]


def test_the_peak_is_that_of_the_number_format_in_use(gpu, monkeypatch) -> None:
    gpu("NVIDIA H100 80GB HBM3")
    assert choose_device("cuda", "bfloat16").peak_flops == 989e12
    asked = "highest"
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: asked)
    assert choose_device("cuda", "float32").peak_flops == 67e12
    assert told_with_format("torch", choose_device("cuda", "float32")) == "torch"
    asked = "high"
    cut = choose_device("cuda", "float32")
    assert cut.peak_flops == 494e12
    assert told_with_format("torch", cut) == "torch, products in tf32"
    for name, dtype in (("cpu", "float32"), ("cuda", "bfloat16")):
        assert told_with_format("torch", choose_device(name, dtype)) == "torch"  # pyright: ignore
    assert choose_device("cpu", "bfloat16").peak_flops is None


def test_targets_are_the_inputs_one_token_later() -> None:
    rows = np.arange(12, dtype=np.int64).reshape(2, 6)
    inputs, targets = choose_device("cpu", "float32").batch(rows)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_products_have_the_number_format_that_was_asked_for(dtype, expected: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with choose_device("cpu", dtype).autocast():
        assert (matrix @ matrix).dtype == expected


def test_a_cpu_has_a_name_even_where_the_system_gives_none(monkeypatch) -> None:
    assert choose_device("cpu", "float32").name

    def refuse(self: Path, **options: str) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert choose_device("cpu", "float32").name


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        asked.append((option, value))
        return 1

    library = SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda name: library)
    assert keep_freed_memory()
    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h.
    assert asked == [(-4, 0), (-1, 2**31 - 1)]
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_freed_memory()
