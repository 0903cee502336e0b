"""A real Slurm for these tests: one cluster without accounting and one with, started on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, can_confine_memory, free_port, require_slurm, worker_number
from submitting import Sweep, plan_sweep

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests here, and give them to one worker: one cluster of each kind is enough.

    What breaks a cluster of its own says so by a group of its own.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.fixture(scope="session")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster without accounting for the session."""
    require_slurm(accounting=False)
    home = tmp_path_factory.mktemp("slurm")
    cluster = Cluster(home, free_port(2 * worker_number()))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def accounted_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster with slurmdbd and MariaDB for the session."""
    require_slurm(accounting=True)
    home = tmp_path_factory.mktemp("slurmdbd")
    cluster = Cluster(home, free_port(2 * worker_number() + 1), accounting=True)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def confined_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster that holds jobs to their memory, where this machine lets us."""
    require_slurm(accounting=False)
    if not can_confine_memory():
        pytest.skip("no control groups of memory to write to; needs root and cgroup version 1")
    home = tmp_path_factory.mktemp("confined")
    cluster = Cluster(home, free_port(20 + worker_number()), nodes=1, confines_memory=True)
    cluster.start()
    yield cluster
    cluster.stop()


def _speak_to(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    # Jobs import the tree under test, whatever is installed.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def cluster(bare_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Speak to the cluster without accounting; no job outlives the test."""
    _speak_to(bare_cluster, monkeypatch)
    yield bare_cluster
    bare_cluster.clear()


@pytest.fixture
def accounted(accounted_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Speak to the cluster with accounting; no job outlives the test."""
    _speak_to(accounted_cluster, monkeypatch)
    yield accounted_cluster
    accounted_cluster.clear()


@pytest.fixture(params=["without_accounting", "with_accounting"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Speak to each of both clusters in turn; no job outlives the test."""
    has = request.param == "with_accounting"
    cluster = request.getfixturevalue("accounted_cluster" if has else "bare_cluster")
    _speak_to(cluster, monkeypatch)
    yield cluster
    cluster.clear()


@pytest.fixture
def confined(confined_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Speak to the cluster that confines memory; no job outlives the test."""
    _speak_to(confined_cluster, monkeypatch)
    yield confined_cluster
    confined_cluster.clear()


@pytest.fixture
def fake_sweep(make_sweep: Any, tmp_path: Path) -> Callable[[int], Sweep]:
    """Make a sweep of so many stand-ins for runs."""
    return lambda n_runs: plan_sweep(tmp_path / "demo", make_sweep.plan_line, n_runs)
