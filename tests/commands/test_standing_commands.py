"""`status`, `logs`, `cancel`, `wait`: what they say of a sweep, and how they exit."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from scalekit import registry
from scalekit.cli import run
from scalekit.errors import SystemTroubleError
from scalekit.executors._process import process_handle
from scalekit.executors.base import JobState, Placed, Settings
from scalekit.launch.missing import find_missing
from scalekit.results.jobs import SCHEMA, JobLog, list_cancels, read_cancels
from scalekit.results.record import RecordWriter
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec

FAKE = Path(__file__).parent.parent / "executors" / "fake_train.py"


def begin(
    folder: SweepFolder,
    runs: list[str],
    *,
    command: int | None = None,
    stacks: Sequence[Sequence[str]] = (),
) -> JobLog:
    """Note a submission as the sweep command does; without `command`, of one that is gone."""
    log = JobLog(folder)
    handle = process_handle(command) if command else {**process_handle(os.getpid()), "born": "x"}
    what = {"schema": SCHEMA, "executor": "local", "runs": runs, "stacks": stacks}
    log.write("intent", command=handle, **what)
    return log


def start_run(
    folder: SweepFolder, lines: list, number: int, log: JobLog
) -> subprocess.Popen[bytes]:
    """Start a slow stand-in for a run, in a process group of its own, and note it."""
    run_id = lines[number]["id"]
    process = subprocess.Popen(
        [sys.executable, str(FAKE), str(folder.root), run_id],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    log.write("started", runs=[run_id], handle=process_handle(process.pid))
    wait_until(lambda: folder.record(run_id).exists() and folder.record(run_id).stat().st_size)
    return process


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def slow_sweep(make_sweep):
    """A sweep whose runs take half a second a step."""
    folder, lines = make_sweep(3)
    for line in lines:
        line["config"]["train"]["fake"] = {"seconds": 0.5}
    folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, lines


def status_json(folder: SweepFolder, capsys, *words: str) -> dict:
    assert run(["status", str(folder.root), "--format", "json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_counts_every_state(make_sweep, capsys) -> None:
    folder, lines = make_sweep(
        7, r0="done", r1="diverged", r2="pruned", r3="failed", r4=None, r5="done"
    )
    folder.record(lines[5]["id"]).write_text("garbage\n")
    report = status_json(folder, capsys)
    assert report["schema"] == "scalekit.status/1"
    assert report["counts"] == {
        "done": 1,
        "diverged": 1,
        "pruned": 1,
        "failed": 1,
        "stopped": 1,
        "pending": 1,
        "unreadable": 1,
    }
    assert [row["status"] for row in report["runs"]] == [
        *("done", "diverged", "pruned", "failed", "stopped", "unreadable", "pending"),
    ]
    assert report["device_s"] == 12.0


def test_status_adds_up_what_ended_runs_cost_and_says_what_is_unknown(make_sweep, capsys) -> None:
    folder, lines = make_sweep(3, r0="done", r1="failed", r2="done")
    costs = {
        0: {"device_s": 60.0, "startup_s": 6.0, "eval_s": 3.0, "mfu": 0.4, "energy_j": 1.8e6},
        1: {"device_s": 40.0, "startup_s": 4.0, "eval_s": 2.0, "mfu": 0.5, "energy_j": 1.8e6},
    }
    for number, cost in costs.items():
        with RecordWriter(folder.record(lines[number]["id"])) as record:
            wall = cost["device_s"] - cost["startup_s"]
            record.write("end", status="done", tokens_per_second=2000.0, wall_s=wall, **cost)
    folder.sweep_file.write_text("profile: {grid_intensity: 300, pue: 2}\n")
    report = status_json(folder, capsys)
    assert report["device_s"] == 103.0
    assert report["lost_s"] == {"startup_s": 10.0, "eval_s": 5.0}
    assert (report["energy_j"], report["n_energy"]) == (3.6e6, 2)
    assert report["co2e_kg"] == pytest.approx(2 * 0.3)
    assert report["mfu"] == 0.4
    assert run(["status", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert "0.0286 device hours used: 9.7 % start-up, 4.9 % evaluation\n" in out
    assert (
        "2k tokens/s (median); MFU 40.0%; energy 1 kWh, 0.6 kg CO2e at PUE 2 and 300 g/kWh, "
        "1 of 3 runs unknown\n"
    ) in out


def test_status_calls_energy_unknown_that_nothing_measured(make_sweep, capsys) -> None:
    folder, _ = make_sweep(1, r0="done")
    assert status_json(folder, capsys)["energy"] == "unknown"
    assert run(["status", str(folder.root)]) == 0
    assert "MFU 10.0%; energy unknown\n" in capsys.readouterr().out


def test_status_sees_a_writer_at_work(make_sweep, capsys) -> None:
    folder, lines = make_sweep(1)
    path = make_sweep.write_record(folder, lines[0], None, stop_at=20)
    with RecordWriter(path):
        (row,) = status_json(folder, capsys)["runs"]
        assert (row["status"], row["step"], row["steps"]) == ("running", 20, 40)
    assert status_json(folder, capsys)["runs"][0]["status"] == "stopped"


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_status_knows_how_far_a_run_came_that_did_not_end_well(
    make_sweep, capsys, status: str
) -> None:
    """Its end line names no step, and what a run failed of may be long."""
    folder, lines = make_sweep(1)
    path = make_sweep.write_record(folder, lines[0], None, stop_at=20)
    with RecordWriter(path) as record:
        record.write("end", status=status, wall_s=3.0, device_s=3.0, traceback="x" * 9000)
    found = status_json(folder, capsys)
    assert (found["runs"][0]["status"], found["runs"][0]["step"]) == (status, 20)
    assert found["flops_done"] == found["flops_planned"] / 2


def test_the_table_for_people_has_counts_and_runs(make_sweep, capsys) -> None:
    folder, lines = make_sweep(2, r0="done")
    assert run(["status", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert "2 runs: 1 done, 1 pending" in out
    assert lines[0]["id"] in out
    assert "40 of 40" in out


def test_a_large_sweep_shows_only_what_needs_eyes_and_says_so(make_sweep, capsys) -> None:
    folder, lines = make_sweep(60, r7="diverged", r8="done")
    assert run(["status", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert lines[7]["id"] in out
    assert lines[8]["id"] not in out
    assert "and 59 more" in out
    assert run(["status", str(folder.root), "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 60


def test_failed_lists_only_troubles_with_their_reason(make_sweep, capsys) -> None:
    folder, lines = make_sweep(4, r0="done", r1=None, r3=None)
    with RecordWriter(folder.record(lines[3]["id"])) as record:
        record.write("end", status="failed", error="OutOfMemoryError: 8 GB asked\nmore")
    log = begin(folder, [lines[1]["id"]])
    log.write("ended", runs=[lines[1]["id"]], code=-9)
    rows = status_json(folder, capsys, "--failed")["runs"]
    assert [(row["run"], row["why"]) for row in rows] == [
        (lines[1]["id"], "killed by signal 9"),
        (lines[3]["id"], "OutOfMemoryError: 8 GB asked"),
    ]


class Queue:
    """An executor in whose queue every run waits for one reason."""

    in_foreground = False

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.folder

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        return [JobState(handle["word"], handle["why"]) for _, handle in placed]


def put_in_queue(folder: SweepFolder, runs: list[str], word: str, why: str) -> None:
    log = JobLog(folder)
    handle = {**process_handle(os.getpid()), "born": "x"}
    log.write("intent", schema=SCHEMA, executor="queue", command=handle, runs=runs)
    log.write("started", runs=runs, handle={"word": word, "why": why})


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    find = registry.find
    monkeypatch.setattr(
        registry, "find", lambda family, name: Queue if name == "queue" else find(family, name)
    )


@pytest.mark.usefixtures("queue")
def test_runs_that_wait_are_no_failures_and_their_reasons_are_counted(make_sweep, capsys) -> None:
    folder, lines = make_sweep(60, r0="done", r1=None)
    ids = [line["id"] for line in lines]
    put_in_queue(folder, ids[1:50], "pending", "job 7 waits: Priority")
    put_in_queue(folder, ids[50:], "pending", "job 8 waits: Resources")
    assert run(["status", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert "60 runs: 1 done, 1 requeued, 58 pending" in out
    assert "48 x job 7 waits: Priority\n10 x job 8 waits: Resources\nand 59 more" in out
    assert ids[1] in out
    assert ids[2] not in out
    assert status_json(folder, capsys, "--failed")["runs"] == []


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("trunk", "fate"),
    [("", ""), ("failed", ", which is failed"), ("stopped", ", which is stopped"), ("done", None)],
)
def test_a_branch_that_waits_for_its_trunk_says_so(
    make_sweep, capsys, trunk: str, fate: str | None
) -> None:
    written = {"": {}, "stopped": {"r0": None}}.get(trunk, {"r0": trunk})
    folder, lines = make_sweep(4, **written)
    ids = [line["id"] for line in lines]
    for line in lines[1:3]:
        line["plan"] |= {"parent": ids[0], "branch_step": 30}
    folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    queued = ids if trunk == "" else ids[1:]
    put_in_queue(folder, queued, "pending", "job 7 waits: Priority")
    saved = folder.checkpoints(ids[2])
    saved.mkdir(parents=True)
    (saved / "step-000000030.pt").write_text("")
    rows = {row["run"]: row for row in status_json(folder, capsys)["runs"]}
    told = [rows[run]["why"] for run in ids[1:]]
    waits = "job 7 waits: Priority" if fate is None else f"waits for its trunk {ids[0]}{fate}"
    # The second has what it needs already, the third is no branch.
    assert told == [waits, "job 7 waits: Priority", "job 7 waits: Priority"]


@pytest.mark.usefixtures("queue")
def test_a_scheduler_that_does_not_answer_is_said_and_a_run_may_wait_there(
    make_sweep, capsys
) -> None:
    folder, lines = make_sweep(1)
    put_in_queue(folder, [lines[0]["id"]], "unknown", "squeue: no answer")
    assert run(["status", str(folder.root)]) == 0
    assert "a scheduler does not answer: squeue: no answer" in capsys.readouterr().err
    assert run(["wait", str(folder.root), "--timeout", "0"]) == 5
    with pytest.raises(SystemTroubleError, match="nobody knows which of them still wait"):
        find_missing([RunSpec.from_json(line) for line in lines], folder)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ({"r0": "done", "r1": "done"}, 0),
        ({"r0": "done", "r1": "pruned"}, 0),
        ({"r0": "done", "r1": "diverged"}, 4),
        ({"r0": "done", "r1": "failed"}, 4),
        ({"r0": "failed"}, 5),
        ({"r0": "done", "r1": None}, 5),
        ({}, 5),
    ],
)
def test_check_exits_by_how_the_sweep_stands(make_sweep, statuses, code: int) -> None:
    folder, _ = make_sweep(2, **statuses)
    assert run(["status", str(folder.root), "--check"]) == code
    assert run(["status", str(folder.root)]) == 0
    assert run(["wait", str(folder.root)]) == code


@pytest.mark.parametrize(("trunk", "code"), [("failed", 4), ("stopped", 5)])
def test_branches_that_wait_for_their_trunk_end_as_it_stands(
    make_sweep, capsys, trunk: str, code: int
) -> None:
    """The sweep command leaves them alone until a trunk that failed is tried again: it says 4."""
    folder, lines = make_sweep(3, r0="failed" if trunk == "failed" else None)
    for line in lines[1:]:
        line["plan"] |= {"parent": lines[0]["id"], "branch_step": 30}
    folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["status", str(folder.root), "--check"]) == code
    assert run(["wait", str(folder.root)]) == code
    told = capsys.readouterr()
    assert f"3 runs: 1 {trunk}, 2 pending" in told.out
    assert ("it continues" in told.err) == (code == 5)


def test_status_of_no_sweep_is_refused(tmp_path: Path, capsys) -> None:
    assert run(["status", str(tmp_path)]) == 3
    assert "no plan.jsonl" in capsys.readouterr().err


def test_status_loads_nothing_heavy(make_sweep) -> None:
    folder, _ = make_sweep(2, r0="done")
    heavy = ("torch", "pandas", "scipy", "matplotlib", "numpy")
    code = (
        "import sys; from scalekit.cli import run; run(['status', sys.argv[1]]); "
        f"print(*[m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.root)], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == []


def test_logs_show_the_last_lines_of_a_run_named_by_its_beginning(make_sweep, capsys) -> None:
    folder, lines = make_sweep(2)
    folder.log(lines[1]["id"]).parent.mkdir()
    folder.log(lines[1]["id"]).write_text("".join(f"line {i}\n" for i in range(30_000)))
    assert run(["logs", str(folder.root), lines[1]["id"], "-n", "2"]) == 0
    assert capsys.readouterr().out == "line 29998\nline 29999\n"
    assert run(["logs", str(folder.root), "000", "-n", "2"]) == 2
    assert "begins 2 ids" in capsys.readouterr().err
    assert run(["logs", str(folder.root), "zzz"]) == 2
    assert run(["logs", str(folder.root), lines[0]["id"]]) == 3
    assert "no log, the run is pending" in capsys.readouterr().err
    assert run(["logs", str(folder.root)]) == 2


def test_logs_of_failures_show_crashes_and_ends_but_no_one_else(make_sweep, capsys) -> None:
    folder, lines = make_sweep(4, r0="done", r1="failed", r2=None)
    ids = [line["id"] for line in lines]
    folder.log(ids[0]).parent.mkdir()
    for run_id in ids[:3]:
        folder.log(run_id).write_text(f"early\nlast words of {run_id}")
    log = begin(folder, ids)
    log.write("ended", runs=[ids[2]], code=1)
    assert run(["logs", str(folder.root), "--failed", "-n", "1"]) == 0
    assert capsys.readouterr().out == (
        f"==> {ids[1]} failed\nlast words of {ids[1]}\n"
        f"==> {ids[2]} stopped, exit code 1\nlast words of {ids[2]}\n"
    )


def test_a_run_that_crashed_before_it_had_a_record_is_among_the_failures(
    make_sweep, capsys
) -> None:
    folder, lines = make_sweep(60)
    run_id = lines[50]["id"]
    log = begin(folder, [run_id])
    log.write("ended", runs=[run_id], code=1)
    folder.log(run_id).parent.mkdir()
    folder.log(run_id).write_text("no module named torch\n")
    (row,) = status_json(folder, capsys, "--failed")["runs"]
    assert (row["run"], row["status"], row["why"]) == (run_id, "pending", "exit code 1")
    assert run(["status", str(folder.root)]) == 0
    assert run_id in capsys.readouterr().out
    assert run(["logs", str(folder.root), "--failed"]) == 0
    said = capsys.readouterr().out
    assert said == f"==> {run_id} pending, exit code 1\nno module named torch\n"


def test_following_a_log_ends_with_the_run_and_misses_nothing(make_sweep, capsys) -> None:
    folder, lines = make_sweep(1, r0=None)
    path, run_id = folder.log(lines[0]["id"]), lines[0]["id"]
    path.parent.mkdir()
    path.write_text("one\n")

    def work() -> None:
        with RecordWriter(folder.record(run_id)) as record, path.open("a") as log:
            held.set()
            for word in ("two", "three"):
                time.sleep(0.3)
                log.write(f"{word}\n")
                log.flush()
            record.write("end", status="done")

    held = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    held.wait()
    assert run(["logs", str(folder.root), run_id, "-f"]) == 0
    thread.join()
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_following_a_run_that_nothing_will_start_ends(make_sweep, capsys) -> None:
    folder, lines = make_sweep(2)
    ids = [line["id"] for line in lines]
    log = begin(folder, ids[:1])
    log.write("ended", runs=ids[:1], code=1)
    folder.log(ids[0]).parent.mkdir()
    folder.log(ids[0]).write_text("no module named torch\n")
    assert run(["logs", str(folder.root), ids[0], "-f"]) == 0
    out, err = capsys.readouterr()
    assert out == "no module named torch\n"
    assert "pending, and nothing is to start it" in err
    assert run(["logs", str(folder.root), ids[1], "-f"]) == 3
    assert "no log, the run is pending" in capsys.readouterr().err


def test_logs_of_a_run_of_a_stack_are_in_the_log_of_its_first(make_sweep, capsys) -> None:
    folder, lines = make_sweep(3)
    ids = [line["id"] for line in lines]
    folder.log("x").parent.mkdir()
    begin(folder, ids)
    folder.log(ids[1]).write_text("alone\n")
    begin(folder, ids, stacks=[ids[:2]])
    # Nothing began of the newest: what it printed before is what there is.
    assert run(["logs", str(folder.root), ids[1]]) == 0
    folder.log(ids[0]).write_text("stacked\n")
    assert run(["logs", str(folder.root), ids[1]]) == 0
    assert capsys.readouterr().out == "alone\nstacked\n"
    assert run(["logs", str(folder.root), ids[2]]) == 3
    assert f"{ids[2]}.log: no log, the run is pending" in capsys.readouterr().err


def test_cancel_stops_an_orphaned_run_which_saves_first(slow_sweep, capsys) -> None:
    folder, lines = slow_sweep
    log = begin(folder, [line["id"] for line in lines])
    processes = [start_run(folder, lines, number, log) for number in (0, 1)]
    assert run(["cancel", str(folder.root), lines[0]["id"]]) == 0
    assert "asked 1 run to save and stop" in capsys.readouterr().out
    assert processes[0].wait(timeout=10) == 143
    assert processes[1].poll() is None
    assert read_cancels(list_cancels(folder)) == {lines[0]["id"]}
    assert run(["cancel", str(folder.root)]) == 0
    assert processes[1].wait(timeout=10) == 143
    assert run(["cancel", str(folder.root)]) == 0
    assert "none of these runs is being executed" in capsys.readouterr().err


def test_cancel_of_one_run_of_a_stack_stops_its_whole_process_and_says_so(
    slow_sweep, capsys
) -> None:
    folder, lines = slow_sweep
    ids = [line["id"] for line in lines]
    log = begin(folder, ids, stacks=[ids[:2]])
    process = start_run(folder, lines, 0, log)
    log.write("started", runs=ids[:2], handle=process_handle(process.pid))
    with RecordWriter(folder.record(ids[1])) as record:
        record.write("run", **lines[1])
        record.write("end", status="diverged")
    # What has ended by itself does not stop the one that goes on.
    assert run(["cancel", str(folder.root), ids[1]]) == 0
    assert "none of these runs is being executed" in capsys.readouterr().err
    folder.record(ids[1]).unlink()
    assert run(["cancel", str(folder.root), ids[1]]) == 0
    assert "asked 2 runs to save and stop" in capsys.readouterr().out
    assert process.wait(timeout=10) == 143
    assert read_cancels(list_cancels(folder)) == set(ids[:2])


def test_cancel_of_a_sweep_asks_its_command_and_not_the_runs(slow_sweep) -> None:
    folder, lines = slow_sweep
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True)"
    command = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.readline()
    log = begin(folder, [line["id"] for line in lines], command=command.pid)
    process = start_run(folder, lines, 0, log)
    assert run(["cancel", str(folder.root)]) == 0
    assert command.wait(timeout=10) == 7
    command.stdout.close()
    assert process.poll() is None
    process.kill()
    process.wait()


def test_cancel_never_signals_a_process_that_reuses_a_number(slow_sweep, capsys) -> None:
    folder, lines = slow_sweep
    log = begin(folder, [lines[0]["id"]])
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    handle = {**process_handle(innocent.pid), "born": "another time"}
    log.write("started", runs=[lines[0]["id"]], handle=handle)
    assert run(["cancel", str(folder.root)]) == 0
    time.sleep(0.2)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_cancel_says_what_runs_on_another_machine(slow_sweep, capsys) -> None:
    folder, lines = slow_sweep
    log = JobLog(folder)
    far = {"host": "node17", "pid": 4242, "born": "b"}
    log.write("intent", schema=SCHEMA, executor="local", command=far, runs=[lines[0]["id"]])
    assert run(["cancel", str(folder.root)]) == 7
    assert "process 4242 is on node17; cancel it there" in capsys.readouterr().err


def test_wait_returns_when_orphans_have_ended(slow_sweep, capsys) -> None:
    folder, lines = slow_sweep
    log = begin(folder, [line["id"] for line in lines])
    process = start_run(folder, lines, 0, log)
    assert run(["wait", str(folder.root)]) == 5
    assert process.wait(timeout=1) == 0
    out, err = capsys.readouterr()
    assert "3 runs: 1 done, 2 pending" in out
    assert "nothing is running; run the sweep command again" in err


def test_wait_gives_up_after_its_timeout(slow_sweep, capsys) -> None:
    folder, lines = slow_sweep
    process = start_run(folder, lines, 0, begin(folder, [lines[0]["id"]]))
    assert run(["wait", str(folder.root), "--timeout", "0"]) == 5
    assert "still at work after 0 s" in capsys.readouterr().err
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_watching_for_a_program_prints_one_value_when_nothing_runs(
    make_sweep, capsys, monkeypatch
) -> None:
    folder, lines = make_sweep(1, r0=None)
    record = RecordWriter(folder.record(lines[0]["id"]))
    record.__enter__()

    def end(_: float) -> None:
        record.write("end", status="done")
        record.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", end)
    assert status_json(folder, capsys, "--watch")["counts"] == {"done": 1}


def test_watching_off_a_terminal_ends_when_nothing_runs(make_sweep, capsys) -> None:
    folder, _ = make_sweep(1, r0="done")
    assert run(["status", str(folder.root), "--watch"]) == 0
    assert capsys.readouterr().out.count("1 run: 1 done") == 1
