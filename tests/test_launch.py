"""Launching: each missing run once, whatever was killed before; other sweeps are left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors.base import Job, Settings
from scalekit.executors.inline import Inline
from scalekit.executors.local import Local
from scalekit.launch.missing import find_missing
from scalekit.launch.submit import job_argv, submit
from scalekit.results.code import code_state
from scalekit.results.jobs import JobLog, read_submissions
from scalekit.results.plan import one_command
from scalekit.results.record import RecordWriter, read_record
from scalekit.results.states import scan_states
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Group

FAKE = Path(__file__).parent / "executors" / "fake_train.py"


def fake_argv(folder: SweepFolder, run: str) -> tuple[str, ...]:
    return (sys.executable, str(FAKE), str(folder.root), run)


@dataclass(frozen=True)
class Named:
    name: str

    def resolved_yaml(self) -> str:
        return f"scalekit: 1\nname: {self.name}\n"


@dataclass(frozen=True)
class Expansion:
    spec: Named
    runs: tuple[RunSpec, ...] = field(default=())


@pytest.fixture
def expansion(make_sweep):
    def make(n_runs: int, name: str = "demo", **fakes: dict[str, Any]) -> Expansion:
        lines = [make_sweep.plan_line(number) for number in range(n_runs)]
        for number, line in enumerate(lines):
            if f"r{number}" in fakes:
                line["config"]["train"]["fake"] = fakes[f"r{number}"]
        return Expansion(Named(name), tuple(RunSpec.from_json(line) for line in lines))

    return make


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "runs" / "demo")


def launch(expansion: Expansion, folder: SweepFolder, *, parallel: int = 2, **options: Any):
    executor = Local(Settings(max_parallel=parallel), grace_seconds=5.0)
    return submit(expansion, folder, executor, argv=fake_argv, **options)


def ids(expansion: Expansion) -> list[str]:
    return [spec.id for spec in expansion.runs]


def statuses(expansion: Expansion, folder: SweepFolder) -> list[str]:
    return [state.status for state in scan_states(folder, ids(expansion)).values()]


def attempts(folder: SweepFolder, run: str) -> int:
    return len(read_record(folder.record(run)).attempts)


def test_all_runs_are_trained_and_a_second_time_none(expansion, folder, capsys) -> None:
    sweep = expansion(3)
    outcome = launch(sweep, folder)
    assert statuses(sweep, folder) == ["done"] * 3
    assert (outcome.exit_code, len(outcome.started)) == (0, 3)
    assert set(outcome.codes.values()) == {0}
    before = {path: path.read_bytes() for path in folder.root.rglob("*.jsonl")}
    again = launch(sweep, folder)
    assert (again.started, again.exit_code) == ((), 0)
    assert {path: path.read_bytes() for path in folder.root.rglob("*.jsonl")} == before
    assert "3/3 done, 0 running" in capsys.readouterr().err


def test_the_folder_holds_the_sweep_and_one_plan_line_a_run(expansion, folder) -> None:
    sweep = expansion(2)
    launch(sweep, folder)
    assert folder.sweep_file.read_text() == "scalekit: 1\nname: demo\n"
    assert [RunSpec.from_json(line) for line in folder.plan_lines()] == list(sweep.runs)
    assert "attempt 1 of" in folder.log(ids(sweep)[0]).read_text()


def test_a_crash_and_a_divergence_do_not_stop_the_others(expansion, folder) -> None:
    sweep = expansion(4, r0={"crash": True}, r2={"end": "diverge"})
    outcome = launch(sweep, folder)
    assert statuses(sweep, folder) == ["stopped", "done", "diverged", "done"]
    assert outcome.codes[ids(sweep)[0]] == -signal.SIGKILL
    assert outcome.codes[ids(sweep)[2]] == 4
    assert outcome.crashed == (ids(sweep)[0],)
    assert outcome.exit_code == 4


def test_the_same_command_again_continues_what_crashed(expansion, folder) -> None:
    sweep = expansion(2, r0={"crash": True})
    launch(sweep, folder)
    line = sweep.runs[0].to_json()
    whole = {**line, "config": {**line["config"], "train": {}}}
    mended = Expansion(sweep.spec, (RunSpec.from_json(whole),))
    outcome = launch(Expansion(sweep.spec, (*mended.runs, sweep.runs[1])), folder)
    assert outcome.started == (ids(sweep)[0],)
    record = read_record(folder.record(ids(sweep)[0]))
    assert [attempt["resumed_from"] for attempt in record.attempts] == [0, 2]
    assert [line["step"] for line in record.evals] == [1, 2, 3, 4]


def test_a_failed_run_is_started_again_only_on_request_and_keeps_its_record(
    expansion, folder
) -> None:
    sweep = expansion(2, r1={"end": "fail", "fails": 1})
    assert launch(sweep, folder).exit_code == 4
    assert launch(sweep, folder).started == ()
    outcome = launch(sweep, folder, retry=("failed",))
    assert outcome.started == (ids(sweep)[1],)
    assert statuses(sweep, folder) == ["done", "done"]
    assert attempts(folder, ids(sweep)[1]) == 2


def test_a_diverged_run_is_tried_anew_and_its_old_record_is_kept(expansion, folder) -> None:
    sweep = expansion(1, r0={"end": "diverge"})
    launch(sweep, folder)
    run = ids(sweep)[0]
    old = folder.record(run).read_bytes()
    folder.checkpoints(run).mkdir(parents=True)
    launch(sweep, folder, retry=("diverged",))
    launch(sweep, folder, retry=("diverged",))
    kept = sorted((folder.root / "runs" / "superseded").iterdir())
    assert [path.name for path in kept] == [f"{run}.1.jsonl", f"{run}.2.jsonl"]
    assert kept[0].read_bytes() == old
    assert not folder.checkpoints(run).exists()
    assert attempts(folder, run) == 1


def test_force_starts_everything_anew_and_deletes_no_record(expansion, folder) -> None:
    sweep = expansion(2)
    launch(sweep, folder)
    old = [folder.record(run).read_bytes() for run in ids(sweep)]
    outcome = launch(sweep, folder, force=True)
    assert len(outcome.started) == 2
    kept = [folder.root / "runs" / "superseded" / f"{run}.1.jsonl" for run in ids(sweep)]
    assert [path.read_bytes() for path in kept] == old
    assert statuses(sweep, folder) == ["done", "done"]


def test_the_weights_of_a_record_that_is_replaced_are_not_those_of_the_new_one(
    expansion, folder
) -> None:
    """The new run may keep none, diverge or be stopped; exports and starts would not know."""
    sweep = expansion(1)
    launch(sweep, folder)
    (run,) = ids(sweep)
    folder.weights(run).parent.mkdir()
    folder.weights(run).write_bytes(b"old")
    launch(sweep, folder, force=True)
    assert not folder.weights(run).exists()
    assert (folder.root / "runs" / "superseded" / f"{run}.1.pt").read_bytes() == b"old"


def test_garbage_in_a_records_place_is_moved_aside_and_the_run_trained(expansion, folder) -> None:
    sweep = expansion(2)
    run = ids(sweep)[0]
    folder.record(run).parent.mkdir(parents=True)
    folder.record(run).write_bytes(b"\x00\xffnot a record\n")
    launch(sweep, folder)
    assert statuses(sweep, folder) == ["done", "done"]
    kept = folder.root / "runs" / "superseded" / f"{run}.1.jsonl"
    assert kept.read_bytes() == b"\x00\xffnot a record\n"


def test_a_record_cut_within_its_first_line_is_moved_aside_and_the_run_trained(
    expansion, folder
) -> None:
    sweep = expansion(1)
    run = ids(sweep)[0]
    folder.record(run).parent.mkdir(parents=True)
    folder.record(run).write_bytes(b'{"t": "run", "sch')
    launch(sweep, folder)
    assert statuses(sweep, folder) == ["done"]
    assert attempts(folder, run) == 1


def test_a_run_that_someone_trains_now_is_left_alone(expansion, folder) -> None:
    sweep = expansion(2)
    with RecordWriter(folder.record(ids(sweep)[0])) as record:
        record.write("run", schema="scalekit.run/1", id=ids(sweep)[0])
        outcome = launch(sweep, folder)
        assert outcome.started == (ids(sweep)[1],)
        assert outcome.count("running") == 1
        assert outcome.exit_code == 5


def test_two_commands_at_once_start_no_run_twice(expansion, folder) -> None:
    sweep = expansion(1)
    with (
        one_command(folder),
        pytest.raises(SystemTroubleError, match=f"another sweep command .*process {os.getpid()}"),
    ):
        launch(sweep, folder)
    assert not folder.plan_file.exists()
    launch(sweep, folder)
    assert statuses(sweep, folder) == ["done"]


def test_another_sweeps_folder_is_refused_and_untouched(expansion, folder) -> None:
    launch(expansion(2), folder)
    before = {path: path.read_bytes() for path in folder.root.rglob("*.*") if path.is_file()}
    with pytest.raises(InputError, match="holds the sweep 'demo', not 'other'"):
        launch(expansion(2, name="other"), folder)
    elsewhere = expansion(4)
    with pytest.raises(InputError, match="none of its 2 runs is in this sweep"):
        launch(Expansion(elsewhere.spec, elsewhere.runs[2:]), folder)
    assert {p: p.read_bytes() for p in folder.root.rglob("*.*") if p.is_file()} == before


def test_a_plan_may_grow_and_shrink_and_records_stay(expansion, folder) -> None:
    first, second = expansion(3), expansion(5)
    launch(first, folder)
    later = Expansion(second.spec, second.runs[1:])
    todo = find_missing(later.runs, folder)
    assert todo.vanished == (ids(first)[0],)
    assert [spec.id for spec in todo.start] == ids(second)[3:]
    assert (todo.n_finished, todo.n_running) == (2, 0)
    launch(later, folder)
    assert [line["id"] for line in folder.plan_lines()] == ids(second)[1:]
    assert folder.record(ids(first)[0]).exists()


def test_an_untrained_plan_may_be_replaced_whole(expansion, folder) -> None:
    four = expansion(4)
    folder.root.mkdir(parents=True)
    text = "".join(json.dumps(spec.to_json()) + "\n" for spec in four.runs[:2])
    folder.plan_file.write_text(text)
    launch(Expansion(four.spec, four.runs[2:]), folder)
    assert [line["id"] for line in folder.plan_lines()] == ids(four)[2:]


def test_the_intent_is_written_before_and_the_results_after(expansion, folder) -> None:
    sweep = expansion(2, r0={"end": "diverge"})
    launch(sweep, folder)
    (submission,) = read_submissions(folder)
    assert submission.intent["runs"] == ids(sweep)
    assert submission.intent["executor"] == "local"
    # The code of the command, to be compared with the code that trains.
    assert submission.intent["code"] == code_state()
    assert submission.codes == {ids(sweep)[0]: 4, ids(sweep)[1]: 0}
    assert set(submission.handles) == set(ids(sweep))
    assert submission.open_handles == {}
    assert submission.is_closed
    first = json.loads(submission.path.read_text().splitlines()[0])
    assert first["t"] == "intent"


def test_finding_what_is_missing_changes_nothing_on_disk(expansion, folder) -> None:
    todo = find_missing(expansion(3).runs, folder)
    assert len(todo.start) == 3
    assert not folder.root.exists()


def test_an_unwritable_folder_is_system_trouble(expansion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemTroubleError, match="choose another folder with --out"):
        launch(expansion(1), SweepFolder(tmp_path / "file" / "demo"))


class Keeping:
    """An executor that keeps what it is given."""

    in_foreground = False

    def check(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def start(self, jobs: Sequence[Job], watch: Any) -> None:
        pass


def test_a_run_that_shares_its_gpu_is_given_the_time_that_it_takes_there(expansion, folder) -> None:
    needs = ({"gpus": 1}, {"gpus": 1, "pack": 4}, {"pack": 4})
    plain = expansion(3)
    runs = [
        replace(run, plan={**run.plan, "estimate": 60.0}, resources=one)
        for run, one in zip(plain.runs, needs, strict=True)
    ]
    executor: Any = Keeping()
    known = {runs[0].id: 30.0}
    submit(
        replace(plain, runs=runs), folder, executor, kind="inline", seconds=known, argv=fake_argv
    )
    assert [job.seconds for job in executor.jobs] == [30.0, 240.0, 60.0]


def test_a_cancel_counts_whatever_the_clock_of_its_machine(expansion, folder, monkeypatch) -> None:
    class Late(Keeping):
        def start(self, jobs: Sequence[Job], watch: Any) -> None:
            now = time.time()
            with monkeypatch.context() as behind:
                behind.setattr(time, "time", lambda: now - 3600)
                JobLog(folder, "cancel").write("cancel", runs=[jobs[1].run])
            self.wanted = [watch.is_wanted(job) for job in jobs]

    sweep = expansion(2)
    first: Any = Late()
    second: Any = Late()
    submit(sweep, folder, first, kind="inline", argv=fake_argv)
    assert first.wanted == [True, False]
    # The sweep command that comes later starts it all the same.
    second.start = lambda jobs, watch: setattr(second, "wanted", list(map(watch.is_wanted, jobs)))
    submit(sweep, folder, second, kind="inline", argv=fake_argv)
    assert second.wanted == [True, True]


def test_the_inline_executor_leaves_the_same_folder(expansion, folder, capfd) -> None:
    sweep = expansion(2, r0={"end": "diverge"})
    outcome = submit(sweep, folder, Inline(Settings()), kind="inline", argv=fake_argv)
    assert statuses(sweep, folder) == ["diverged", "done"]
    assert outcome.codes == {ids(sweep)[0]: 4, ids(sweep)[1]: 0}
    assert "attempt 1 of" in capfd.readouterr().err
    assert read_submissions(folder)[0].is_closed


def test_the_inline_executor_refuses_more_nodes_than_there_are(expansion, folder) -> None:
    sweep = expansion(1)
    wide = replace(sweep.runs[0], resources={**sweep.runs[0].resources, "nodes": 2})
    with pytest.raises(InputError, match=r"resources\.nodes: 2, and this is one machine"):
        submit(Expansion(sweep.spec, (wide,)), folder, Inline(Settings()), argv=fake_argv)
    assert not folder.root.exists()


def test_a_jobs_command_line_is_the_train_command(folder) -> None:
    argv = job_argv(folder, "abc")
    assert argv[1:] == ("-m", "scalekit", "train", str(folder.root.absolute()), "abc")


COMMAND = f"""
import json, signal, sys
if sys.argv[3:]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_launch import Expansion, Named, launch
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Group
from pathlib import Path
runs = tuple(RunSpec.from_json(json.loads(l)) for l in Path(sys.argv[2]).read_text().splitlines())
try:
    sys.exit(launch(Expansion(Named("demo"), runs), SweepFolder(Path(sys.argv[1]))).exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_command(sweep: Expansion, folder: SweepFolder, *words: str) -> subprocess.Popen[str]:
    """Start the command; with any words as nohup does."""
    plan = folder.root.parent / "wanted.jsonl"
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_text("".join(json.dumps(spec.to_json()) + "\n" for spec in sweep.runs))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder.root), str(plan), *words],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_runs_save_and_the_same_command_continues(
    expansion, folder, number: int
) -> None:
    slow = {"seconds": 0.2}
    sweep = expansion(3, r0=slow, r1=slow, r2=slow)
    command = start_command(sweep, folder)
    wait_until(lambda: statuses(sweep, folder).count("running") == 2)
    command.send_signal(number)
    _, err = command.communicate(timeout=20)
    assert command.returncode == 130, err
    assert statuses(sweep, folder).count("stopped") == 2
    assert statuses(sweep, folder).count("pending") == 1
    (submission,) = read_submissions(folder)
    assert list(submission.codes.values()) == [143, 143]
    assert launch(sweep, folder, parallel=3).exit_code == 0
    began = [read_record(folder.record(run)).attempts for run in ids(sweep)]
    assert sorted(len(lines) for lines in began) == [1, 2, 2]


