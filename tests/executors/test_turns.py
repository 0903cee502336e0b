"""Jobs that wait for another, in every executor that starts them itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_local import Notes
from test_slurm_worker import Stage, wait_until

from scalekit.executors._slurm_board import RUNNING, Folder, open_board
from scalekit.executors._slurm_limits import Limits
from scalekit.executors._slurm_manifest import write_manifest
from scalekit.executors._slurm_options import group_jobs
from scalekit.executors._turns import holds_checkpoint
from scalekit.executors.base import Job, Settings
from scalekit.executors.inline import Inline
from scalekit.executors.local import Local
from scalekit.executors.slurm import Slurm

RUN = """
import json, sys, time
from pathlib import Path
place, before, checkpoint, after, code = sys.argv[1:6]
began = time.time()
time.sleep(float(before))
if checkpoint != "-":
    Path(checkpoint).mkdir()
    (Path(checkpoint) / "step-000000006.pt").write_text("")
saved = time.time()
time.sleep(float(after))
Path(place).write_text(json.dumps({"began": began, "saved": saved, "ended": time.time()}))
sys.exit(int(code))
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = tmp_path / "run.py"
    script.write_text(RUN)

    def job(
        name: str, *, before: float = 0.0, saves_for: str = "", then: float = 0.0, code: int = 0,
        after: str = "", flops: float = 1.0,
    ) -> Job:  # fmt: skip
        place = str(tmp_path / f"{saves_for}.checkpoints") if saves_for else "-"
        words = (str(tmp_path / name), str(before), place, str(then), str(code))
        return Job(
            name,
            (sys.executable, str(script), *words),
            tmp_path / "logs" / name,
            {},
            flops,
            after=after,
            needs=tmp_path / f"{name}.checkpoints" if after else None,
        )

    return job


def found(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / name).read_text())


def start(kind: type, jobs: Sequence[Job], unwanted: Sequence[str] = ()) -> Notes:
    notes = Notes(unwanted)
    kind(Settings(max_parallel=2)).start(jobs, notes)
    return notes


IN_FOREGROUND = pytest.mark.parametrize("kind", [Inline, Local])


def test_a_branch_starts_when_its_trunk_has_saved_for_it_and_not_before(make, tmp_path):
    trunk = make("trunk", before=0.4, saves_for="branch", then=1.5)
    # The branch is dearer, so that it would go first.
    notes = start(Local, [make("branch", after="trunk", flops=9.0), trunk])
    assert notes.codes == {"trunk": 0, "branch": 0}
    told, branch = found(tmp_path, "trunk"), found(tmp_path, "branch")
    assert told["saved"] <= branch["began"] < told["ended"]


@IN_FOREGROUND
def test_a_branch_for_which_nothing_was_saved_follows_its_trunk(make, tmp_path, kind):
    notes = start(kind, [make("branch", after="trunk"), make("other"), make("trunk", before=0.3)])
    assert notes.codes == {"trunk": 0, "branch": 0, "other": 0}
    assert found(tmp_path, "trunk")["ended"] <= found(tmp_path, "branch")["began"]


@IN_FOREGROUND
@pytest.mark.parametrize(("code", "starts"), [(4, True), (1, False), (5, False)])
def test_a_branch_is_left_when_its_trunk_has_no_end(make, kind, code, starts):
    notes = start(kind, [make("branch", after="trunk"), make("trunk", code=code), make("other")])
    assert notes.codes == {"trunk": code, "other": 0} | ({"branch": 0} if starts else {})


@IN_FOREGROUND
def test_branches_of_a_cancelled_trunk_are_not_started(make, kind):
    jobs = [make("branch", after="trunk"), make("trunk"), make("other")]
    assert start(kind, jobs, unwanted=["trunk"]).codes == {"other": 0}


@IN_FOREGROUND
def test_what_an_earlier_attempt_saved_lets_a_branch_start_at_once(make, tmp_path, kind):
    (tmp_path / "branch.checkpoints").mkdir()
    (tmp_path / "branch.checkpoints" / "step-000000006.pt").write_text("")
    jobs = [make("branch", after="trunk", flops=9.0), make("trunk", before=0.3)]
    start(kind, jobs)
    assert found(tmp_path, "branch")["began"] < found(tmp_path, "trunk")["ended"]


