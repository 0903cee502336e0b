"""The worker of a Slurm job beside a scheduler of one line: what it takes, when it goes back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scalekit.executors._slurm_board import MOST_LOST, RUNNING, Board, Folder, Line, open_board
from scalekit.executors._slurm_self import Self
from scalekit.executors._slurm_worker import Worker

TRAIN = """
import os, signal, sys, time
from pathlib import Path
notes, run, seconds, code = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
if code == 143:
    saving = float(os.environ.get("SAVING", 0))
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(saving), sys.exit(143)))
with open(notes, "a") as file:
    file.write(f"{run} {os.environ['OMP_NUM_THREADS']} {' '.join(sys.argv[5:])}\\n")
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.02)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(0 if code == 143 else code)
"""


@dataclass
class Stage:
    """A submission, and programs in Slurm's place that note how they are called."""

    folder: Folder
    bin: Path
    root: Path

    def plan(self, *jobs: dict[str, Any], pack: int = 1, limit: float | None = 3600.0) -> None:
        """Write a submission; a job says how long it takes, how it ends, and what was estimated."""
        notes = str(self.root / "notes")
        header = {"argv": [sys.executable, str(self.root / "train.py"), notes], "pack": pack}
        header |= {"root": str(self.root), "threads": 1, "limit_s": limit, "lead_s": 60}
        lines = [
            {
                "run": f"r{i}",
                "argv": [f"r{i}", str(job.get("takes", 0.0)), str(job.get("code", 0))],
                "log": f"logs/r{i}.log",
                "seconds": job.get("seconds", 1.0),
                "beside": [f"r{i}{letter}" for letter in job.get("beside", "")],
                **{key: job[key] for key in ("after", "needs") if key in job},
            }
            for i, job in enumerate(jobs)
        ]
        self.folder.write({**header, "safety": 1.5}, lines)
        (self.root / "train.py").write_text(TRAIN)
        self.scheduler("RUNNING", "50:00")

    def scheduler(self, state: str, left: str, *, siblings: bool = False) -> None:
        """Let squeue say this of the job, and whether others of its array wait."""
        waiting = "echo 7" if siblings else "true"
        asked = f'case "$*" in *PENDING*) {waiting};; *) echo "70|{state}|{left}";; esac'
        for name, text in {"squeue": asked, "scontrol": "true"}.items():
            path = self.bin / name
            path.write_text(f'#!/bin/bash\necho {name} "$@" >> {self.bin}/calls\n{text}\n')
            path.chmod(0o755)

    def busy(self, name: str, *, calls: int) -> None:
        """Let one of Slurm's programs fail the first times, as when the controller is busy."""
        path = self.bin / name
        first, noted, rest = path.read_text().split("\n", 2)
        words = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
        is_early = f"[ $(grep -c ^{name} {self.bin}/calls) -le {calls} ]"
        fails = f"{is_early} && {{ echo '{words}' >&2; exit 1; }}"
        path.write_text("\n".join([first, noted, fails, rest]))

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"SLURM_JOB_ID": "70", "SLURM_ARRAY_JOB_ID": "7"}
        environment |= {"SLURM_ARRAY_TASK_ID": "3"}
        module = "scalekit.executors._slurm_worker"
        with self.folder.output("7_3").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(self.folder.path)],
                env=environment,
                stdout=output,
                stderr=output,
            )

    def run(self) -> int:
        return self.start().wait(timeout=60)

    def tell(self, number: int, *, began: int = 1) -> int:
        """Send a signal to the worker once so many runs have begun; return its exit code."""
        worker = self.start()
        wait_until(lambda: len(self.began()) == began)
        worker.send_signal(number)
        return worker.wait(timeout=30)

    def calls(self) -> list[str]:
        path = self.bin / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def is_requeued(self) -> bool:
        return "scontrol requeue 7_3" in self.calls()

    def states(self) -> str:
        return "".join(line.state for line in self.folder.lines())

    def began(self) -> list[str]:
        path = self.root / "notes"
        return [x.split()[0] for x in path.read_text().splitlines()] if path.exists() else []

    def said(self) -> str:
        path = self.folder.output("7_3")
        return path.read_text() if path.exists() else ""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "bin").mkdir()
    return Stage(Folder(tmp_path / "slurm" / "demo-1"), tmp_path / "bin", tmp_path)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def jobs(n: int, **fields: Any) -> Sequence[dict[str, Any]]:
    return [dict(fields) for _ in range(n)]