def test_a_command_that_nohup_started_does_not_end_by_a_hang_up(expansion, folder) -> None:
    sweep = expansion(3, r0={"seconds": 0.2})
    command = start_command(sweep, folder, "nohup")
    wait_until(lambda: "running" in statuses(sweep, folder))
    command.send_signal(signal.SIGHUP)
    _, err = command.communicate(timeout=20)
    assert command.returncode == 0, err
    assert statuses(sweep, folder) == ["done"] * 3


def test_a_killed_command_leaves_runs_that_the_next_one_does_not_start_twice(
    expansion, folder
) -> None:
    sweep = expansion(3, r0={"seconds": 1.0}, r1={"seconds": 1.0})
    command = start_command(sweep, folder)
    wait_until(lambda: statuses(sweep, folder).count("running") == 2)
    command.kill()
    command.communicate(timeout=20)
    running = [run for run, s in scan_states(folder, ids(sweep)).items() if s.status == "running"]
    outcome = launch(sweep, folder)
    assert len(running) == 2
    assert not set(outcome.started) & set(running)
    wait_until(lambda: statuses(sweep, folder) == ["done"] * 3)
    assert [attempts(folder, run) for run in ids(sweep)] == [1, 1, 1]


def test_a_run_deaf_to_signals_is_killed_after_the_grace_time(expansion, folder) -> None:
    sweep = expansion(1, r0={"seconds": 30.0, "deaf": True})
    command = start_command(sweep, folder)
    wait_until(lambda: statuses(sweep, folder) == ["running"])
    wait_until(lambda: folder.log(ids(sweep)[0]).read_text() != "")
    command.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    command.send_signal(signal.SIGTERM)  # twice: now, instead of after the grace time
    command.communicate(timeout=4)
    assert command.returncode == 130
    assert read_submissions(folder)[0].codes == {ids(sweep)[0]: -signal.SIGKILL}


