"""Energy: counters that begin again, shares of a device, and unknown where nothing can be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from scalekit.train import energy
from scalekit.train.device import Device
from scalekit.train.energy import (
    Meter,
    Rapl,
    busy_seconds,
    open_meter,
    open_nvml,
    open_rapl,
    open_team_meter,
)

CPU = Device(torch.device("cpu"), "float32")
RANGE = 10_000_000_000
"""Microjoules at which the counters of these tests begin again: ten seconds at a kilowatt."""


def zone(root: Path, name: str, label: str, microjoules: int) -> Path:
    """Write a zone as the kernel's powercap does."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two packages, with a core's zone and the whole board's, which count the same joules again."""
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    zone(tmp_path, "intel-rapl:0:0", "core", 77)
    zone(tmp_path, "intel-rapl:2", "psys", 99)
    found = [(0, 9_999_000_000), (1, 500)]
    return [zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", uj) for n, uj in found]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_packages_are_added_up_also_when_one_begins_again(packages: list[Path]) -> None:
    clock = Clock()
    counter = Rapl(packages, clock)
    assert counter.joules() == 0.0
    (packages[0] / "energy_uj").write_text("500000\n")  # 1 J to the end and half of one after it
    (packages[1] / "energy_uj").write_text("2000500\n")
    clock.now = 3.0
    assert counter.joules() == pytest.approx(1.5 + 2.0)
    (packages[1] / "energy_uj").write_text("3000500\n")
    clock.now = 6.0
    assert counter.joules() == pytest.approx(1.5 + 3.0)


def test_a_counter_that_may_have_been_full_twice_is_not_believed(packages: list[Path]) -> None:
    clock = Clock()
    meter = Meter(Rapl(packages, clock), lambda: 1.0)
    clock.now = 11.0
    assert meter.joules() is None
    clock.now = 12.0
    assert meter.joules() is None  # and what was missed stays missed


def test_only_packages_count_and_only_where_they_can_be_read(packages: list[Path]) -> None:
    counter = open_rapl()
    assert counter is not None
    assert set(counter._last) == set(packages)
    (packages[0] / "energy_uj").unlink()
    assert counter.joules() is None
    assert open_rapl() is None


def test_a_machine_without_counters_has_unknown_energy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path / "absent")
    assert open_meter(CPU) is None


def test_a_run_on_a_cpu_is_given_its_part_of_the_time_that_the_machine_was_busy(
    packages: list[Path], monkeypatch
) -> None:
    own, busy = iter([5.0, 6.0, 9.0]), iter([100.0, 104.0, 104.0])
    monkeypatch.setattr("time.process_time", lambda: next(own))
    monkeypatch.setattr(energy, "busy_seconds", lambda: next(busy))
    meter = open_meter(CPU)
    assert meter is not None
    assert meter.by == "RAPL"
    (packages[1] / "energy_uj").write_text("4000500\n")
    assert meter.joules() == pytest.approx(4.0 * 1 / 4)
    (packages[1] / "energy_uj").write_text("5000500\n")
    # The kernel has not counted yet what the process has: all of it then, and never more.
    assert meter.joules() == pytest.approx(4.0 * 1 / 4 + 1.0)


def test_busy_is_all_but_idle_and_waiting(tmp_path: Path, monkeypatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9999 888 4 5 6 77 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    monkeypatch.setattr(energy, "STAT", stat)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert busy_seconds() == pytest.approx(1.65)


# --- NVML, by a stand-in: no GPU is needed to ask for one by its name.


def nvml(readings: Sequence[int | None]) -> ModuleType:
    """A pynvml that knows one GPU whose counter gives these millijoules; None is an error."""
    fake = ModuleType("pynvml")
    left = list(readings)

    class NVMLError(Exception):
        pass

    def by_uuid(uuid: str) -> str:
        if uuid != "GPU-12ab":
            raise NVMLError("not found")
        return "handle"

    def total(handle: str) -> int:
        assert handle == "handle"
        value = left.pop(0)
        if value is None:
            raise NVMLError("not supported")
        return value

    fake.NVMLError = NVMLError  # type: ignore[attr-defined]
    fake.nvmlInit = lambda: None  # type: ignore[attr-defined]
    fake.nvmlDeviceGetHandleByUUID = by_uuid  # type: ignore[attr-defined]
    fake.nvmlDeviceGetTotalEnergyConsumption = total  # type: ignore[attr-defined]
    return fake


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", uuid="12ab")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    return properties


CUDA = Device(torch.device("cuda"), "bfloat16")


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(("packed", "replicas"), [(1, 1), (4, 1), (2, 3)])
def test_runs_that_are_packed_onto_a_gpu_share_its_energy(
    monkeypatch, packed: int, replicas: int
) -> None:
    # One reading to see whether it can be read, one when the meter begins, one now.
    monkeypatch.setitem(sys.modules, "pynvml", nvml([1000, 2000, 10_000]))
    meter = open_meter(CUDA, packed=packed, replicas=replicas)
    assert meter is not None
    assert meter.by == "NVML"
    assert meter.joules() == pytest.approx(8.0 / packed / replicas)


@pytest.mark.usefixtures("card")
def test_a_counter_that_fails_on_the_way_leaves_the_energy_unknown(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([1000, 2000, None, 3000]))
    meter = open_meter(CUDA)
    assert meter is not None
    assert meter.joules() is None
    assert meter.joules() is None


def test_a_gpu_without_a_counter_of_its_own_has_unknown_energy(card, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([None]))
    assert open_nvml(CUDA.torch) is None  # older than Volta
    monkeypatch.setitem(sys.modules, "pynvml", nvml([1]))
    card.uuid = "other"
    assert open_nvml(CUDA.torch) is None  # hidden from this process
    card.uuid, card.name = "12ab", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert open_nvml(CUDA.torch) is None  # the card's counter is not this part's
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml(CUDA.torch) is None  # not installed


class Team:
    """A team of which one process says what the test says it does."""

    size = 3

    def __init__(self) -> None:
        self.other = 0.0

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, torch.full_like(values, self.other), values])


def test_a_team_draws_what_all_its_processes_draw(packages: list[Path]) -> None:
    team = Team()
    team.other = 1.0  # it has a counter
    meter = open_team_meter(CPU, team)  # pyright: ignore[reportArgumentType]
    assert meter is not None
    assert meter.by == "RAPL"
    team.other = 5.0
    (packages[1] / "energy_uj").write_text("2000500\n")
    told = meter.joules()
    assert told is not None
    # Each has its own share of the machine, which other work of this moment moves.
    assert 5.0 < told <= 5.0 + 2 * 2.0
    team.other = float("nan")
    assert meter.joules() is None
    team.other = 0.0  # it has none
    assert open_team_meter(CPU, team) is None  # pyright: ignore[reportArgumentType]
