"""What Slurm prints becomes rows, and rows beside a board's line become where a run is."""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import SystemTroubleError
from scalekit.executors._slurm_board import DONE, FAILED, KILLED, RUNNING, SAVED, WAITING, Folder
from scalekit.executors._slurm_board import Line as BoardLine
from scalekit.executors._slurm_judge import Jobs, judge, judge_runs
from scalekit.executors._slurm_queue import (
    Row,
    ask_accounting,
    ask_queue,
    call,
    own_words,
    read_elements,
)
from scalekit.executors._slurm_self import read_left
from scalekit.executors.base import Settings
from scalekit.executors.slurm import Slurm


def put_program(folder: Path, name: str, text: str) -> None:
    """Put a stand-in for one of Slurm's programs first in PATH; it notes each call."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho {name} "$@" >> {folder}/calls\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(programs: Path) -> list[str]:
    path = programs / "calls"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


# --- what Slurm prints --------------------------------------------------------------------------


def test_rows_of_squeue_are_read_as_22_05_prints_them(programs: Path) -> None:
    put_program(
        programs,
        "squeue",
        "cat <<E\n"
        "demo-1|12|0,4,6,8-20%2|PENDING|JobArrayTaskLimit\n"
        "demo-1|12|2|RUNNING|None\n"
        "demo-1|13|N/A|PENDING|Nodes required for job are DOWN, DRAINED or reserved\n"
        "garbage\n"
        "E",
    )
    pending, running, single = ask_queue(["demo-1"], ["me"])
    assert pending.elements == ((0, 0), (4, 4), (6, 6), (8, 20))
    assert [pending.holds(f"12_{i}") for i in (0, 2, 5, 8, 20, 21)] == [
        *(True, False, False, True, True, False),
    ]
    assert running == Row("demo-1", "12", ((2, 2),), "RUNNING", "None")
    assert (single.holds("13"), single.holds("13_0"), single.why[:5]) == (True, False, "Nodes")


def test_rows_of_sacct_are_read_as_22_05_prints_them(programs: Path) -> None:
    put_program(
        programs,
        "sacct",
        "cat <<E\n"
        "demo-1|19_[0-1,3]|CANCELLED by 1000|0:0\n"
        "demo-1|19_2|TIMEOUT|0:0\n"
        "demo-1|19_2.batch|CANCELLED|0:15\n"
        "demo-1|20|FAILED|3:0\n"
        "E",
    )
    rows = ask_accounting(["demo-1"], ["me"], since=1.7e9)
    assert [(row.state, row.elements) for row in rows] == [
        ("CANCELLED", ((0, 1), (3, 3))),
        ("TIMEOUT", ((2, 2),)),
        ("FAILED", ()),
    ]
    assert rows[2].why == "3:0"


def test_jobs_are_found_whatever_a_person_likes_to_see_and_a_site_hides(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "main")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    put_program(
        programs,
        "squeue",
        'test -z "$SQUEUE_PARTITION$SCANCEL_INTERACTIVE" && test -n "$SQUEUE_ALL" || exit 0\n'
        "echo 'demo-1|12|2|RUNNING|None'",
    )
    assert ask_queue(["demo-1"], ["me"]) == [Row("demo-1", "12", ((2, 2),), "RUNNING", "None")]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40)), min_size=1, max_size=8))
def test_elements_hold_what_was_written(pairs: list[tuple[int, int]]) -> None:
    ranges = [(first, first + more) for first, more in pairs]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) + "%16"
    assert read_elements(text) == tuple(ranges)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("10:00:00", 36000),
        ("9:58", 598),
        ("0:05", 5),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_the_time_left_is_read_as_squeue_writes_it(text: str, seconds: int | None) -> None:
    assert read_left(text) == seconds


def test_slurms_own_words_come_through_without_their_prefixes(programs: Path) -> None:
    words = "sbatch: error: invalid partition specified: x\nsbatch: error: Refused\n"
    assert own_words(words, "sbatch") == "invalid partition specified: x; Refused"
    put_program(programs, "sbatch", f"printf '{words}' >&2; exit 1")
    with pytest.raises(SystemTroubleError, match=r"^sbatch: invalid partition .*: x; Refused$"):
        call(["sbatch"])


def test_a_scheduler_that_does_not_answer_is_said_so(programs: Path) -> None:
    put_program(programs, "squeue", "exec sleep 5")
    with pytest.raises(SystemTroubleError, match=r"squeue: no answer in 0.3 s"):
        call(["squeue"], seconds=0.3)


# --- where a run is -----------------------------------------------------------------------------


def line(state: str, job: str = "12_2") -> BoardLine:
    return BoardLine("r", state, 1, 0, 143 if state in (SAVED, KILLED) else 0, job, 1)


def row(state: str, elements: Sequence[int] = (2,), why: str = "None") -> Row:
    return Row("demo-1", "12", tuple((i, i) for i in elements), state, why)


PENDING = row("PENDING", (3, 4), "Priority")


@pytest.mark.parametrize(
    ("state", "rows", "word", "cause"),
    [
        (WAITING, [PENDING], "pending", ""),
        (WAITING, [row("RUNNING", (5,))], "pending", ""),
        (WAITING, [row("CANCELLED", (3, 4)), row("COMPLETED")], "gone", "cancelled"),
        (WAITING, [row("COMPLETED")], "gone", ""),
        (WAITING, [row("FAILED", why="0:53")], "gone", "lost"),
        (SAVED, [PENDING], "requeued", ""),
        (SAVED, [row("TIMEOUT")], "gone", "timed_out"),
        (SAVED, [row("COMPLETED")], "gone", ""),
        (RUNNING, [row("RUNNING")], "running", ""),
        (RUNNING, [row("COMPLETING")], "running", ""),
        (RUNNING, [row("PENDING", why="BeginTime")], "requeued", ""),
        (RUNNING, [row("NODE_FAIL"), PENDING], "gone", "node_failed"),
        (RUNNING, [row("OUT_OF_MEMORY"), PENDING], "gone", "out_of_memory"),
        (RUNNING, [row("FAILED"), PENDING], "gone", "lost"),
        (RUNNING, [row("PREEMPTED")], "gone", "preempted"),
        (KILLED, [row("COMPLETING")], "running", ""),
        (KILLED, [row("PENDING", why="BeginTime")], "requeued", ""),
        (KILLED, [row("TIMEOUT"), PENDING], "gone", "timed_out"),
        (KILLED, [row("CANCELLED")], "gone", "cancelled"),
        (DONE, [], "gone", ""),
        (FAILED, [PENDING], "gone", ""),
    ],
)
def test_a_line_and_its_jobs_say_where_a_run_is(
    state: str, rows: list[Row], word: str, cause: str
) -> None:
    found = judge(line(state), Jobs(rows), is_cancelled=False)
    assert found is not None
    assert (found.word, found.cause) == (word, cause)


@pytest.mark.parametrize("state", [WAITING, SAVED, RUNNING, KILLED])
def test_a_line_whose_jobs_nobody_knows_is_not_explained(state: str) -> None:
    assert judge(line(state), Jobs(), is_cancelled=False) is None
    # Another array's element of the same index is no explanation.
    other = Row("demo-1", "13", ((2, 2),), "COMPLETED")
    if state in (RUNNING, KILLED):
        assert judge(line(state), Jobs([other]), is_cancelled=False) is None


@pytest.mark.parametrize(
    ("state", "rows", "word"),
    [
        (WAITING, [PENDING], "gone"),
        (SAVED, [PENDING], "gone"),
        (RUNNING, [row("RUNNING")], "running"),
        (KILLED, [row("CANCELLED")], "gone"),
    ],
)
def test_a_cancelled_run_is_gone_once_it_has_saved(state: str, rows: list[Row], word: str) -> None:
    found = judge(line(state), Jobs(rows), is_cancelled=True)
    assert found is not None
    assert found.word == word
    assert found.cause == ("cancelled" if word == "gone" else "")


def test_a_reason_that_does_not_pass_is_called_so() -> None:
    found = judge(line(WAITING), Jobs([row("PENDING", (3,), "BadConstraints")]), is_cancelled=False)
    assert found is not None
    assert found.why == "job 12 waits: BadConstraints; it will not start by itself"


@pytest.mark.parametrize("state", [WAITING, SAVED, RUNNING])
def test_a_job_that_could_not_be_launched_waits_for_the_sweep_command(state: str) -> None:
    held = row("PENDING", why="launch failed requeued held")
    found = judge(line(state), Jobs([held]), is_cancelled=False)
    assert found is not None
    assert found.is_held
    assert found.why.endswith("; the sweep command lets it go, once its node is mended")
    by_hand = judge(line(state), Jobs([row("PENDING", why="JobHeldUser")]), is_cancelled=False)
    assert by_hand is not None
    assert not by_hand.is_held


def test_more_held_jobs_than_an_argument_takes_are_released(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = "demo-1|12345678|0-9999|PENDING|launch failed requeued held"
    put_program(programs, "squeue", f"echo '{row}'")
    put_program(programs, "scontrol", "true")
    executor = Slurm(Settings(folder=tmp_path / "slurm"))
    assert executor.release([("r", {"name": "demo-1", "user": "me"})]) == []
    lines = (programs / "calls").read_text().splitlines()
    jobs = [job for line in lines[1:] for job in line.split()[2].split(",")]
    assert jobs == [f"12345678_{i}" for i in range(10_000)]
    assert "12345678_19 and 9,980 more, which" in capsys.readouterr().err


def test_what_is_held_is_released_by_its_jobs_and_what_a_person_held_is_not(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program(
        programs,
        "squeue",
        "cat <<E\n"
        "demo-1|12|3-4|PENDING|launch failed requeued held\n"
        "demo-1|12|5|PENDING|JobHeldUser\n"
        "demo-1|12|6|RUNNING|None\n"
        "E",
    )
    put_program(programs, "scontrol", "")
    executor = Slurm(Settings(folder=tmp_path / "slurm"))
    assert executor.release([("r", {"name": "demo-1", "user": "me"})]) == []
    assert (programs / "calls").read_text().endswith("scontrol release 12_3,12_4\n")
    assert "released 12_3, 12_4" in capsys.readouterr().err
    put_program(programs, "scontrol", "echo 'slurm_suspend error: Access denied' >&2; exit 1")
    (said,) = executor.release([("r", {"name": "demo-1", "user": "me"})])
    assert "Access denied" in said


def test_a_saved_run_whose_job_did_not_go_back_points_at_what_the_job_said() -> None:
    found = judge(line(SAVED), Jobs([row("COMPLETED")]), is_cancelled=False)
    assert found is not None
    told = "saved, and job 12_2 did not go back to the queue; see slurm/demo-1/12_2.out"
    assert found.why == told


@pytest.mark.parametrize("why", ["0:53", "JobLaunchFailure"])
def test_output_that_could_not_be_opened_points_at_the_folder(why: str) -> None:
    found = judge(line(WAITING), Jobs([row("FAILED", (3,), why)]), is_cancelled=False)
    assert found is not None
    assert found.why == f"job 12_3 failed {why}; is this folder visible on the nodes?"


def test_a_run_that_was_killed_in_a_job_out_of_memory_ran_out_of_memory() -> None:
    killed = BoardLine("r", FAILED, 1, 0, -9, "12_2", 1)
    found = judge(killed, Jobs([row("OUT_OF_MEMORY")]), is_cancelled=False)
    assert found is not None
    assert (found.cause, found.code) == ("out_of_memory", -9)
    found = judge(killed, Jobs([row("COMPLETED")]), is_cancelled=False)
    assert found is not None
    assert (found.cause, found.code) == ("", -9)
    assert judge(killed, Jobs([row("OUT_OF_MEMORY", (3,))]), is_cancelled=False) is None


def test_a_job_that_failed_before_it_began_a_run_points_at_what_it_printed() -> None:
    found = judge(line(WAITING), Jobs([row("FAILED", (3,), "127:0")]), is_cancelled=False)
    assert found is not None
    assert found.why == "job 12_3 failed 127:0; see slurm/demo-1/12_3.out"


# --- how many calls -----------------------------------------------------------------------------

HANDLE = {"name": "demo-1", "user": "me", "time": 1.7e9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Folder(tmp_path / "demo-1").write({}, [{"run": f"r{i}"} for i in range(5)])
    Folder(tmp_path / "demo-2").write({}, [{"run": f"r{i}"} for i in range(5)])
    return tmp_path


def place(n_runs: int) -> list[tuple[str, dict[str, object]]]:
    names = ("demo-1", "demo-2")
    return [(f"r{i}", {**HANDLE, "name": name}) for name in names for i in range(n_runs)]


def test_however_many_runs_and_submissions_the_queue_is_asked_once(
    programs: Path, folder: Path
) -> None:
    waits = "demo-1|12|0-4|PENDING|Priority\ndemo-2|13|0-4|PENDING|Priority"
    put_program(programs, "squeue", f"printf '{waits}'")
    put_program(programs, "sacct", "exit 1")
    assert {state.word for state in judge_runs(folder, place(5))} == {"pending"}
    assert calls(programs) == ["squeue"]


def test_what_has_left_the_queue_costs_one_more_call(programs: Path, folder: Path) -> None:
    put_program(programs, "squeue", "printf 'demo-1|12|0-4|PENDING|Priority'")
    put_program(programs, "sacct", "printf 'demo-2|13_[0-4]|CANCELLED by 0|0:0'")
    states = judge_runs(folder, place(5))
    assert [state.word for state in states] == ["pending"] * 5 + ["gone"] * 5
    assert {state.cause for state in states[5:]} == {"cancelled"}
    assert calls(programs) == ["squeue", "sacct"]


def test_without_accounting_it_is_said_what_cannot_be_known(programs: Path, folder: Path) -> None:
    put_program(programs, "squeue", "")
    put_program(programs, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    (state, *_) = judge_runs(folder, place(1))
    assert (state.word, state.cause) == ("gone", "lost")
    assert "why cannot be known: sacct: Slurm accounting storage is disabled" in state.why


def test_what_neither_knows_is_lost(programs: Path, folder: Path) -> None:
    put_program(programs, "squeue", "")
    put_program(programs, "sacct", "")
    (state, *_) = judge_runs(folder, place(1))
    assert state.cause == "lost"
    assert state.why == "neither the queue nor the accounting knows its job"


def test_what_only_the_accounting_takes_to_live_is_lost_and_not_waited_for(
    programs: Path, folder: Path
) -> None:
    """A controller that forgot jobs tells nobody that they ended (`sacctmgr show runawayjobs`)."""
    put_program(programs, "squeue", "")
    put_program(
        programs,
        "sacct",
        "printf 'demo-1|12_0|COMPLETED|0:0\\ndemo-1|12_[1-4]|PENDING|0:0\\n'\n"
        "printf 'demo-2|13_[0-4]|PENDING|0:0\\n'",
    )
    mine = [(run, {**handle, "user": getpass.getuser()}) for run, handle in place(1)]
    first, second = judge_runs(folder, mine)
    assert (first.word, first.why) == ("gone", "its jobs ended before its turn")
    assert (second.word, second.cause) == ("gone", "lost")
    assert "Slurm lost it" in second.why
    # Another person's jobs the queue may hide from us.
    other = [(run, {**handle, "user": "somebody-else"}) for run, handle in place(1)]
    assert [state.word for state in judge_runs(folder, other)] == ["pending", "pending"]


def test_a_killed_run_that_nobody_explains_keeps_its_exit_code(
    programs: Path, tmp_path: Path
) -> None:
    made = Folder(tmp_path / "demo-1")
    made.write({}, [{"run": "r0"}])
    made.board.write_bytes(made.board.read_bytes().replace(b" .    0 0    0 ", b" f    1 0   -9 "))
    put_program(programs, "squeue", "")
    put_program(programs, "sacct", "exit 1")
    (state,) = judge_runs(tmp_path, [("r0", HANDLE)])
    assert (state.word, state.cause, state.code) == ("gone", "", -9)


def test_a_queue_that_does_not_answer_leaves_runs_unknown(programs: Path, folder: Path) -> None:
    put_program(programs, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    (state, *_) = judge_runs(folder, place(1))
    assert (state.word, state.is_alive) == ("unknown", False)
    assert "Unable to contact" in state.why


def test_jobs_of_other_names_are_never_ours(programs: Path, folder: Path) -> None:
    # A number that is used again belongs to a job of another name.
    put_program(programs, "squeue", "printf 'other-9|12|2|RUNNING|None'")
    put_program(programs, "sacct", "printf 'other-9|12_2|RUNNING|0:0'")
    assert {state.cause for state in judge_runs(folder, place(2))} == {"lost"}


def test_finished_submissions_ask_nobody(programs: Path, tmp_path: Path) -> None:
    made = Folder(tmp_path / "demo-1")
    made.write({}, [{"run": "r0"}])
    made.board.write_bytes(made.board.read_bytes().replace(b" . ", b" d "))
    put_program(programs, "squeue", "exit 1")
    (state,) = judge_runs(tmp_path, [("r0", HANDLE)])
    assert (state.word, state.code) == ("gone", 0)
    assert calls(programs) == []
