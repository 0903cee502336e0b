"""Launching ladders: which branches are handed over, after which trunk, and which are held."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_launch import Expansion, Named, fake_argv, launch, statuses

from scalekit.errors import NOT_FINISHED, OK, REFUSED, RUNS_FAILED
from scalekit.executors.base import Handle, Job, JobState, Placed, Watch
from scalekit.launch.missing import find_missing
from scalekit.launch.submit import submit
from scalekit.results.record import RecordWriter, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec

STEP = 30


@pytest.fixture
def runs(make_sweep) -> tuple[RunSpec, ...]:
    """Two branches and their trunk, then a run by itself."""
    first, second, trunk, other = [
        RunSpec.from_json(make_sweep.plan_line(number)) for number in range(4)
    ]
    branches = [
        replace(run, plan={**run.plan, "parent": trunk.id, "branch_step": STEP})
        for run in (first, second)
    ]
    return (*branches, trunk, other)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "runs" / "demo")


@pytest.fixture
def record(make_sweep):
    """Write a run's record with an end, or without one."""

    def write(folder: SweepFolder, run: RunSpec, status: str | None) -> None:
        make_sweep.write_record(folder, run.to_json(), status)

    return write


class Seen:
    """An executor that only looks."""

    in_foreground = True

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def check(self, jobs: Sequence[Job]) -> None:
        pass

    def start(self, jobs: Sequence[Job], watch: Watch) -> None:
        self.jobs += jobs

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        return [JobState("gone") for _ in placed]

    def release(self, placed: Sequence[Placed]) -> list[str]:
        return []

    def cancel(self, placed: Sequence[tuple[str, Handle]]) -> list[str]:
        return []


def save_for(folder: SweepFolder, run: RunSpec) -> Path:
    place = folder.checkpoints(run.id)
    place.mkdir(parents=True)
    (place / f"step-{STEP:09d}.pt").write_text("")
    return place


def started(todo) -> list[str]:
    return [spec.id for spec in todo.start]


def test_branches_are_handed_over_after_their_trunk(runs, folder):
    seen = Seen()
    submit(Expansion(Named("demo"), runs), folder, seen, argv=fake_argv)
    first, _, trunk, other = seen.jobs
    assert [job.after for job in seen.jobs] == [runs[2].id] * 2 + ["", ""]
    assert first.needs == folder.checkpoints(first.run)
    assert (trunk.needs, other.needs) == (None, None)
    # A branch costs the steps after its branch step, 10 of 40 here.
    whole = runs[0].plan["flops"]["exact"]
    assert first.flops == pytest.approx(whole / 4)


def test_every_run_of_a_ladder_is_trained_once(runs, folder):
    expansion = Expansion(Named("demo"), runs)
    assert launch(expansion, folder).exit_code == OK
    began = [read_record(folder.record(r.id)).attempts[0]["began"] for r in runs]
    assert began[2] < min(began[0], began[1])
    assert launch(expansion, folder).started == ()


def test_a_branch_follows_a_trunk_that_has_ended(runs, folder, record):
    for status in ("done", "diverged", "pruned"):
        folder = SweepFolder(folder.root / status)
        record(folder, runs[2], status)
        todo = find_missing(runs, folder)
        assert started(todo) == [runs[0].id, runs[1].id, runs[3].id]
        assert not todo.held


def test_a_branch_is_held_while_someone_else_trains_its_trunk(runs, folder, record):
    record(folder, runs[2], None)
    save_for(folder, runs[1])
    with RecordWriter(folder.record(runs[2].id)):
        todo = find_missing(runs, folder)
    # The second has what it needs already.
    assert started(todo) == [runs[1].id, runs[3].id]
    assert todo.held == {runs[0].id}


def test_branches_of_a_failed_trunk_are_held_until_it_is_tried_again(runs, folder, record):
    record(folder, runs[2], "failed")
    record(folder, runs[3], "done")
    expansion = Expansion(Named("demo"), runs)
    outcome = launch(expansion, folder)
    assert outcome.started == ()
    assert outcome.held == {runs[0].id, runs[1].id}
    assert outcome.exit_code == RUNS_FAILED
    assert statuses(expansion, folder) == ["pending", "pending", "failed", "done"]
    assert launch(expansion, folder, retry=["failed"]).exit_code == OK


def test_branches_hide_no_more_that_their_trunk_failed_just_now(runs, folder):
    """Weights to start from that are refused have a code of their own, which lets none begin."""
    train = {**runs[2].config["train"], "fake": {"end": "fail", "code": REFUSED}}
    trunk = replace(runs[2], config={**runs[2].config, "train": train})
    expansion = Expansion(Named("demo"), (*runs[:2], trunk, runs[3]))
    assert launch(expansion, folder).exit_code == RUNS_FAILED
    assert statuses(expansion, folder) == ["pending", "pending", "failed", "done"]
    assert launch(expansion, folder).exit_code == RUNS_FAILED


def test_a_held_branch_does_not_hide_that_something_still_runs(runs, folder, record):
    record(folder, runs[2], None)
    with RecordWriter(folder.record(runs[2].id)):
        outcome = launch(Expansion(Named("demo"), runs), folder)
    assert outcome.held == {runs[0].id, runs[1].id}
    assert outcome.exit_code == NOT_FINISHED


def test_starting_anew_drops_what_the_old_trunk_saved(runs, folder, record):
    record(folder, runs[2], "done")
    place = save_for(folder, runs[0])
    expansion = Expansion(Named("demo"), runs)
    submit(expansion, folder, Seen(), argv=fake_argv)
    assert place.exists()
    submit(expansion, folder, Seen(), argv=fake_argv, force=True)
    assert not place.exists()


def test_a_plan_on_disk_says_parent_and_branch_step(runs, folder):
    submit(Expansion(Named("demo"), runs), folder, Seen(), argv=fake_argv)
    lines = [json.loads(line) for line in folder.plan_file.read_text().splitlines()]
    assert [line["plan"].get("parent") for line in lines] == [runs[2].id] * 2 + [None] * 2
    assert [line["plan"].get("branch_step") for line in lines] == [STEP, STEP, None, None]
