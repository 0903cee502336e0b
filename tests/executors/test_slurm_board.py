"""The board of a Slurm submission: no run has two workers, and a claim ends with its worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.executors._slurm_board import (
    CANCELLED,
    DONE,
    FAILED,
    KILLED,
    MOST_LOST,
    RUNNING,
    SAVED,
    STATES,
    WAITING,
    Folder,
    Line,
    find_company,
    open_board,
    read_line,
    write_line,
)

RUNS = [f"{number:010x}" for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "demo-1")
    made.write({"pack": 1}, [{"run": run} for run in RUNS])
    return made


def states(folder: Folder) -> str:
    return "".join(line.state for line in folder.lines())


LINES = st.builds(
    Line,
    run=st.text("abcdef0123456789", min_size=1, max_size=12),
    state=st.sampled_from(STATES),
    starts=st.integers(0, 9999),
    lost=st.integers(0, MOST_LOST + 1),
    code=st.integers(-64, 255),
    job=st.from_regex(r"[0-9]{1,10}(_[0-9]{1,10})?", fullmatch=True),
    time=st.integers(0, 2**33 - 1),
)


@given(LINES)
def test_a_line_that_is_written_reads_back(line: Line) -> None:
    raw = write_line(line, 12)
    assert read_line(raw) == line
    assert len(raw) == len(write_line(Line("x"), 12))


@given(st.binary(max_size=80))
def test_damaged_lines_are_no_lines_and_no_error(raw: bytes) -> None:
    line = read_line(raw)
    assert line is None or line.state in STATES


def test_the_manifest_and_the_runs_read_back(folder: Folder) -> None:
    header, jobs = folder.read()
    assert header == {"schema": "scalekit.manifest/1", "pack": 1}
    assert [job["run"] for job in jobs] == [line.run for line in folder.lines()] == RUNS
    assert states(folder) == WAITING * 6


def test_claims_go_in_order_and_each_run_is_given_once(folder: Folder) -> None:
    with open_board(folder, "1_0") as board:
        taken = [board.claim(range(6)) for _ in range(7)]
    assert taken == [0, 1, 2, 3, 4, 5, None]
    assert states(folder) == RUNNING * 6


def test_only_runs_that_were_asked_for_are_claimed(folder: Folder) -> None:
    with open_board(folder, "1_0") as board:
        assert [board.claim([4, 2]), board.claim([4, 2]), board.claim([4, 2])] == [4, 2, None]


@pytest.mark.parametrize(
    ("state", "same_job", "other_job"),
    [
        (SAVED, True, True),
        (KILLED, True, False),
        (RUNNING, True, False),
        (DONE, False, False),
        (FAILED, False, False),
        (CANCELLED, False, False),
    ],
)
def test_who_may_continue_a_run_depends_on_how_it_was_left(
    folder: Folder, state: str, same_job: bool, other_job: bool
) -> None:
    for number, (job, may) in enumerate([("1_0", same_job), ("1_1", other_job)]):
        with open_board(folder, "1_0") as board:
            assert board.claim([number]) == number
            if state != RUNNING:
                board.note(number, state, 143)
        with open_board(folder, job) as board:
            assert (board.claim([number]) == number) is may
    assert [line.starts for line in folder.lines()[:2]] == [1 + same_job, 1 + other_job]


def test_a_run_that_takes_its_worker_with_it_is_given_up_after_a_few_times(folder: Folder) -> None:
    for life in range(MOST_LOST + 1):
        with open_board(folder, "1_0") as board:
            assert board.claim([0]) == 0, life
    with open_board(folder, "1_0") as board:
        assert board.claim([0]) is None
        assert board.free([0]) == []
    line = folder.lines()[0]
    assert (line.state, line.code, line.starts) == (FAILED, -signal.SIGKILL, MOST_LOST + 1)


def test_a_damaged_line_is_claimed_by_nobody(folder: Folder) -> None:
    raw = bytearray(folder.board.read_bytes())
    raw[12] = ord("?")
    folder.board.write_bytes(raw)
    with open_board(folder, "1_0") as board:
        assert board.claim(range(6)) == 1
    assert len(folder.lines()) == 5


HOLD = """
import sys
from pathlib import Path
from scalekit.executors._slurm_board import Folder, open_board
with open_board(Folder(Path(sys.argv[1])), sys.argv[2]) as board:
    print(board.claim([0]), flush=True)
    sys.stdin.read()
