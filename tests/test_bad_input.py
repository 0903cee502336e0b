"""What no command may do: answer a mistake with a traceback, or damage what lies on the disk.

Bad sweep files are in `commands/test_sweep_command.py`, single tables and records in `results/`,
runs in `train/`. Here every command meets the same trouble: a place that cannot be written, a full
disk, a table that is none, a sweep's folder in which a file is missing, torn or somebody else's.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from scalekit.cli import run
from scalekit.results.store import SweepFolder

SIMULATE = ["simulate", "--budgets", "1e18,1e19,1e20", "--noise", "0", "-o", "data.csv"]

# Each writes OUT, or files below it.
WRITERS = {
    "simulate": ["simulate", "--budgets", "1e18", "-o", "OUT.csv"],
    "collect": ["collect", "data.csv", "-o", "OUT.csv"],
    "fit": ["fit", "data.csv", "-o", "OUT.json"],
    "plot": ["plot", "fit.json", "isoflop", "-o", "OUT", "-t", "svg"],
    "analyze": ["analyze", "data.csv", "-o", "OUT", "-t", "svg", "--bootstrap", "0"],
    "init": ["init", "OUT"],
    "sweep": ["sweep", "demo.yaml", "--yes", "--out", "OUT"],
}

SWEEP = """\
scalekit: 1
name: demo
base:
  model: {n_layers: 1, d_model: 16, head_dim: 16, context: 16}
  data: {source: synthetic}
  train: {batch_tokens: 256}
