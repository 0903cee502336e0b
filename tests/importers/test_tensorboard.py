"""Event files: framing and CRC, what the real package writes and reads, resumed and torn files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_examples import event, events, field, framed, varint

from scalekit.errors import InputError
from scalekit.importers._protobuf import fields, real, signed
from scalekit.importers._tfrecord import crc32c
from scalekit.importers.base import Imported, Source
from scalekit.importers.tensorboard import IMPORTER


def read(*paths: Path) -> Imported:
    return IMPORTER.read([Source(path, "run1") for path in paths], ())


def test_the_crc_is_castagnolis() -> None:
    # The check value of CRC-32/ISCSI, and RFC 3720, appendix B.4: 32 zeros, 32 ones, 0 to 31.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=40), st.integers(0, 9))
def test_the_crc_of_long_data_is_that_of_its_bytes(data: bytes, times: int) -> None:
    long = data * 2**times
    table = [0] * 256
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table[value] = crc
    crc = 0xFFFFFFFF
    for byte in long:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    assert crc32c(long) == crc ^ 0xFFFFFFFF


@given(st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False), st.binary())
def test_fields_read_back_as_they_were_written(whole: int, number: float, data: bytes) -> None:
    message = field(1, whole % 2**64) + field(2, number) + field(3, data)
    found = dict(fields(message))
    assert isinstance(found[1], int)
    assert signed(found[1]) == whole
    assert real(found[2]) == number
    assert found[3] == data
    assert varint(300) == b"\xac\x02"  # the example of protobuf's documentation of its encoding


def test_scalars_become_rows_by_step(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(events((0, {"loss": 5.5}), (10, {"loss": 4.5, "lr": 0.25})))
    columns = read(path).columns
    assert columns["step"] == [0, 10]
    assert columns["loss"] == [5.5, 4.5]
    assert columns["lr"] == [None, 0.25]
    assert columns["run"] == ["run1", "run1"]


def test_a_torn_last_record_is_told_and_forgiven_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    whole = events((0, {"loss": 5.5}))
    last = event(10, {"loss": 4.5})
    for cut in range(1, len(last)):
        path.write_bytes(whole + last[:cut])
        told = read(path)
        assert told.columns["step"] == [0]
        assert f"the last {cut} bytes are no whole record" in told.notes[0]


@pytest.mark.parametrize("place", [3, 9, 30])
def test_a_damaged_record_is_refused_with_its_place(tmp_path: Path, place: int) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    first = len(events())
    data = bytearray(events((0, {"loss": 5.5}), (10, {"loss": 4.5})))
    data[first + place] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"damaged at byte {first}, the CRC"):
        read(path)


def test_a_file_without_a_scalar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    for data in (b"", events()):
        path.write_bytes(data)
        with pytest.raises(InputError, match="no step with a number in it"):
            read(path)


def test_a_resumed_run_replaces_what_it_logs_again(tmp_path: Path) -> None:
    first, second = tmp_path / "events.out.tfevents.1.a", tmp_path / "events.out.tfevents.2.a"
    first.write_bytes(
        events((0, {"loss": 6.0}), (10, {"loss": 5.0}), (30, {"loss": 3.0}), time=1.0)
    )
    second.write_bytes(events((10, {"loss": 4.5}), (20, {"loss": 4.0}), time=2.0))
    told = read(second, first)  # the order of writing is that of their times, not of their names
    assert told.columns["step"] == [0, 10, 20]
    assert told.columns["loss"] == [6.0, 4.5, 4.0]
    assert "was resumed; 2 steps" in told.notes[0]


RESTARTS = {
    # Evaluated at 20 and 40, killed, and started again from 20, with the next evaluation to come.
    "before the next evaluation": (
        [(30, {"train": 3.0}), (40, {"train": 2.5}), (40, {"val": 9.0}), (50, {"train": 2.0})],
        [(30, {"train": 3.25}), (35, {"train": 3.0})],
        {"val": {20: 4.5}, "train": {10: 5.0, 20: 4.0, 30: 3.25, 35: 3.0}},
    ),
    # Lightning writes hp_metric at step 0 whenever it starts: it says nothing of the step.
    "where a tag begins anew at every start": (
        [(30, {"train": 3.0}), (40, {"val": 9.0})],
        [(0, {"hp_metric": -1.0}), (30, {"train": 3.25})],
        {"val": {20: 4.5}, "train": {10: 5.0, 20: 4.0, 30: 3.25}, "hp_metric": {0: -1.0}},
    ),
    # The steps of another tag may count something else, here epochs, and stand for themselves.
    "with a tag in other steps": (
        [(1, {"epoch": 7.0}), (30, {"train": 3.0}), (2, {"epoch": 6.0})],
        [(30, {"train": 3.25})],
        {"epoch": {1: 7.0}, "val": {20: 4.5}, "train": {10: 5.0, 20: 4.0, 30: 3.25}},
    ),
    "that goes on from its end": (
        [(40, {"val": 4.0})],
        [(0, {"hp_metric": -1.0}), (30, {"train": 3.0}), (40, {"train": 2.0})],
        {
            "hp_metric": {0: -1.0},
            "val": {20: 4.5, 40: 4.0},
            "train": {10: 5.0, 20: 4.0, 30: 3.0, 40: 2.0},
        },
    ),
    "that has logged nothing but its start": (
        [(40, {"val": 4.0})],
        [(0, {"hp_metric": -1.0})],
        {"hp_metric": {0: -1.0}, "val": {20: 4.5, 40: 4.0}, "train": {10: 5.0, 20: 4.0}},
    ),
}


@pytest.mark.parametrize(("rest", "again", "truth"), RESTARTS.values(), ids=RESTARTS.keys())
def test_a_restarted_run_has_no_value_of_what_it_gave_up(
    tmp_path: Path, rest: list, again: list, truth: dict[str, dict[int, float]]
) -> None:
    first, second = tmp_path / "events.out.tfevents.1.a", tmp_path / "events.out.tfevents.2.a"
    start = [(10, {"train": 5.0}), (20, {"train": 4.0}), (20, {"val": 4.5})]
    if any("hp_metric" in values for _, values in again):
        start.insert(0, (0, {"hp_metric": -1.0}))
    first.write_bytes(events(*start, *rest, time=1.0))
    second.write_bytes(events(*again, time=2.0))
    columns = read(first, second).columns
    found = {
        name: {
            step: value
            for step, value in zip(columns["step"], columns[name], strict=True)
            if value is not None
        }
        for name in columns.keys() - {"run", "step"}
    }
    assert found == truth


def test_values_of_what_a_run_gave_up_are_counted_once(tmp_path: Path) -> None:
    first, second = tmp_path / "events.out.tfevents.1.a", tmp_path / "events.out.tfevents.2.a"
    lines = [(10, {"train": 5.0}), (20, {"train": 4.0}), (20, {"val": 9.0}), (30, {"train": 3.0})]
    first.write_bytes(events(*lines, time=1.0))
    second.write_bytes(events((20, {"train": 4.1}), time=2.0))
    assert "was resumed; 3 steps" in read(first, second).notes[0]


def test_an_evaluation_in_a_file_of_its_own_forgets_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "events.out.tfevents.1.a", tmp_path / "events.out.tfevents.2.a"
    first.write_bytes(events((10, {"train": 5.0}), (20, {"train": 4.0}), time=1.0))
    second.write_bytes(events((20, {"eval": 4.5}), time=2.0))
    told = read(first, second)
    assert told.columns["train"] == [5.0, 4.0]
    assert told.columns["eval"] == [None, 4.5]
    assert told.notes == []


def test_a_run_that_ends_with_nan_is_called_diverged(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.a"
    path.write_bytes(events((0, {"val/loss": 6.0}), (10, {"val/loss": float("nan")})))
    told = read(path)
    assert told.columns["status"] == ["diverged"] * 2
    assert "ends with val/loss nan" in told.notes[0]


def tensor_event(step: int, tag: str, tensor: bytes) -> bytes:
    value = field(1, tag.encode()) + field(8, tensor)
    return framed(field(2, step) + field(5, field(1, value)))


@pytest.mark.parametrize(
    "tensor",
    [
        field(1, 1) + field(5, struct.pack("<f", 2.5)),
        field(1, 1) + field(4, struct.pack("<f", 2.5)),
        field(1, 2) + field(4, struct.pack("<d", 2.5)),
        field(1, 2) + field(2, field(2, field(1, 1))) + field(4, struct.pack("<d", 2.5)),
        field(1, 19) + field(4, struct.pack("<e", 2.5)),
    ],
)
def test_a_number_in_a_tensor_is_a_scalar(tmp_path: Path, tensor: bytes) -> None:
    path = tmp_path / "events.out.tfevents.1.a"
    path.write_bytes(events() + tensor_event(7, "loss", tensor))
    assert read(path).columns["loss"] == [2.5]


def test_a_tag_without_scalars_is_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.a"
    pair = field(1, 1) + field(2, field(2, field(1, 2))) + field(4, struct.pack("<2f", 1, 2))
    path.write_bytes(events((7, {"loss": 2.5})) + tensor_event(7, "histogram", pair))
    told = read(path)
    assert "histogram" not in told.columns
    assert "1 tags hold no scalars, left out: histogram" in told.remarks[0]


def test_what_the_real_package_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="compares with tensorboard, which is not installed")
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    summary_pb2 = pytest.importorskip("tensorboard.compat.proto.summary_pb2")
    from tensorboard.plugins.hparams import summary_v2 as hparams
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    rng = np.random.default_rng(0)
    losses = {10 * k: float(rng.normal(4, 1)) for k in range(50)}
    writer = EventFileWriter(str(tmp_path))
    start = hparams.hparams_pb({"n_params": 1.5e8, "opt": "adamw", "tied": True})
    writer.add_event(event_pb2.Event(summary=start))
    for step, loss in losses.items():
        old = summary_pb2.Summary.Value(tag="val/loss", simple_value=loss)
        new = summary_pb2.Summary.Value(
            tag="loss",
            tensor=make_tensor_proto(np.float32(loss)),
            metadata=create_summary_metadata(display_name="", description=""),
        )
        both = summary_pb2.Summary(value=[old, new])
        writer.add_event(event_pb2.Event(step=step, wall_time=1e9 + step, summary=both))
    writer.close()
    (path,) = tmp_path.iterdir()
    assert IMPORTER.recognise(Source(path))
    columns = read(path).columns
    assert columns["step"] == list(losses)
    for name in ("val/loss", "loss"):
        assert columns[name] == [float(np.float32(loss)) for loss in losses.values()]
    for name, value in {"n_params": 1.5e8, "opt": "adamw", "tied": True}.items():
        assert columns[f"hparams.{name}"] == [value] * len(losses)


def test_the_real_package_reads_what_we_frame(tmp_path: Path) -> None:
    """The same bytes through TensorBoard's own reader, which checks the CRCs too."""
    pytest.importorskip("tensorboard", reason="compares with tensorboard, which is not installed")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    path = tmp_path / "events.out.tfevents.1.host"
    told = [(step, {"loss": 5.0 / (step + 1)}) for step in range(20)]
    path.write_bytes(events(*told))
    theirs = [
        (event.step, value.tag, value.simple_value)
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    columns = read(path).columns
    ours = list(zip(columns["step"], ["loss"] * 20, columns["loss"], strict=True))
    assert ours == theirs


@pytest.mark.slow
def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="torch's writer needs tensorboard")
    code = (
        "import sys; from torch.utils.tensorboard import SummaryWriter\n"
        "with SummaryWriter(sys.argv[1]) as writer:\n"
        "    for step in range(3):\n"
        "        writer.add_scalar('val/loss', 4.0 - step, step)\n"
        "    writer.add_text('note', 'hello', 2)\n"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    told = read(path)
    assert told.columns["val/loss"] == [4.0, 3.0, 2.0]
    assert "left out: note" in told.remarks[0]
