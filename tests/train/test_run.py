"""A run from plan line to end line: what it reports, how it fails, what it refuses."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from curves import all_files, curve, write_plan
from scripted import script

from scalekit import cli
from scalekit.datasets.base import Order
from scalekit.errors import InputError
from scalekit.results.record import read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.run import train_run

pytestmark = pytest.mark.usefixtures("quick_attempts")


def test_a_record_says_what_ran_where_and_how_it_ended(spec: RunSpec, folder: SweepFolder) -> None:
    assert train_run(spec, folder, device="cpu") == "done"
    record = read_record(folder.record(spec.id))
    assert record.header["id"] == spec.id
    assert record.header["config"] == spec.config
    assert record.header["plan"] == spec.plan
    assert record.header["facts"]["unique_tokens"] == 7 * 128
    (attempt,) = record.attempts
    assert (attempt["n"], attempt["resumed_from"], attempt["threads"]) == (1, 0, 1)
    assert all(attempt[key] for key in ("time", "host", "device", "code", "torch"))
    assert record.end is not None
    assert record.end["status"] == "done"
    assert 0 < record.steps[-1]["wall_s"] <= record.end["wall_s"]
    assert record.end["energy_j"] is record.end["mfu"] is None


def test_wall_time_adds_up_over_attempts(spec: RunSpec, folder: SweepFolder, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        script(patch, [3.0, 3.0, 3.0, 3.0, RuntimeError("boom")])
        assert train_run(spec, folder, device="cpu") == "failed"
    first = read_record(folder.record(spec.id)).end
    assert first is not None
    folder_of_another_model = folder.checkpoints(spec.id)
    for path in folder_of_another_model.iterdir():
        path.unlink()
    assert train_run(spec, folder, device="cpu") == "done"
    record = read_record(folder.record(spec.id))
    assert record.end is not None
    assert first["wall_s"] < record.steps[0]["wall_s"] < record.end["wall_s"]


# --- Runs that fail.


def test_an_exception_ends_the_run_as_failed_with_its_traceback(
    spec: RunSpec, folder: SweepFolder, command: list[str], monkeypatch, capsys
) -> None:
    script(monkeypatch, [3.0, 3.0, 3.0, RuntimeError("the card fell off the bus")])
    assert cli.run(command) == 4
    out, err = capsys.readouterr()
    assert out == f"{spec.id} failed\n"
    assert "RuntimeError: the card fell off the bus" in err
    record = read_record(folder.record(spec.id))
    assert record.end is not None
    assert record.end["status"] == "failed"
    assert record.end["error"] == "RuntimeError: the card fell off the bus"
    assert "run_loop" in record.end["traceback"]
    assert record.end["traceback"].endswith("RuntimeError: the card fell off the bus\n")
    assert record.end["attempts"] == 1
    assert record.end["wall_s"] > 0
    assert [line["step"] for line in record.steps] == [3]
    assert read_state(folder.record(spec.id)).status == "failed"


def test_a_failed_run_started_again_continues_and_ends_as_if_nothing_had_been(
    spec: RunSpec, folder: SweepFolder, expected: dict[str, Any], command: list[str], monkeypatch
) -> None:
    rows = Order.rows

    def broken_after_five(self: Order, step: int, batch: int) -> np.ndarray:
        if step > 5:
            raise OSError(errno.EIO, "Input/output error")
        return rows(self, step, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Order, "rows", broken_after_five)
        assert cli.run(command) == 4
    assert cli.run(command) == 0
    record = read_record(folder.record(spec.id))
    assert [line["resumed_from"] for line in record.attempts] == [0, 4]
    assert curve(folder.record(spec.id)) == expected


def test_a_model_that_cannot_be_built_fails_in_the_record_too(
    planned, tmp_path: Path, monkeypatch
) -> None:
    spec, folder = planned(), SweepFolder(tmp_path)

    def build(config: object) -> NoReturn:
        raise MemoryError("no room")

    monkeypatch.setattr("scalekit.train.attempt.build_seeded", lambda *args: build(args))
    assert train_run(spec, folder, device="cpu") == "failed"
    end = read_record(folder.record(spec.id)).end
    assert end is not None
    assert end["error"] == "MemoryError: no room"


# --- Input that is refused: exit code, message and place; nothing on disk is damaged.


def refused(
    planned, tmp_path: Path, monkeypatch, capsys, *, options: list[str] | None = None, **parts: Any
) -> tuple[int, str, dict[str, bytes]]:
    """Run the command on a run that must be refused; return code, message and new files."""
    monkeypatch.setattr("scalekit.train.device.keep_freed_memory", lambda: True)
    spec = planned(**parts)
    folder = write_plan(tmp_path / "sweep", spec)
    before = all_files(folder.root)
    options = ["--device", "cpu"] if options is None else options
    code = cli.run(["train", str(folder.root), spec.id, *options])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    after = all_files(folder.root)
    assert {name: after.pop(name) for name in before} == before
    return code, err, {name: data for name, data in after.items() if data}


def test_too_little_data_is_refused_unless_repetition_is_asked_for_by_name(
    planned, tmp_path: Path, monkeypatch, capsys
) -> None:
    data = {"unique_tokens": 320}
    code, message, new = refused(planned, tmp_path, monkeypatch, capsys, data=data)
    assert code == 3
    assert message == (
        "error: data.max_epochs: 1, but 1,536 training tokens are asked of 320 different ones in "
        "'synthetic', 4.80 epochs; train on fewer tokens or set data.max_epochs to allow "
        "repetition\n"
    )
    assert new == {}
    spec, folder = planned(data={**data, "max_epochs": 4.8}), SweepFolder(tmp_path / "asked")
    assert train_run(spec, folder, device="cpu") == "done"
    assert read_record(folder.record(spec.id)).header["facts"]["unique_tokens"] == 320


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            {"train": {"batch_tokens": 100, "tokens": 1200}},
            "train.batch_tokens: 100 is not a whole number of rows of model.context 16; choose a "
            "multiple",
        ),
        (
            {"model": {"vocab": 63}},
            "model.vocab: 63, but 'synthetic' has 64 different tokens; raise it to that",
        ),
        (
            {"data": {"fingerprint": "0"}},
            "data.fingerprint: planned '0', found '10d3f47ce8d7f0c1', so 'synthetic' holds other "
            "text here than where the sweep was planned; plan it again here",
        ),
        (
            {"data": {"val_tokens": 8}},
            "data.val_tokens: 8 is less than one row of 16 tokens; ask for more, or lower "
            "model.context",
        ),
        (
            {"data": {"source": "shards", "path": "nowhere"}},
            "data.path: nowhere is no folder; name one with train*.bin and val*.bin",
        ),
        ({"data": {"source": "wikitex"}}, "dataset 'wikitex': unknown"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split(":")[0],
)
def test_what_data_and_model_cannot_give_is_refused_by_its_key(
    *, planned, tmp_path: Path, monkeypatch, capsys, parts: dict[str, Any], says: str
) -> None:
    code, message, new = refused(planned, tmp_path, monkeypatch, capsys, **parts)
    assert code == (2 if "unknown" in says else 3)
    assert message.startswith(f"error: {says}")
    assert new == {}


def test_heads_that_do_not_divide_are_refused_and_the_record_says_why(
    planned, tmp_path: Path, monkeypatch, capsys
) -> None:
    model = {"n_heads": 3, "n_kv_heads": 2}
    code, message, new = refused(planned, tmp_path, monkeypatch, capsys, model=model)
    assert code == 3
    says = "model.n_kv_heads: 2 does not divide n_heads 3; choose a divisor"
    assert message == f"error: {says}\n"
    (record,) = new.values()
    assert json.loads(record.splitlines()[-1])["error"] == f"InputError: {says}"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--device", "tpu"], 2, "--device 'tpu': "),
        (["--device", "mps"], 2, "--device 'mps': not supported; choose from auto, cpu, cuda"),
        (["--device", "cuda"], 3, "--device 'cuda': torch finds no GPU here; use cpu, or a torch"),
        (["--threads", "0"], 2, "Invalid value for '--threads': "),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_the_record_is_touched(
    *, planned, tmp_path: Path, monkeypatch, capsys, options: list[str], code: int, says: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = planned()
    folder = write_plan(tmp_path / "sweep", spec)
    assert cli.run(["train", str(folder.root), spec.id, *options]) == code
    assert f"error: {says}" in capsys.readouterr().err
    assert [p.name for p in folder.root.iterdir()] == ["plan.jsonl"]


@pytest.mark.parametrize(
    ("gpus", "options", "is_told"), [(1, [], True), (1, ["--device", "cpu"], False), (0, [], False)]
)
def test_a_run_that_asked_for_a_gpu_says_so_when_it_trains_without(
    planned, tmp_path: Path, monkeypatch, capsys, *, gpus: int, options: list[str], is_told: bool
) -> None:
    """On a node whose driver is broken it took its whole time limit without a word."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = replace(planned(), resources={"gpus": gpus})
    folder = write_plan(tmp_path, spec)
    assert cli.run(["train", str(folder.root), spec.id, *options]) == 0
    says = f"run {spec.id}: resources.gpus asks for a GPU and torch finds none here; training on"
    assert (says in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("0123456788", "no run '0123456788' in the plan; did you mean '0123456789'?"),
        ("zz", "no run 'zz' in the plan; choose from 0123456789, 01234567aa"),
        ("01234567", "'01234567' starts 2 runs; give more digits of the id"),
    ],
)
def test_a_run_is_named_by_enough_of_its_id(
    planned, tmp_path: Path, capsys, run: str, says: str
) -> None:
    specs = [planned(), planned("01234567aa")]
    folder = write_plan(tmp_path, specs[0])
    folder.plan_file.write_text("".join(json.dumps(s.to_json()) + "\n" for s in specs))
    assert cli.run(["train", str(tmp_path), run]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: {says}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.jsonl"]


def test_a_folder_without_a_plan_and_a_torn_plan_are_refused(
    spec: RunSpec, tmp_path: Path, capsys
) -> None:
    assert cli.run(["train", str(tmp_path), "0"]) == 3
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: no plan.jsonl, No such file or directory; name the folder of a sweep\n"
    )
    line = json.dumps(spec.to_json()) + "\n"
    (tmp_path / "plan.jsonl").write_text(line + line[:-5])
    assert cli.run(["train", str(tmp_path), "2"]) == 3
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/plan.jsonl:2: not JSON; run the sweep command again, it rewrites the "
        "plan\n"
    )


def test_a_plan_of_another_version_is_refused_by_its_key(
    spec: RunSpec, folder: SweepFolder, command: list[str], capsys
) -> None:
    line = spec.to_json()
    line["config"] = {**spec.config, "train": {**spec.config["train"], "momentum": 0.9}}
    folder.plan_file.write_text(json.dumps(line) + "\n")
    assert cli.run(command) == 3
    assert capsys.readouterr().err == (
        f"error: train.momentum: 0.9 in the plan of run {spec.id}, extra inputs are not permitted; "
        "run the sweep command again, it rewrites the plan\n"
    )
    assert [p.name for p in folder.root.iterdir()] == ["plan.jsonl"]


def test_input_is_refused_before_a_record_begins(planned, tmp_path: Path) -> None:
    spec, folder = planned(model={"vocab": 8}), SweepFolder(tmp_path)
    with pytest.raises(InputError):
        train_run(spec, folder, device="cpu")
    assert read_state(folder.record(spec.id)).status == "pending"
