"""A checkpoint in parts, here of one: whole or not there, checked, and read without running code.

Several processes that write and read them are in `test_team.py`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata

from scalekit.errors import InputError, SystemTroubleError
from scalekit.train.checkpoint import SCHEMA, Checkpoints
from scalekit.train.sharded_checkpoint import (
    _IndexUnpickler,
    load_shards,
    read_facts,
    save_shards,
)
from scalekit.train.team import SOLO

CPU = torch.device("cpu")


def tensors(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "model/weight": torch.randn(3, 4, generator=draw),
        "optimizer/state/0/step": torch.tensor(float(seed)),
        "torch_rng": torch.randint(256, (16,), dtype=torch.uint8, generator=draw),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the checkpoint of step 7."""
    facts = {"schema": SCHEMA, "run": "abc", "step": 7, "progress": {"step": 7}}
    path = Checkpoints(tmp_path, "abc").shards(7)
    save_shards(path, tensors(1), facts, SOLO)
    return path


def test_what_was_saved_is_read_back_to_the_bit_into_the_tensors_given(saved: Path) -> None:
    assert read_facts(saved)["progress"] == {"step": 7}
    found = tensors(2)
    load_shards(saved, found, SOLO)
    assert found.keys() == tensors(1).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(1).items())
    assert [path.name for path in saved.parent.iterdir()] == ["step-000000007"]


def said_by(folder: Path) -> list[str]:
    """What is reported of the checkpoints of a run of which none can be read."""
    said: list[str] = []
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        Checkpoints(folder, "abc").load(CPU, said.append)
    return said


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_one_flipped_bit_is_seen_and_the_checkpoint_passed_over(saved: Path, name: str) -> None:
    raw = bytearray((saved / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (saved / name).write_bytes(raw)
    assert said_by(saved.parent) == [
        f"{saved}: damaged, the checksum of {name} does not match; trying the one before"
    ]


def test_a_missing_part_and_a_list_of_files_elsewhere_are_seen(saved: Path) -> None:
    facts = json.loads((saved / "run.json").read_text())
    (saved / "run.json").write_text(json.dumps(facts | {"files": {"../x": 0}}))
    assert "'../x' is not a file of this folder" in said_by(saved.parent)[0]
    (saved / "run.json").write_text(json.dumps(facts))
    (saved / "__0_0.distcp").unlink()
    assert "No such file" in said_by(saved.parent)[0]
    (saved / "run.json").write_text("{}")
    assert "run.json does not list the files" in said_by(saved.parent)[0]


def test_another_runs_checkpoint_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="belongs to run 'abc', not to 'def'"):
        Checkpoints(saved.parent, "def").load(CPU, print)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_an_index_that_would_run_code_is_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (saved / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SystemTroubleError, match=r"asks for posix\.system, which no index needs"):
        load_shards(saved, tensors(2), SOLO)
    assert not (tmp_path / "owned").exists()


class Asks:
    """Pickles as a call of `getattr`, as early releases of Python 3.11 write enumerations."""

    def __init__(self, *asked: Any) -> None:
        self.asked = asked

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return getattr, self.asked


def test_an_index_may_ask_for_members_of_enumerations_and_for_no_other_attribute() -> None:
    kind = metadata._MEM_FORMAT_ENCODING
    (member, *_) = kind
    written = pickle.dumps(Asks(kind, member.name))
    assert _IndexUnpickler(io.BytesIO(written)).load() is member
    for asked in ((metadata.Metadata, "__init__"), (kind, "__class__")):
        written = pickle.dumps(Asks(*asked))
        with pytest.raises((pickle.UnpicklingError, KeyError)):
            _IndexUnpickler(io.BytesIO(written)).load()


def test_a_kill_before_all_is_written_leaves_the_one_before(saved: Path) -> None:
    scratch = saved.with_name(".step-000000009.tmp")
    scratch.mkdir()
    (scratch / "__0_0.distcp").write_bytes(b"half")
    said: list[str] = []
    assert Checkpoints(saved.parent, "abc").load(CPU, said.append) is not None
    assert said == []
    Checkpoints(saved.parent, "abc").drop_old()
    assert not scratch.exists()


def test_only_the_last_two_are_kept_of_either_kind(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "abc")
    for step in (1, 2, 3):
        facts = {"schema": SCHEMA, "run": "abc", "step": step, "progress": {"step": step}}
        save_shards(checkpoints.shards(step), tensors(step), facts, SOLO)
    checkpoints.save(4, {"progress": {"step": 4}})
    assert [path.name for path in checkpoints.newest_first()] == [
        "step-000000004.pt",
        "step-000000003",
    ]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemTroubleError, match="cannot be written, Not a directory"):
        save_shards(tmp_path / "file" / "step-000000001", tensors(1), {}, SOLO)
