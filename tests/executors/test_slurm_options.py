"""What a job asks for: groups of equal needs, time limits, and how many jobs there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._slurm_limits import Limits, read_limits
from scalekit.executors._slurm_options import Group, check_group, group_jobs
from scalekit.executors._slurm_site import read_partitions
from scalekit.executors.base import Job, Settings, stack_jobs
from scalekit.executors.slurm import Slurm

WIDE = Limits(array=1000, jobs=20_000, seconds=None, default_seconds=None, room=None)
HOUR = Limits(array=1000, jobs=20_000, seconds=3600.0, default_seconds=600.0, room=None)


def job(run: str, seconds: float | None = 100.0, **resources: Any) -> Job:
    return Job(run, ("python", run), Path(f"{run}.log"), resources, flops=1.0, seconds=seconds)


def group(*jobs: Job, limits: Limits = WIDE, **settings: Any) -> Group:
    (only,) = group_jobs(jobs, Settings(**settings), limits)
    return only


def test_equal_needs_share_an_array_and_the_longest_run_comes_first() -> None:
    jobs = [job("a", 1.0, gpus=1), job("b", 9.0), job("c", 5.0, gpus=1), job("d", 2.0, gpus=1)]
    groups = group_jobs(jobs, Settings(), WIDE)
    assert [[one.run for one in g.jobs] for g in groups] == [["c", "d", "a"], ["b"]]


def test_a_need_that_is_not_given_is_no_need_of_its_own() -> None:
    jobs = [job("a", gpus=0, cpus=None), job("b", gpus=0)]
    assert len(group_jobs(jobs, Settings(), WIDE)) == 1


def test_packed_runs_share_gpus_and_add_up_cores_and_memory() -> None:
    packed = group(job("a", gpus=1, cpus=2, memory_gb=10.0, pack=4))
    assert (packed.pack, packed.gpus, packed.cpus, packed.memory_gb) == (4, 1, 8, 40.0)
    # A run of several GPUs has them to itself.
    large = group(job("a", gpus=2, cpus=2, pack=4))
    assert (large.pack, large.gpus, large.cpus, large.memory_gb) == (1, 2, 2, None)


def test_a_stack_has_the_resources_of_one_run_and_the_time_of_all(tmp_path: Path) -> None:
    needs = {"gpus": 1, "cpus": 2, "memory_gb": 10.0, "pack": 2}
    alone = [job(name, 1000.0, **needs) for name in "abcd"]
    # Four in the time of two.
    stack = stack_jobs(alone, lambda seconds: sum(seconds) / 2)
    assert stack.runs == ("a", "b", "c", "d")
    found = group(stack, job("e", 500.0, **needs), safety=1.5)
    assert (found.gpus, found.cpus, found.memory_gb) == (1, 4, 20.0)
    assert found.limit == pytest.approx(2000.0 * 1.5 + 120.0)
    # A job for each two of them, stacks or runs.
    assert Slurm(Settings(folder=tmp_path))._sizes(found, WIDE, 0) == [1]
    assert stack_jobs(alone).seconds == 4000.0
    assert stack_jobs([*alone, job("e", None)]).seconds is None


def test_cores_follow_from_threads_or_from_the_profiles_cores_a_gpu() -> None:
    assert group(job("a"), threads=3).cpus == 3
    assert group(job("a", gpus=2), profile={"cpus_per_gpu": 6}).cpus == 12
    # Four runs on one GPU share its cores as evenly as whole cores allow.
    assert group(job("a", gpus=1, pack=4), profile={"cpus_per_gpu": 6}).cpus == 8


def test_more_gpus_than_a_node_has_take_several_nodes_in_even_shares() -> None:
    wide = group(job("a", gpus=16), profile={"gpus_per_node": 8})
    assert (wide.nodes, wide.gpus) == (2, 16)
    uneven = group(job("a", gpus=9), profile={"gpus_per_node": 8})
    with pytest.raises(InputError, match="run a: 9 GPUs are no whole number for each of 2 nodes"):
        check_group(uneven, WIDE, {})


def test_a_run_of_several_processes_has_cores_for_each_and_evenly_on_its_nodes() -> None:
    two = group(job("a", nodes=2, processes=6, memory_gb=12.0), threads=2)
    assert (two.nodes, two.processes, two.cpus, two.cpus_per_node) == (2, 6, 12, 6)
    # Ten cores on two nodes are five each, and six where three processes share them evenly.
    assert group(job("a", nodes=2, processes=6, cpus=10)).cpus_per_node == 6
    # What takes several nodes takes them for itself.
    assert group(job("a", nodes=2, pack=4)).pack == 1
    assert group(job("a", processes=2, pack=4)).pack == 4
    uneven = group(job("a", gpus=8, processes=8), profile={"gpus_per_node": 3})
    with pytest.raises(InputError, match="run a: 8 GPUs are no whole number for each of 3 nodes"):
        check_group(uneven, WIDE, {})
    with pytest.raises(InputError, match="run a: 3 processes are no whole number for each of 2"):
        check_group(group(job("a", nodes=2, processes=3)), WIDE, {})


@pytest.mark.parametrize(
    ("seconds", "limits", "limit"),
    [
        ([1000.0, 2000.0], WIDE, 3120.0),  # 2000 x 1.5, and two minutes to start
        ([1.0], WIDE, 600.0),
        ([1e6], HOUR, 3600.0),
        ([None], HOUR, None),
        ([None, 1000.0], WIDE, 1620.0),
    ],
)
def test_auto_is_long_enough_for_the_longest_run_and_within_the_partition(
    seconds: Sequence[float | None], limits: Limits, limit: float | None
) -> None:
    jobs = [job(str(i), one) for i, one in enumerate(seconds)]
    assert group(*jobs, limits=limits, safety=1.5).limit == limit


def test_a_limit_that_is_given_stands_and_one_the_partition_forbids_is_refused() -> None:
    asked = group(job("a", 1e6, time_s=1800.0), limits=HOUR)
    assert asked.limit == 1800.0
    check_group(asked, HOUR, {})
    long = group(job("a", time_s=7200.0), limits=HOUR)
    with pytest.raises(InputError, match=r"run a: time.limit 120 minutes, this cluster allows 60"):
        check_group(long, HOUR, {})


@given(st.floats(60.0, 1e6))
def test_a_job_is_told_before_its_limit_and_has_most_of_its_time_before(limit: float) -> None:
    told = group(job("a", time_s=limit)).lead
    assert 15 <= told <= 120
    assert told <= limit / 4


def test_a_partitions_short_default_is_a_limit_like_one_that_is_asked_for() -> None:
    minute = Limits(array=1000, jobs=20_000, seconds=None, default_seconds=60.0, room=None)
    unknown = group(job("a", None), limits=minute)
    assert (unknown.limit, unknown.seconds, unknown.lead) == (None, 60.0, 15)
    endless = group(job("a", None))
    assert (endless.seconds, endless.lead) == (None, 120)


@given(
    n_runs=st.integers(1, 400),
    pack=st.integers(1, 9),
    array=st.integers(1, 50),
    room=st.none() | st.integers(1, 60),
    most=st.none() | st.integers(1, 20),
)
def test_the_arrays_fit_every_limit_and_there_is_always_a_worker(
    n_runs: int, pack: int, array: int, room: int | None, most: int | None
) -> None:
    limits = Limits(array, 300, None, None, room)
    made = group(*(job(f"r{i}", pack=pack) for i in range(n_runs)), limits=limits)
    full = -(-n_runs // pack)
    for n_to_come in (0, 3):
        sizes = Slurm(Settings(max_parallel=most))._sizes(made, limits, n_to_come)
        assert 1 <= sum(sizes) <= min(150, full)
        assert all(0 < size <= array for size in sizes)
        if room is not None:
            assert sum(sizes) <= max(1, room - n_to_come)
        if most is not None:
            assert len(sizes) == 1, "a throttle holds within one array"
        elif room is None:
            assert sum(sizes) == min(150, full)


SCONTROL = """#!/bin/bash
if [ "$2" = config ]; then echo 'MaxArraySize = 11'; exit; fi
echo 'PartitionName=main Default=YES MaxTime=2-00:00:00 DefaultTime=01:00:00'
echo 'PartitionName=short Default=NO MaxTime=01:00:00 DefaultTime=NONE'
echo 'PartitionName=low Default=NO MaxTime=UNLIMITED DefaultTime=NONE'
"""


@pytest.mark.parametrize(
    ("partition", "seconds", "default"),
    [
        (None, 172800, 3600),
        ("main", 172800, 3600),
        ("short", 3600, 3600),
        ("low", None, None),
        ("low,main", 172800, 3600),
        ("main,short", 3600, 3600),
    ],
)
def test_of_several_partitions_the_shortest_limits_hold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    partition: str | None,
    seconds: float | None,
    default: float | None,
) -> None:
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    limits = read_limits({"partition": partition})
    assert (limits.array, limits.seconds, limits.default_seconds) == (10, seconds, default)
    with pytest.raises(SystemTroubleError, match="partition 'lwo': not on this cluster; did you"):
        read_limits({"partition": "main,lwo"})


@pytest.mark.parametrize(
    ("gres", "gpus", "gpu"),
    [
        ("gpu:4", 4, "gpu"),
        ("gpu:a100:8(S:0-1)", 8, "a100"),
        ("gpu:3090:8", 8, "3090"),
        ("gpu:2080ti:4(S:0),shard:16", 4, "2080ti"),
        ("gpu:1g.5gb:7", 7, "1g.5gb"),
        ("shard:4,gpu:2,nic:1", 2, "gpu"),
        ("(null)", 0, ""),
    ],
)
def test_a_gpus_name_may_begin_with_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gres: str, gpus: int, gpu: str
) -> None:
    (tmp_path / "sinfo").write_text(f"#!/bin/bash\necho 'main*|{gres}|32+|64000|infinite|2'\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (only,) = read_partitions()
    assert (only.gpus, only.gpu, only.cpus) == (gpus, gpu, 32)