def test_a_run_that_somebody_else_stops_each_time_is_given_up(stage: Stage) -> None:
    """As a watchdog does that ends what takes too much of a node: it began again for ever."""
    stage.plan({"code": -signal.SIGTERM}, {})
    assert stage.run() == 0
    assert stage.states() == "fd"
    assert stage.began() == ["r0"] * (1 + MOST_LOST) + ["r1"]
    assert "r0: killed by signal 15" in stage.said()
    assert not stage.is_requeued


def test_it_takes_all_runs_in_order_and_leaves_nothing_but_their_logs(stage: Stage) -> None:
    stage.plan(*jobs(4))
    assert stage.run() == 0
    assert (stage.states(), stage.began()) == ("dddd", ["r0", "r1", "r2", "r3"])
    assert (stage.root / "notes").read_text().splitlines()[0] == "r0 1 --threads 1"
    assert {line.job for line in stage.folder.lines()} == {"7_3"}
    assert not stage.folder.output("7_3").exists()
    assert not stage.is_requeued


def test_a_run_for_which_there_is_no_time_is_left_to_a_job_that_waits(stage: Stage) -> None:
    # 40 s are left before the signal; a run of 30 s and half as much again does not fit.
    stage.plan({"seconds": 30.0}, {"seconds": 30.0}, {"seconds": 1.0}, limit=100.0)
    stage.scheduler("RUNNING", "1:40", siblings=True)
    assert stage.run() == 0
    # The first run of a job need not fit, and the short one slips in.
    assert stage.states() == "d.d"
    assert not stage.is_requeued


def test_where_no_other_job_waits_it_goes_back_to_the_queue_itself(stage: Stage) -> None:
    stage.plan({"seconds": 30.0}, {"seconds": 30.0}, limit=100.0)
    assert stage.run() == 0
    assert stage.states() == "d."
    assert stage.is_requeued
    # Its second life takes what is left.
    assert stage.run() == 0
    assert stage.states() == "dd"


def test_runs_of_unknown_length_are_begun_once_a_slot(stage: Stage) -> None:
    stage.plan(*jobs(4, seconds=None), pack=2)
    stage.scheduler("RUNNING", "50:00", siblings=True)
    assert stage.run() == 0
    assert stage.states() == "dd.."


def test_without_a_time_limit_it_goes_on_to_the_end(stage: Stage) -> None:
    stage.plan(*jobs(3, seconds=1e9), limit=None)
    assert stage.run() == 0
    assert stage.states() == "ddd"


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux alone has it")
def test_out_of_memory_the_kernel_would_take_a_run_before_its_worker(stage: Stage) -> None:
    stage.plan(*jobs(1, takes=30.0, code=143))
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 1)
    (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (worker.pid, child)]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 0
    assert scores[1] >= scores[0] + 500


def test_crashes_and_ends_that_are_no_success_are_noted_and_neighbours_go_on(stage: Stage) -> None:
    stage.plan({"code": -9}, {"code": 4}, {"code": 0}, pack=2)
    assert stage.run() == 4
    assert stage.states() == "ffd"
    assert [line.code for line in stage.folder.lines()] == [-9, 4, 0]
    assert "r0: killed by signal 9" in stage.said()
    assert "r1: exit code 4" in stage.said()
    # Its second life, if somebody requeues it, does not try them again.
    assert stage.run() == 0
    assert stage.states() == "ffd"


