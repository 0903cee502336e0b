"""Records under fire: cut at every byte, two writers, a full disk, garbage; nothing is lost."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import InputError, SystemTroubleError
from scalekit.results import record as record_module
from scalekit.results.record import SCHEMA, RecordWriter, holds_torn_headers_only, read_record
from scalekit.results.states import RunState, read_state, scan_states
from scalekit.results.store import write_whole

RUN = "00000000aa"


def write_small(path: Path) -> None:
    with RecordWriter(path) as record:
        record.write("run", schema=SCHEMA, id=RUN, config={"a": 1}, plan={})
        record.write("attempt", n=1, resumed_from=0)
        for step in (1, 2):
            record.write("step", step=step, loss=3.0 / step)
            record.write("eval", step=step, val_loss=3.0 / step)
        record.write("end", status="done", wall_s=1.0)


def whole_lines(data: bytes) -> list[dict]:
    return [json.loads(raw) for raw in data.split(b"\n")[:-1]]


def test_a_record_reads_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    record = read_record(path)
    assert record.header["id"] == RUN
    assert [line["step"] for line in record.steps] == [1, 2]
    assert [line["val_loss"] for line in record.evals] == [3.0, 1.5]
    assert record.end is not None
    assert (record.end["status"], record.torn) == ("done", 0)


def test_without_steps_all_else_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    whole, light = read_record(path), read_record(path, steps=False)
    assert light.steps == ()
    assert (light.header, light.attempts, light.evals, light.end) == (
        (whole.header, whole.attempts, whole.evals, whole.end)
    )


def test_a_record_cut_at_any_byte_reads_or_refuses_and_the_next_writer_appends(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    data = path.read_bytes()
    header = data.index(b"\n")
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        known = whole_lines(data[: data.rfind(b"\n", 0, cut) + 1])
        # A last line that lacks nothing but its newline is whole.
        if data[cut : cut + 1] == b"\n":
            known = whole_lines(data[: cut + 1])
        state = read_state(path)
        if cut < header:
            with pytest.raises(InputError, match="no run header"):
                read_record(path)
            assert state == RunState("pending" if cut == 0 else "stopped")
        else:
            record = read_record(path)
            evals = [line for line in known if line["t"] == "eval"]
            assert list(record.evals) == evals
            is_torn = data[cut - 1 : cut] != b"\n" and data[cut : cut + 1] != b"\n"
            assert record.torn == is_torn
            assert record.is_finished == state.is_finished == (cut >= len(data) - 1)
            assert state.last == known[-1]
        with RecordWriter(path) as writer:
            assert read_state(path).status in ("running", "done")
            writer.write("attempt", n=2, resumed_from=0)
        after = path.read_bytes()
        assert after.startswith(data[:cut])
        assert json.loads(after.splitlines()[-1]) == {"t": "attempt", "n": 2, "resumed_from": 0}


def test_a_resumed_run_supersedes_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    with RecordWriter(path) as record:
        record.write("attempt", n=2, resumed_from=1)
        record.write("step", step=2, loss=1.0)
        record.write("eval", step=2, val_loss=1.0)
    read = read_record(path)
    assert [line["loss"] for line in read.steps] == [3.0, 1.0]
    assert [line["val_loss"] for line in read.evals] == [3.0, 1.0]
    assert read.end is None
    assert len(read.attempts) == 2


def test_a_second_writer_is_refused_and_the_first_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "LOCK_SECONDS", 0.05)
    path = tmp_path / "x.jsonl"
    with RecordWriter(path) as first:
        first.write("run", schema=SCHEMA, id=RUN)
        with (
            pytest.raises(SystemTroubleError, match="another process is writing this run"),
            RecordWriter(path),
        ):
            pass
        first.write("attempt", n=1)
    assert [line["t"] for line in whole_lines(path.read_bytes())] == ["run", "attempt"]
    with RecordWriter(path) as second:
        second.write("end", status="done")
    assert read_record(path).is_finished


@pytest.mark.parametrize("data", [b"hello", b'{"t": "run", "id": "a"}\n{"t": "st', b"x\n"])
def test_a_writer_that_writes_nothing_changes_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with RecordWriter(path):
        pass
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("data", "is_torn_header"),
    [
        (b"", True),
        (b"{", True),
        (b'{"t": "run", "schema": "sca', True),
        (b'{"t": "r\n{"t": "run", "sch\n', True),
        (b'{"t": "run", "schema": "scalekit.run/9"}\n', False),
        (b"hello", False),
        (b'{"t": "run", \nhello\n', False),
        (b'{"t": "run", \n{"t": "step", "step": 1}\n', False),
        (b'{"t": "run", \n{"t": "step", "st', False),
    ],
)
def test_only_torn_headers_are_taken_for_a_record_that_never_began(
    tmp_path: Path, data: bytes, is_torn_header: bool
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    assert holds_torn_headers_only(path) == is_torn_header


def test_a_disk_that_cannot_sync_is_system_trouble(tmp_path: Path, monkeypatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with RecordWriter(tmp_path / "x.jsonl") as record:
        monkeypatch.setattr("os.fsync", broken)
        with pytest.raises(SystemTroubleError, match=r"x\.jsonl: cannot be written, Input/output"):
            record.sync()


def test_readers_that_ask_who_writes_never_keep_a_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    path.write_bytes(path.read_bytes().rpartition(b'{"t": "end"')[0])
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            read_state(path)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(200):
            with RecordWriter(path) as record:
                record.write("attempt", n=n)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(read_record(path).attempts) == 201


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from scalekit.errors import SystemTroubleError
from scalekit.results.record import RecordWriter
from scalekit.results.store import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, other = map(Path, sys.argv[1:3])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
try:
    with RecordWriter(path) as record:
        for step in range(3, 9):
            record.write("eval", step=step, val_loss=1.0)
except SystemTroubleError as error:
    print(error)
try:
    write_whole(other, "x" * 100_000)
except SystemTroubleError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path, other = tmp_path / "x.jsonl", tmp_path / "data.csv"
    write_small(path)
    path.write_bytes(path.read_bytes().rpartition(b'{"t": "end"')[0])
    before = path.read_bytes()
    other.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(other)],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert "x.jsonl: cannot be written, File too large; free some space" in first
    assert "data.csv: cannot be written, File too large" in second
    assert path.read_bytes().startswith(before)
    assert [line["step"] for line in read_record(path).evals][:3] == [1, 2, 3]
    assert other.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "x.jsonl"]
    with RecordWriter(path) as record:
        record.write("end", status="done")
    assert read_record(path).is_finished


def test_numbers_that_json_lacks_are_written_as_null(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with RecordWriter(path) as record:
        record.write("run", schema=SCHEMA, id=RUN, config={"a": [math.inf, {"b": math.nan}]})
    assert read_record(path).header["config"] == {"a": [None, {"b": None}]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no run header"),
        (b"hello\nworld\n", "no run header"),
        (b"\x00\xff\xfe" * 100, "no run header"),
        (b"[1, 2]\n3\nnull\n", "no run header"),
        (b"[" * 100_000, "no run header"),
        (b'{"t": "run", "schema": "scalekit.run/9"}\n', "schema 'scalekit.run/9', not"),
        (b'{"t": "run", "schema": "scalekit.run/1"}\n{"t": "step"}\n', "lacks its step"),
        (b'{"t": "run", "schema": "scalekit.run/1"}\n{"t": "eval", "step": "x"}\n', "lacks its"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_missing_record_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.jsonl: cannot be read, No such file"):
        read_record(tmp_path / "x.jsonl")
    assert read_state(tmp_path / "x.jsonl") == RunState("pending")


LINES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [
                b'{"t": "run", "schema": "scalekit.run/1", "id": "a"}',
                b'{"t": "attempt", "resumed_from": 1}',
                b'{"t": "attempt", "resumed_from": "x"}',
                b'{"t": "step", "step": 1}',
                b'{"t": "eval", "step": 2.5}',
                b'{"t": "eval", "step": null}',
                b'{"t": "end", "status": "done"}',
                b'{"t": "end", "status": ["done"]}',
                b'{"t": "end"}',
                b'{"t": ["end"]}',
                b"{}",
            ]
        ),
    ),
    max_size=8,
)


@given(lines=LINES)
def test_any_bytes_give_a_state_and_a_record_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("r") / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert isinstance(read_state(path).step, int)
    try:
        record = read_record(path)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path))
    else:
        assert record.header["schema"] == SCHEMA


def test_a_long_last_line_is_still_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_small(path)
    with RecordWriter(path) as record:
        record.write("attempt", n=2, resumed_from=0)
        record.write("end", status="failed", traceback="x" * 300_000)
    assert read_state(path).status == "failed"


def test_a_folder_in_a_records_place_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    assert read_state(tmp_path / "x.jsonl") == RunState("unreadable")


def test_states_come_in_the_order_asked(make_sweep) -> None:
    folder, lines = make_sweep(3, r2="done")
    ids = [line["id"] for line in lines][::-1]
    assert list(scan_states(folder, ids)) == ids
    assert scan_states(folder, ids)[ids[0]].is_finished


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.txt"
    write_whole(path, "one")
    write_whole(path, b"two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    path.mkdir()
    with pytest.raises(SystemTroubleError, match="cannot be written"):
        write_whole(path, "three")
    assert list(path.parent.iterdir()) == [path]