def test_the_runs_of_a_stack_are_one_process_and_each_has_its_own_end(expansion, folder) -> None:
    sweep = expansion(4, r1={"end": "diverge"})
    first, second, third, fourth = ids(sweep)
    outcome = launch(sweep, folder, stacks=[Group((first, second, third))])
    assert statuses(sweep, folder) == ["done", "diverged", "done", "done"]
    assert outcome.codes == {first: 0, second: 4, third: 0, fourth: 0}
    assert outcome.crashed == ()
    assert sorted(outcome.started) == sorted(ids(sweep))
    assert [folder.log(run).exists() for run in ids(sweep)] == [True, False, False, True]
    (submission,) = read_submissions(folder)
    assert submission.handles[first] == submission.handles[third] != submission.handles[fourth]
    assert submission.stack_of(third) == (first, second, third)
    assert submission.stack_of(fourth) == (fourth,)
    assert launch(sweep, folder, stacks=[Group((first, second, third))]).started == ()


def test_a_stack_that_crashes_leaves_every_run_to_be_continued(expansion, folder) -> None:
    sweep = expansion(3, r1={"crash": True})
    outcome = launch(sweep, folder, stacks=[Group(tuple(ids(sweep)))])
    assert statuses(sweep, folder) == ["done", "stopped", "pending"]
    assert outcome.crashed == tuple(ids(sweep)[1:])
    assert outcome.exit_code == 4
    todo = find_missing(sweep.runs, folder)
    assert [spec.id for spec in todo.start] == ids(sweep)[1:]