@pytest.mark.parametrize(("word", "states"), [("RUNNING", "fd"), ("NODE_FAIL", "k.")])
def test_a_run_that_lost_another_node_is_left_to_the_next_life_of_its_job(
    stage: Stage, word: str, states: str
) -> None:
    stage.plan({"code": 7}, {"code": 0})
    stage.scheduler(word, "50:00")
    assert stage.run() == 4
    assert stage.states() == states
    assert not stage.is_requeued, "Slurm does that"


def test_where_a_job_is_coming_to_its_end_no_run_of_a_pack_is_left_without_a_worker(
    stage: Stage,
) -> None:
    stage.plan({"takes": 1.0, "code": 7}, {"takes": 20.0, "code": 143}, pack=2)
    stage.scheduler("NODE_FAIL", "50:00")
    assert stage.run() == 4
    assert stage.states() == "kk"
    assert [line.code for line in stage.folder.lines()] == [7, 143]
    assert not stage.is_requeued, "Slurm does that"


def test_a_command_that_is_not_there_is_a_failure_of_the_run_and_not_of_the_worker(
    stage: Stage,
) -> None:
    stage.plan(*jobs(2))
    text = stage.folder.manifest.read_text().replace(sys.executable, "/no/such/python")
    stage.folder.manifest.write_text(text)
    assert stage.run() == 4
    assert [line.code for line in stage.folder.lines()] == [127, 127]
    assert "r0: cannot be started, No such file or directory (/no/such/python)" in stage.said()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_told_while_it_runs_it_lets_runs_save_and_goes_back_to_the_queue(
    stage: Stage, number: int
) -> None:
    stage.plan(*jobs(3, takes=30.0, code=143), pack=2)
    assert stage.tell(number, began=2) == 0
    assert stage.states() == "ss."
    assert stage.is_requeued


def test_told_while_it_is_being_ended_it_leaves_the_rest_to_slurm(stage: Stage) -> None:
    stage.plan(*jobs(2, takes=30.0, code=143))
    stage.scheduler("COMPLETING", "50:00")
    assert stage.tell(signal.SIGTERM) == 0
    assert stage.states() == "k."
    assert not stage.is_requeued


def test_at_its_limit_without_any_progress_it_does_not_go_round_in_circles(stage: Stage) -> None:
    # The run dies of the request: it had not even begun its first step.
    stage.plan(*jobs(1, takes=30.0))
    stage.scheduler("RUNNING", "1:00")
    assert stage.tell(signal.SIGUSR2) == 4
    assert stage.states() == "s"
    assert not stage.is_requeued
    assert "no run got anywhere in this job's time; 1 are left, not requeued" in stage.said()


def test_preempted_before_any_progress_it_goes_back_all_the_same(stage: Stage) -> None:
    stage.plan(*jobs(1, takes=30.0))
    assert stage.tell(signal.SIGUSR2) == 0
    assert stage.is_requeued


@pytest.mark.parametrize("words", ["Access denied", ""])
def test_a_scheduler_that_refuses_to_requeue_is_quoted(stage: Stage, words: str) -> None:
    stage.plan({"seconds": 30.0}, {"seconds": 30.0}, limit=100.0)
    with (stage.bin / "scontrol").open("a") as script:
        script.write(f"echo '{words}' >&2; exit 1\n")
    assert stage.run() == 0
    said = f"1 run is left and this job cannot be requeued: {words or 'exit code 1'}"
    assert said in stage.said()
    assert stage.calls().count("scontrol requeue 7_3") == 1


def test_a_scheduler_too_busy_to_answer_is_asked_again(stage: Stage) -> None:
    stage.plan(*jobs(1, takes=30.0, code=143))
    stage.busy("squeue", calls=3)
    stage.busy("scontrol", calls=2)
    assert stage.tell(signal.SIGUSR2) == 0
    assert stage.calls().count("scontrol requeue 7_3") == 3
    assert "cannot be requeued" not in stage.said()