def test_half_a_checkpoint_is_none(tmp_path):
    assert not holds_checkpoint(tmp_path / "missing")
    (tmp_path / ".step-000000006.pt.77.tmp").write_text("")
    assert not holds_checkpoint(tmp_path)
    (tmp_path / "step-000000006.pt").write_text("")
    assert holds_checkpoint(tmp_path)


# --- Slurm: the trunk is r1, its branches r0 and r2 -----------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "bin").mkdir()
    return Stage(Folder(tmp_path / "slurm" / "demo-1"), tmp_path / "bin", tmp_path)


def plan(stage: Stage, trunk: dict[str, Any], *, pack: int = 1) -> None:
    stage.plan({}, trunk, {}, pack=pack)
    header, jobs = stage.folder.read()
    for job in (jobs[0], jobs[2]):
        job |= {"after": "r1", "needs": f"checkpoints/{job['run']}"}
    lines = [json.dumps(header), *map(json.dumps, jobs)]
    stage.folder.manifest.write_text("\n".join(lines) + "\n")


def save_for(stage: Stage, run: str) -> None:
    place = stage.root / "checkpoints" / run
    place.mkdir(parents=True)
    (place / "step-000000006.pt").write_text("")


def test_a_worker_trains_a_trunk_and_then_its_branches(stage: Stage) -> None:
    plan(stage, {"takes": 0.3})
    assert stage.run() == 0
    assert stage.began() == ["r1", "r0", "r2"]
    assert stage.states() == "ddd"
    assert not stage.is_requeued


def test_a_worker_with_room_takes_a_branch_beside_its_trunk(stage: Stage) -> None:
    plan(stage, {"takes": 8.0}, pack=2)
    process = stage.start()
    wait_until(lambda: stage.began() == ["r1"])
    save_for(stage, "r2")
    wait_until(lambda: stage.began() == ["r1", "r2"])
    assert stage.states()[1] == RUNNING
    assert process.wait(timeout=60) == 0
    assert stage.began() == ["r1", "r2", "r0"]


@pytest.mark.parametrize(("code", "states"), [(4, "dfd"), (1, ".f.")])
def test_a_worker_leaves_branches_whose_trunk_has_no_end(stage: Stage, code, states) -> None:
    plan(stage, {"code": code})
    assert stage.run() == 4
    assert stage.states() == states
    assert not stage.is_requeued


def test_a_worker_does_not_wait_for_the_trunk_of_another(stage: Stage) -> None:
    plan(stage, {})
    with open_board(stage.folder, "7_9") as other:
        assert other.claim([1]) == 1
        began = time.monotonic()
        assert stage.run() == 0
    assert time.monotonic() - began < 30
    assert stage.states() == ".r."
    assert not stage.is_requeued


def test_branches_of_a_cancelled_trunk_stay_on_the_board(stage: Stage) -> None:
    plan(stage, {})
    stage.folder.cancel(["r1"])
    assert stage.run() == 0
    assert stage.states() == "..."
    assert not stage.is_requeued


def test_an_array_has_a_worker_a_trunk_and_the_manifest_says_who_waits(make, tmp_path) -> None:
    jobs = [make(f"t{i}") for i in range(3)]
    jobs += [make(f"b{i}{k}", after=f"t{i}") for i in range(3) for k in range(4)]
    settings, limits = Settings(folder=tmp_path / "slurm"), Limits(1001, 10000, None, None, None)
    (group,) = group_jobs(jobs, settings, limits)
    assert Slurm(settings)._sizes(group, limits, 0) == [3]
    folder = Folder(tmp_path / "slurm" / "demo")
    write_manifest(folder, group, settings, tmp_path)
    _, lines = folder.read()
    waits = {line["run"]: (line.get("after"), line.get("needs")) for line in lines}
    assert waits["b10"] == ("t1", "b10.checkpoints")
    assert waits["t1"] == (None, None)