grid: {train.tokens: [1024, 2048]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a fit and a sweep file."""
    folder = tmp_path_factory.mktemp("made")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert run(SIMULATE) == 0
        assert run(["fit", "data.csv", "-o", "fit.json"]) == 0
    finally:
        os.chdir(here)
    (folder / "demo.yaml").write_text(SWEEP)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message: the last line of stderr, of a command that showed no traceback."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


# --- Places that cannot be written.


@pytest.mark.parametrize(
    ("name", "place", "reason"),
    [
        *((name, "file/x", "File exists|Not a directory|is not a folder") for name in WRITERS),
        *((name, "/proc/no/x", "No such file or directory") for name in ("simulate", "sweep")),
    ],
)
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_touched(
    here: Path, capsys, *, name: str, place: str, reason: str
) -> None:
    (here / "file").write_text("a file where a folder should be")
    before = all_files(here)
    assert run([word.replace("OUT", place) for word in WRITERS[name]]) == 7
    message = told(capsys)
    assert message.startswith(f"error: {place}")
    assert any(word in message for word in reason.split("|"))
    assert "; " in message  # what to do
    assert all_files(here) == before


@pytest.mark.parametrize("name", ["fit", "analyze"])
def test_what_takes_long_refuses_its_output_before_it_reads_anything(
    here: Path, capsys, name: str
) -> None:
    (here / "file").write_text("a file where a folder should be")
    argv = [word.replace("OUT", "file/x") for word in WRITERS[name]]
    assert run([word.replace("data.csv", "missing.csv") for word in argv]) == 7
    assert "is not a folder; choose another" in told(capsys)


def full_disk(fd: int) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_an_older_result_stays_whole(
    here: Path, capsys, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # What is written whole is synced before it takes its place, and there the disk refuses.
    argv = [word.replace("OUT", "out") for word in WRITERS[name]]
    older = {Path("out.csv"), Path("out.json"), Path("out/data.csv"), Path("out/isoflop.svg")}
    Path("out").mkdir()
    for path in older:
        path.write_text("what was there")
    before = all_files(here)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        assert run(argv) == 7
    message = told(capsys)
    assert message.startswith("error: out")
    assert "cannot be written, No space left on device; free" in message
    after = all_files(here)
    after.pop("out/.lock", None)  # of the sweep command; empty, and the system's with the process
    assert after == before


# --- Tables that are none.

BAD_TABLES: dict[str, tuple[bytes | None, str]] = {
    "no loss": (
        b"params,tokens,los\n1e7,2e8,3.1\n",
        "bad.csv: no column 'loss'; did you mean 'los'",
    ),
    "text for loss": (
        b"params,tokens,loss\n1e7,2e8,3.1\n1e7,3e8,good\n",
        "bad.csv: column 'loss' is not numeric, 'good' in row 2; mend the cell",
    ),
    "short row": (
        b"params,tokens,loss\n1e7,2e8,3.1\n1e7\n",
        "bad.csv:3: 1 cells but the header has 3; mend the row",
    ),
    "not text": (b"params,tokens,loss\n1e7,2e8,\xff\xfe\n", "bad.csv:2: not UTF-8 text"),
    "empty": (b"", "bad.csv: the file is empty"),
    "absent": (None, "bad.csv: cannot be read, No such file or directory; name a "),
}


@pytest.mark.parametrize("table", BAD_TABLES)
@pytest.mark.parametrize(
    "argv", [["fit", "bad.csv", "-o", "out.json"], ["analyze", "bad.csv", "-o", "out"]], ids=str
)
def test_a_table_without_its_numbers_is_refused_by_place(
    here: Path, capsys, argv: list[str], table: str
) -> None:
    data, says = BAD_TABLES[table]
    if data is not None:
        Path("bad.csv").write_bytes(data)
    Path("out.json").write_text("what was there")
    before = all_files(here)
    assert run(argv) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1
    assert all_files(here) == before


# --- A sweep's folder in which something is wrong.

LOOKERS = {
    "status": ["status", "demo"],
    "logs": ["logs", "demo", "--failed"],
    "cancel": ["cancel", "demo"],
    "wait": ["wait", "demo"],
    "train": ["train", "demo", "0000000001"],
    "collect": ["collect", "demo"],
    "fit": ["fit", "demo", "-o", "out.json"],
    "plot": ["plot", "demo", "design", "-o", "out", "-t", "svg"],
    "analyze": ["analyze", "demo", "-o", "out", "-t", "svg", "--bootstrap", "0"],
}


def cut_plan(folder: SweepFolder) -> None:
    folder.plan_file.write_bytes(folder.plan_file.read_bytes()[:-10])


def fill_plan(data: bytes) -> Callable[[SweepFolder], None]:
    def fill(folder: SweepFolder) -> None:
        folder.plan_file.write_bytes(data)

    return fill


def change_plan(key: str, value: Any) -> Callable[[SweepFolder], None]:
    def change(folder: SweepFolder) -> None:
        first, *others = folder.plan_file.read_text().splitlines(keepends=True)
        line = json.dumps({**json.loads(first), key: value}) + "\n"
        folder.plan_file.write_text("".join([line, *others]))

    return change


BAD_PLANS: dict[str, tuple[Callable[[SweepFolder], None], str]] = {
    "torn": (cut_plan, "demo/plan.jsonl:3: not JSON; run the sweep command again"),
    "garbage": (fill_plan(b"\xff\x00\n"), "demo/plan.jsonl:1: not JSON; run the sweep command"),
    "of another program": (
        fill_plan(b'{"id": "0000000001"}\n'),
        "demo/plan.jsonl:1: schema None, not 'scalekit.plan/1'; run the sweep command again",
    ),
    "half a line": (
        fill_plan(b'{"schema": "scalekit.plan/1", "id": "x", "config": {}}\n'),
        "demo/plan.jsonl:1: no 'plan' in it; run the sweep command again, it rewrites the plan",
    ),
    "empty in a part": (
        change_plan("plan", {}),
        "demo/plan.jsonl:1: no 'plan.params' in it; run the sweep command again",
    ),
    "empty in another part": (
        change_plan("config", {}),
        "demo/plan.jsonl:1: no 'config.model' in it; run the sweep command again",
    ),
    "no object": (fill_plan(b"[1]\n"), "demo/plan.jsonl:1: schema None, not 'scalekit.plan/1'"),
}


@pytest.mark.parametrize("plan", BAD_PLANS)
@pytest.mark.parametrize("name", LOOKERS)
def test_a_plan_that_is_none_is_refused_with_its_line(
    make_sweep, tmp_path: Path, monkeypatch, capsys, *, name: str, plan: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = make_sweep(3, r0="done", r1=None)
    damage, says = BAD_PLANS[plan]
    damage(folder)
    before = all_files(tmp_path)
    assert run(LOOKERS[name]) == 3
    assert told(capsys).startswith(f"error: {says}")
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("name", LOOKERS)
def test_a_folder_without_a_plan_is_refused(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    argv = [*LOOKERS[name], "-o", "out.csv"] if name == "collect" else LOOKERS[name]
    assert run(argv) == 3
    assert told(capsys).startswith("error: demo: ")
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


HEADER = {"t": "run", "schema": "scalekit.run/1", "id": "0000000002"}

BAD_RECORDS = {
    "garbage": (b"\x00\x01garbage\n" * 20, "no run header in the record"),
    "of another version": (
        b'{"t": "run", "schema": "scalekit.run/9"}\n',
        "schema 'scalekit.run/9', not",
    ),
    "of another run": (json.dumps(HEADER).encode() + b"\n", "holds run '0000000002'"),
    # What a kill leaves is no damage: such a run is stopped, and the sweep command goes on with it.
    "torn in its header": (b'{"t": "run", "schema": "sc', None),
}


@pytest.mark.parametrize("record", BAD_RECORDS)
@pytest.mark.parametrize("name", [name for name in LOOKERS if name != "train"])
def test_a_record_that_cannot_be_read_stops_no_command_and_stays_as_it_is(
    make_sweep, tmp_path: Path, monkeypatch, capsys, *, name: str, record: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = make_sweep(8, **{f"r{i}": "done" for i in range(8)})
    data, says = BAD_RECORDS[record]
    folder.record("0000000001").write_bytes(data)
    before = all_files(folder.root / "runs")
    # The fits fail for another reason: runs of three sizes and one length identify no law.
    codes = {
        "collect": 4 if says else 0,
        "wait": 4 if record == "garbage" else 5,
        "fit": 6,
        "analyze": 6,
    }
    assert run(LOOKERS[name]) == codes.get(name, 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if name == "collect" and says:
        assert f"warning: demo/runs/0000000001.jsonl: {says}" in err
    if name in ("status", "wait"):
        assert "8 runs: 7 done, 1 " in out
    assert all_files(folder.root / "runs") == before


def test_a_missing_record_is_a_run_that_has_not_begun(make_sweep, capsys) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    folder.record("0000000001").unlink()
    assert run(["status", str(folder.root)]) == 0
    assert "2 runs: 1 done, 1 pending" in capsys.readouterr().out