def test_a_scheduler_that_is_gone_is_told_of_by_a_job_that_cannot_go_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scalekit.executors import _slurm_self

    stage.plan(*jobs(1, takes=0.0, code=143))
    stage.busy("squeue", calls=1000)
    monkeypatch.setenv("PATH", str(stage.bin), prepend=os.pathsep)
    monkeypatch.setattr(_slurm_self, "PATIENCE_SECONDS", 0.5)
    with open_board(stage.folder, "7_3") as board:
        worker = Worker(stage.folder, Self("7_3", "70", "7"), board, stage.folder.read(), ())
        worker.work([signal.SIGUSR2])
    said = capsys.readouterr().out
    assert "signal 12, job UNKNOWN: saving" in said
    assert "1 run is left and this job cannot be requeued: the scheduler does not answer" in said


def test_a_request_that_was_heard_but_not_answered_is_not_repeated(stage: Stage) -> None:
    stage.plan(*jobs(1, takes=30.0, code=143))
    is_ended = f"sed -i s/RUNNING/COMPLETING/ {stage.bin}/squeue"
    with (stage.bin / "scontrol").open("a") as script:
        script.write(f"{is_ended}; echo 'Socket timed out' >&2; exit 1\n")
    assert stage.tell(signal.SIGUSR2) == 0
    assert stage.calls().count("scontrol requeue 7_3") == 1
    assert "cannot be requeued" not in stage.said()


def test_cancelled_runs_are_stopped_or_never_begun_and_the_others_go_on(stage: Stage) -> None:
    takes = {"takes": 30.0, "code": 143}
    # The worker looks every two seconds whether something was cancelled.
    stage.plan(takes, {"takes": 3.0}, takes, {"takes": 0.0}, pack=2)
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 2)
    stage.folder.cancel(["r0", "r2"])
    assert worker.wait(timeout=30) == 0
    assert stage.states() == "cd.d"
    assert "r2" not in stage.began()
    assert not stage.is_requeued


def test_a_run_cancelled_is_cancelled_with_its_stack_and_no_other_is(stage: Stage) -> None:
    takes = {"takes": 30.0, "code": 143, "beside": "ab"}
    # The worker looks every two seconds whether something was cancelled.
    stage.plan(takes, {"takes": 3.0}, takes, {"beside": "a"}, pack=2)
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 2)
    stage.folder.cancel(["r0b", "r2", "r2a", "r2b"])
    assert worker.wait(timeout=30) == 0
    by_run = {line.run: line.state for line in stage.folder.lines()}
    assert "".join(by_run[run] for run in ("r0", "r0a", "r0b", "r1", "r3", "r3a")) == "cccddd"
    assert "".join(by_run[run] for run in ("r2", "r2a", "r2b")) == "..."
    assert "r2" not in stage.began()
    assert not stage.is_requeued


def test_a_stack_begun_again_leaves_alone_what_failed_in_it(stage: Stage) -> None:
    stage.plan({"takes": 30.0, "code": 143, "beside": "a"}, {"code": 4, "beside": "ab"})
    assert stage.tell(signal.SIGUSR2) == 0
    assert stage.states() == "s.s.."
    assert stage.is_requeued
    text = stage.folder.manifest.read_text().replace('"30.0"', '"0.0"')
    stage.folder.manifest.write_text(text)
    assert stage.run() == 4
    assert stage.states() == "dfdff"
    words = [line.split(maxsplit=2)[2] for line in (stage.root / "notes").read_text().splitlines()]
    assert words == ["--threads 1", "--no-retry --threads 1", "--threads 1"]
    assert "r1 and 2 in its stack: exit code 4" in stage.said()


