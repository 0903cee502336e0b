"""Checkpoints: whole or not at all, two kept, damaged ones passed over, foreign ones refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from scalekit.errors import InputError, SystemTroubleError
from scalekit.train.checkpoint import Checkpoints

CPU = torch.device("cpu")


def quiet(line: str) -> None:
    """Say nothing."""


def test_the_newest_is_read_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    for step in (8, 9, 10, 11):
        checkpoints.save(step, {"numbers": torch.full((3,), float(step))})
    assert [p.name for p in checkpoints.newest_first()] == [
        "step-000000011.pt",
        "step-000000010.pt",
    ]
    state = checkpoints.load(CPU, quiet)
    assert state is not None
    assert state["step"] == 11
    assert state["numbers"].tolist() == [11.0] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000010.pt", "step-000000011.pt"]


def test_a_part_of_a_tensor_is_written_without_the_rest_of_it(tmp_path: Path) -> None:
    whole = torch.arange(1e6)
    path = Checkpoints(tmp_path, "a").save(1, {"model": {"part": whole[10:20].view(2, 5)}})
    assert path.stat().st_size < 10_000
    state = Checkpoints(tmp_path, "a").load(CPU, quiet)
    assert state is not None
    assert torch.equal(state["model"]["part"], whole[10:20].view(2, 5))


def test_what_a_kill_left_half_written_is_gone_after_the_next_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(1, {})
    (tmp_path / ".step-000000002.pt.99.tmp").write_bytes(b"half")
    assert [p.name for p in checkpoints.newest_first()] == ["step-000000001.pt"]
    checkpoints.save(3, {})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step-000000001.pt", "step-000000003.pt"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(1, {"numbers": torch.arange(1000.0)})
    newest = checkpoints.save(2, {"numbers": torch.arange(1000.0)})
    whole = newest.read_bytes()
    middle = len(whole) // 2
    newest.write_bytes(
        {
            "empty": b"",
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "text": b"hello",
        }[damage]
    )
    said: list[str] = []
    state = checkpoints.load(CPU, said.append)
    assert state is not None
    assert state["step"] == 1
    assert torch.equal(state["numbers"], torch.arange(1000.0))
    assert "damaged" in said[0]


def test_nothing_readable_means_a_start_from_the_beginning(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none", "a")
    assert checkpoints.load(CPU, quiet) is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "a").save(1, {})
    with pytest.raises(InputError, match="belongs to run 'a', not to 'b'"):
        Checkpoints(tmp_path, "b").load(CPU, quiet)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "step-000000001.pt")
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        Checkpoints(tmp_path, "a").load(CPU, quiet)


class Bomb:
    """What a hostile pickle does: call something while it is read."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_hostile_file_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(pickle.dumps({"schema": Bomb()}))
    with pytest.raises(InputError, match="every checkpoint is damaged or foreign"):
        Checkpoints(tmp_path, "a").load(CPU, quiet)
    torch.save({"schema": Bomb()}, path)
    with pytest.raises(InputError, match="holds more than tensors"):
        Checkpoints(tmp_path, "a").load(CPU, quiet)
    assert not (tmp_path / "exploded").exists()


def test_where_every_checkpoint_is_damaged_none_is_taken_and_none_is_touched(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    for step in (1, 2):
        path = checkpoints.save(step, {"numbers": torch.arange(1000.0)})
        path.write_bytes(path.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said: list[str] = []
    with pytest.raises(InputError) as caught:
        checkpoints.load(CPU, said.append)
    assert str(caught.value).startswith(f"{tmp_path}: every checkpoint is damaged or foreign, ")
    assert str(caught.value).endswith("; move the folder away to start this run from its beginning")
    assert len(said) == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_refuses_leaves_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(1, {})

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SystemTroubleError, match="No space left"):
        checkpoints.save(2, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001.pt"]
