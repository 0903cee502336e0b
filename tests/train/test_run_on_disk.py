"""A run and its files: records of others, two writers, a disk that refuses; and that it goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from curves import all_files, curve
from deaths import Death, dying_at
from small_runs import operations

from scalekit import cli
from scalekit.errors import SystemTroubleError
from scalekit.results.record import RecordWriter
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.run import train_run

pytestmark = pytest.mark.usefixtures("quick_attempts")


def after_checkpoint(spec: RunSpec, folder: SweepFolder, nth: int) -> int:
    """Find the moment at which the n-th checkpoint has just been put in its place."""
    done = operations(spec, folder.root.parent)
    return 2 * [i for i, name in enumerate(done) if name == "replace"][nth - 1] + 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello", "no run header in the record"),
        (b"\x00\xff\n", "no run header in the record"),
        (b'{"t": "run", "schema": "scalekit.run/9", "id": "0123456789"}\n', "schema 'scalekit"),
        (b'{"t": "run", "schema": "scalekit.run/1", "id": "other"}\n', "belongs to run 'other'"),
        (b'{"t": "run", "schema": "scalekit.run/1"}\n', "belongs to run None"),
        (
            b'{"t": "run", "schema": "scalekit.run/1", "id": "0123456789"}\n{"t": "step"}\n',
            "a line lacks its step",
        ),
    ],
)
def test_a_file_that_is_no_record_of_this_run_is_refused_and_left_as_it_is(
    *, spec: RunSpec, folder: SweepFolder, command: list[str], capsys, data: bytes, says: str
) -> None:
    path = folder.record(spec.id)
    path.parent.mkdir()
    path.write_bytes(data)
    assert cli.run(command) == 3
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: {says}")
    assert "move the file away" in message or "version of scalekit" in message
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "line", [b'{"t": "step", "step": 5}', b'{"t": "end"}', b'{"t": "x"}', b"?"]
)
def test_strange_lines_in_a_record_do_not_stop_its_run(
    spec: RunSpec, folder: SweepFolder, expected: dict[str, Any], command: list[str], line: bytes
) -> None:
    with pytest.raises(Death), dying_at(after_checkpoint(spec, folder, 2)):
        train_run(spec, folder, device="cpu")
    path = folder.record(spec.id)
    path.write_bytes(path.read_bytes() + line + b"\n")
    assert cli.run(command) == 0
    assert curve(path) == expected


def test_a_record_moved_away_by_hand_starts_the_run_from_its_beginning(
    spec: RunSpec, folder: SweepFolder, expected: dict[str, Any]
) -> None:
    with pytest.raises(Death), dying_at(after_checkpoint(spec, folder, 2)):
        train_run(spec, folder, device="cpu")
    assert len(list(folder.checkpoints(spec.id).iterdir())) == 2
    folder.record(spec.id).rename(folder.root / "away.jsonl")
    said: list[str] = []
    assert train_run(spec, folder, device="cpu", report=said.append) == "done"
    assert said[0] == (
        f"{folder.checkpoints(spec.id)}: checkpoints without the record they belong to, removed; "
        "this run starts from its beginning"
    )
    # Whoever kept the checkpoint would have a curve without its beginning.
    assert curve(folder.record(spec.id)) == expected


def test_a_finished_run_is_left_as_it_is(
    spec: RunSpec, folder: SweepFolder, command: list[str], capsys
) -> None:
    assert cli.run(command) == 0
    before = all_files(folder.root)
    assert cli.run(command) == 0
    assert all_files(folder.root) == before
    assert capsys.readouterr().out == f"{spec.id} done\n" * 2


def test_two_writers_of_one_record_are_refused_and_the_first_loses_nothing(
    spec: RunSpec, folder: SweepFolder, command: list[str], capsys, monkeypatch
) -> None:
    monkeypatch.setattr("scalekit.results.record.LOCK_SECONDS", 0.02)
    with RecordWriter(folder.record(spec.id)) as first:
        first.write("run", id="first")
        before = all_files(folder.root)
        assert cli.run(command) == 7
        assert all_files(folder.root) == before
    assert capsys.readouterr().err == (
        f"error: {folder.record(spec.id)}: another process is writing this run; wait for it or "
        "stop it\n"
    )


# --- A disk that refuses.


def test_an_unwritable_folder_is_told_and_nothing_else_happens(
    spec: RunSpec, folder: SweepFolder, command: list[str], capsys
) -> None:
    (folder.root / "runs").write_text("a file where a folder should be")
    before = all_files(folder.root)
    assert cli.run(command) == 7
    assert capsys.readouterr().err == (
        f"error: {folder.record(spec.id)}: cannot be written, File exists; free the folder and "
        "run again\n"
    )
    assert all_files(folder.root) == before
    (folder.root / "runs").unlink()
    assert cli.run(command) == 0


def fail_with(error: Exception):
    def fail(what: str) -> NoReturn:
        raise error

    return fail


def test_a_disk_that_refuses_at_any_operation_is_told_and_the_same_command_continues(
    spec: RunSpec, tmp_path: Path, expected: dict[str, Any]
) -> None:
    refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    done = operations(spec, tmp_path)
    # After the end line is on the disk only the checkpoints are cleared away.
    first_of_clearing = len(done) - done[::-1].index("fsync")
    for number, name in enumerate(done):
        # A full disk takes part of what is written.
        moment = 2 * number + (name in ("write", "fsync"))
        folder = SweepFolder(tmp_path / str(moment))
        path = folder.record(spec.id)
        if number < first_of_clearing:
            with (
                pytest.raises(SystemTroubleError, match="No space left"),
                dying_at(moment, fail_with(refusal)),
            ):
                train_run(spec, folder, device="cpu")
            assert not list(folder.root.rglob("*.tmp")), f"moment {moment}"
        else:
            with dying_at(moment, fail_with(refusal)):
                assert train_run(spec, folder, device="cpu") == "done", f"moment {moment}"
        assert train_run(spec, folder, device="cpu") == "done"
        assert curve(path) == expected, f"refused at moment {moment}"


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from scalekit.cli import main
main(sys.argv[2:])
"""


@pytest.mark.slow  # a process that imports torch for each size
@pytest.mark.parametrize(
    ("size", "refused_file"),
    [(1000, "runs/0123456789.jsonl"), (3000, "checkpoints/0123456789/step-000000002.pt")],
)
def test_a_real_limit_on_files_stops_the_run_and_once_lifted_it_continues(
    *,
    spec: RunSpec,
    folder: SweepFolder,
    expected: dict[str, Any],
    command: list[str],
    size: int,
    refused_file: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(size), *command, "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith(
        f"error: {folder.root / refused_file}: cannot be written, File too large; free"
    )
    assert read_state(folder.record(spec.id)).status == "stopped"
    assert cli.run(command) == 0
    assert curve(folder.record(spec.id)) == expected