"""


def test_a_claim_ends_with_its_process_and_not_before(folder: Folder) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path), "1_0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "0\n"
    # The same job after it was requeued, while its first life goes on elsewhere.
    with open_board(folder, "1_0") as board:
        assert board.claim([0]) is None
        assert board.free([0]) == [0]
    first.kill()
    first.communicate()
    with open_board(folder, "1_0") as board:
        assert board.claim([0]) == 0
    assert folder.lines()[0].lost == 1


def test_a_stack_is_claimed_and_noted_as_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo-1")
    jobs = [{"run": "a", "beside": ["b", "c"]}, {"run": "d"}, {"run": "e", "beside": ["f"]}]
    folder.write({}, jobs)
    assert [line.run for line in folder.lines()] == ["a", "d", "e", "b", "c", "f"]
    company = find_company(jobs)
    with open_board(folder, "1_0", company) as board:
        assert [board.claim(range(3)), board.claim(range(3))] == [0, 1]
        assert states(folder) == "rr.rr."
        board.note(0, FAILED, 4)
        assert board.claim(range(3)) == 2
    assert states(folder) == "frrffr"
    by_run = {line.run: line for line in folder.lines()}
    assert {(by_run[run].code, by_run[run].job, by_run[run].starts) for run in "abc"} == {
        (4, "1_0", 1)
    }
    # Continued by its job and given up, it is one still, whatever stood on its other lines.
    raw = folder.board.read_bytes()
    folder.board.write_bytes(raw[:-4] + b"?" * 3 + raw[-1:])
    for life in range(MOST_LOST + 1):
        with open_board(folder, "1_0", company) as board:
            assert board.claim([2]) == (2 if life < MOST_LOST else None)
    assert states(folder) == "frfff" + "f"
    assert [(line.run, line.lost) for line in folder.lines()][::3] == [("a", 0), ("b", 0)]
    assert {line.lost for line in folder.lines() if line.run in "ef"} == {MOST_LOST + 1}


CLAIM_ALL = """
import json, sys
from pathlib import Path
from scalekit.executors._slurm_board import DONE, SAVED, Folder, open_board
folder, taken = Folder(Path(sys.argv[1])), []
with open_board(folder, sys.argv[2]) as board:
    while (number := board.claim(range(200))) is not None:
        taken.append(number)
        board.note(number, DONE, 0)
print(json.dumps(taken))
"""


def test_many_workers_at_once_take_every_run_exactly_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "many")
    folder.write({}, [{"run": f"{number:010x}"} for number in range(200)])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, str(folder.path), f"1_{i}"], stdout=subprocess.PIPE
        )
        for i in range(4)
    ]
    taken = [json.loads(worker.communicate()[0]) for worker in workers]
    assert sorted(number for numbers in taken for number in numbers) == list(range(200))
    assert [line.state for line in folder.lines()] == [DONE] * 200
    assert [line.starts for line in folder.lines()] == [1] * 200


def test_cancelled_runs_are_remembered_one_a_line(folder: Folder) -> None:
    assert folder.read_cancelled() == frozenset()
    folder.cancel(RUNS[:2])
    folder.cancel(RUNS[1:3])
    assert folder.read_cancelled() == frozenset(RUNS[:3])


def test_a_board_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    assert Folder(tmp_path / "absent").lines() == []
    assert list(tmp_path.iterdir()) == []
