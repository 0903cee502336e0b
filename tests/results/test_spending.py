"""What runs cost together: sums of what is known, shares that add up, a site read from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekit.results.site import Site, read_rules, read_site
from scalekit.results.spending import add_up, describe_lost
from scalekit.results.store import SweepFolder

ENDS = [
    {"device_s": 100.0, "startup_s": 10.0, "eval_s": 5.0, "energy_j": 7.2e6, "mfu": 0.4},
    {"device_s": 300.0, "startup_s": 10.0, "eval_s": 15.0, "energy_j": None, "mfu": 0.2},
    {"device_s": 100.0, "startup_s": 5.0, "peak_memory_bytes": 2e9, "mfu": 0.5},
]


def test_sums_are_of_what_runs_say_and_middles_of_those_that_say_it() -> None:
    spent = add_up(ENDS)
    assert spent.device_s == 500.0
    assert spent.lost_s == {"startup_s": 25.0, "eval_s": 20.0}
    assert (spent.energy_j, spent.n_energy) == (7.2e6, 1)
    assert (spent.mfu, spent.tokens_per_second, spent.peak_memory_bytes) == (0.4, None, 2e9)


def test_what_is_lost_is_lost_on_all_devices_of_a_run() -> None:
    on_eight = {"device_s": 800.0, "wall_s": 90.0, "startup_s": 10.0, "eval_s": 5.0}
    assert add_up([on_eight]).lost_s == {"startup_s": 80.0, "eval_s": 40.0}


def test_what_is_lost_on_a_shared_gpu_is_lost_by_the_share() -> None:
    """Four processes side by side: while one evaluates, three quarters of the GPU go on."""
    packed = {"device_s": 25.0, "wall_s": 90.0, "startup_s": 10.0, "eval_s": 20.0}
    assert add_up([packed] * 4).lost_s == {"startup_s": 10.0, "eval_s": 20.0}
    stacked = {"device_s": 25.0, "wall_s": 90.0, "startup_s": 2.5, "eval_s": 5.0, "stack": 4}
    assert add_up([stacked] * 4).lost_s == {"startup_s": 10.0, "eval_s": 20.0}


def test_the_order_of_runs_changes_nothing() -> None:
    assert add_up(ENDS[::-1]) == add_up(ENDS)


def test_runs_that_say_nothing_cost_an_unknown_amount() -> None:
    spent = add_up([{}, {"status": "done"}])
    assert (spent.device_s, spent.energy_j, spent.mfu, spent.lost_s) == (0.0, None, None, {})
    assert describe_lost({}) == ""


def test_a_site_is_read_from_the_sweeps_own_file(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert read_site(folder) == Site()
    folder.sweep_file.write_text("profile: {pue: 1.2, grid_intensity: 400.0, gpu_watts: 700}\n")
    site = read_site(folder)
    assert site == Site(1.2, 400.0)
    # 491.5 kWh of computers: 1e21 FLOPs at 700 W and 40 % of 989 TFLOP/s.
    assert site.co2e_kg(491.5 * 3.6e6) == pytest.approx(235.9, rel=2e-4)
    assert Site(1.2, None).co2e_kg(1.0) is None
    assert read_rules(folder) == {}


def test_rules_are_read_from_the_sweeps_own_file(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.sweep_file.write_text("derive: {train.lr: 0.01 * C ** -0.5, model.d_ff: 64}\n")
    assert read_rules(folder) == {"train.lr": "0.01 * C ** -0.5", "model.d_ff": "64"}


@pytest.mark.parametrize("text", ["", "profile:\n", "- a\n", "profile: {pue: much}\n", "a: [\n"])
def test_a_file_that_says_nothing_of_a_site_gives_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    assert read_site(SweepFolder(tmp_path)) == Site()
    assert read_rules(SweepFolder(tmp_path)) == {}