def test_runs_of_stacks_are_counted_where_a_job_cannot_go_back(stage: Stage) -> None:
    stage.plan({"seconds": 30.0}, {"seconds": 30.0, "beside": "ab"}, limit=100.0)
    (stage.bin / "scontrol").write_text("#!/bin/bash\necho 'Access denied' >&2; exit 1\n")
    assert stage.run() == 0
    assert "3 runs are left and this job cannot be requeued: Access denied" in stage.said()


def test_cancelled_whole_it_leaves_without_going_back(stage: Stage) -> None:
    stage.plan(*jobs(3, takes=30.0, code=143))
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 1)
    stage.folder.cancel(["r0", "r1", "r2"])
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(timeout=30) == 0
    assert stage.states() == "c.."
    assert not stage.is_requeued


def test_cancelled_while_its_runs_save_it_leaves_without_going_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAVING", "4")
    stage.plan(*jobs(2, takes=30.0, code=143))
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 1)
    worker.send_signal(signal.SIGUSR2)
    time.sleep(0.5)
    stage.folder.cancel(["r0", "r1"])
    assert worker.wait(timeout=30) == 0
    assert stage.states() == "c."
    assert not stage.is_requeued


def test_a_board_that_is_cut_under_a_worker_leaves_runs_at_work_alone(stage: Stage) -> None:
    stage.plan({"takes": 1.0}, {"takes": 2.0}, {"after": "r1"}, {}, pack=2)
    worker = stage.start()
    wait_until(lambda: len(stage.began()) == 2)
    os.truncate(stage.folder.board, 20)
    assert worker.wait(timeout=30) == 0, stage.said()
    # What it held it writes again; what nobody holds stays unknown.
    assert [(line.run, line.state) for line in stage.folder.lines()] == [("r0", "d"), ("r1", "d")]
    assert sorted(stage.began()) == ["r0", "r1"]


def test_while_its_runs_go_on_it_seldom_reads_the_board_for_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.plan({"takes": 1.5}, {}, {}, pack=2)
    asked: list[int | None] = []
    claim = Board.claim
    monkeypatch.setattr(
        Board, "claim", lambda board, wanted: asked.append(claim(board, wanted)) or asked[-1]
    )
    with open_board(stage.folder, "7_3") as board:
        me = Self("7_3", "70", None)
        assert Worker(stage.folder, me, board, stage.folder.read(), []).work([]) == 0
    assert stage.states() == "ddd"
    # Once for each run, once for each slot that an end leaves free; and once to no purpose.
    assert asked[:3] == [0, 1, 2]
    assert len(asked) <= 6


def test_a_board_on_a_full_disk_lets_the_other_runs_save(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.plan({"takes": 0.5}, {"takes": 60.0, "code": 143}, {}, pack=2)
    write = Board._write

    def refuse_what_ended(board: Board, number: int, line: Line) -> None:
        if number == 0 and line.state != RUNNING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(board, number, line)

    monkeypatch.setattr(Board, "_write", refuse_what_ended)
    monkeypatch.setenv("PATH", f"{stage.bin}{os.pathsep}{os.environ['PATH']}")
    with open_board(stage.folder, "7_3") as board:
        worker = Worker(stage.folder, Self("7_3", "70", None), board, stage.folder.read(), [])
        assert worker.work([]) == 7
    assert stage.states() == "rs."
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith("cannot be used, No space left on device; the runs here save and stop")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
def test_a_worker_that_cannot_print_goes_on(stage: Stage) -> None:
    stage.plan({"code": 4}, {"code": 0})
    stage.folder.output("7_3").symlink_to("/dev/full")
    assert stage.run() == 4
    assert stage.states() == "fd"


def test_a_submission_that_was_given_up_is_left_at_once(stage: Stage) -> None:
    stage.plan(*jobs(1))
    stage.folder.board.unlink()
    assert stage.run() == 0
    assert "gone, the submission was given up" in stage.said()
