"""Preparing a folder: the same bytes for any number of processes and any kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from tokenizer_examples import made

from scalekit import cli, registry
from scalekit.datasets import shards
from scalekit.datasets._manifest import PLAN, read_manifest
from scalekit.documents.base import Ask
from scalekit.errors import InputError, SystemTroubleError
from scalekit.prepare.check import check_folder
from scalekit.prepare.recipe import Recipe, find_sources
from scalekit.prepare.run import prepare

TEXTS = [f"document {n}: " + "some words é " * (n % 17) for n in range(400)]
RECIPE = Recipe("bytes", None, 0.1, 4000, Ask())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*TEXTS, "", TEXTS[7]]))
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("out") / "prepared"
    fill(source, folder)
    return files(folder)


def fill(source: Path, folder: Path, workers: int = 1) -> None:
    sources = find_sources([str(source)], None, is_held_out=False)
    prepare(RECIPE, sources, folder, workers=workers)


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def read_back(folder: Path, split: str) -> list[str]:
    """Read the documents of a split out of the shards themselves."""
    tokens = b"".join(
        shards.read_shard(p).map().astype(np.uint8).tobytes()
        for p in sorted(folder.glob(f"{split}_*.bin"))
    )
    return [text.decode() for text in tokens.split(b"\0")[:-1]]


class Death(BaseException):
    """The end of a process that cannot do anything about it."""


@contextlib.contextmanager
def dying_at(moment: int | None) -> Iterator[list[str]]:
    """Die before (2k) or after (2k + 1) the k-th disk operation; list those that were begun."""
    real = {name: getattr(os, name) for name in ("replace", "fsync", "unlink", "rmdir")}
    done: list[str] = []
    dead: list[bool] = []

    def wrap(name: str) -> Any:
        def operation(*args: Any, **options: Any) -> Any:
            if dead:
                raise Death  # a killed process cleans nothing up
            number = len(done)
            done.append(name)
            if moment == 2 * number:
                dead.append(True)
                raise Death
            result = real[name](*args, **options)
            if moment == 2 * number + 1:
                dead.append(True)
                raise Death
            return result

        return operation

    try:
        for name in real:
            setattr(os, name, wrap(name))
        yield done
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def test_every_document_is_in_one_split_and_equal_ones_in_the_same(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    fill(source, tmp_path / "out")
    train, val = (read_back(tmp_path / "out", split) for split in ("train", "val"))
    assert sorted([*train, *val]) == sorted([*TEXTS, TEXTS[7]])
    assert not set(train) & set(val)
    # 400 draws of a tenth: 40, within four standard deviations of 6.
    assert 16 < len(val) < 64


def test_the_manifest_counts_what_the_shards_hold(source: Path, tmp_path: Path) -> None:
    fill(source, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    for split in ("train", "val"):
        texts, counts = read_back(tmp_path / "out", split), manifest.splits[split]
        assert counts["documents"] == len(texts)
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
        assert counts["tokens"] == counts["bytes"] + len(texts)
        assert counts["bytes_per_token"] == counts["bytes"] / counts["tokens"]
    assert manifest.recipe["empty_documents"] == 1
    assert len(manifest.shards) > 8


def test_a_folder_is_the_same_for_any_number_of_processes(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    fill(source, tmp_path / "out", workers=3)
    assert files(tmp_path / "out") == expected


def test_killed_at_any_disk_operation_and_started_again_a_folder_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)  # a hundred folders need not wait for the disk
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:60]))
    with dying_at(None) as done:
        fill(source, tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert len([name for name in expected if name.startswith("train_")]) > 1
    assert done.count("replace") > 5
    for moment in range(2 * len(done)):
        folder = tmp_path / str(moment)
        with pytest.raises(Death), dying_at(moment):
            fill(source, folder)
        fill(source, folder)
        assert files(folder) == expected, f"moment {moment}, {done[moment // 2]}"


def test_killed_for_good_with_its_processes_it_goes_on_to_the_same_folder(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scalekit", "data", "prepare", str(source), "-o", str(out)]
    command += ["--part-bytes", "4000", "--val-share", "0.1", "-w", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("parts/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert cli.run(command[3:]) == 0
    assert files(out) == expected


def test_an_unfinished_folder_is_refused_by_training_until_it_is_finished(
    source: Path, tmp_path: Path
) -> None:
    data = {"source": "shards", "path": str(tmp_path), "unique_tokens": None}
    with pytest.raises(Death), dying_at(12):
        fill(source, tmp_path)
    assert (tmp_path / PLAN).exists()
    with pytest.raises(InputError, match="not prepared to its end; run the same"):
        shards.facts(data)
    fill(source, tmp_path)
    assert shards.facts(data)["vocab"] == 256


def test_a_finished_folder_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    fill(source, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    fill(source, tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_a_finished_folder_that_lost_a_shard_is_not_called_finished(
    source: Path, tmp_path: Path, capsys
) -> None:
    fill(source, tmp_path)
    shard = tmp_path / "train_000001.bin"
    command = ["data", "prepare", str(source), "-o", str(tmp_path), "--part-bytes", "4000"]
    command += ["--val-share", "0.1", "-w", "1"]
    shard.write_bytes(shard.read_bytes()[:-4])
    assert cli.run(command) == 3
    assert "train_000001.bin" in capsys.readouterr().err
    shard.unlink()
    assert cli.run(command) == 3
    assert "train_000001.bin" in capsys.readouterr().err


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_folder_of_another_recipe_or_source_is_refused_and_left_as_it_is(
    is_finished: bool, tmp_path: Path
) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"text": t, "more": t}) + "\n" for t in TEXTS))
    with contextlib.suppress(Death), dying_at(None if is_finished else 40):
        fill(source, out)
    before = files(out)
    assert ("manifest.json" in before) == is_finished
    begun = ["data", "prepare", str(source), "-o", str(out), "--part-bytes", "4000", "-w", "1"]
    begun += ["--val-share", "0.1"]
    for change in (["--column", "more"], ["--val-share", "0.2"], ["--end-of-text", "none"]):
        assert cli.run([*begun, *change]) == 3
    source.write_text(source.read_text() + '{"text": "more", "more": ""}\n')
    assert cli.run(begun) == 3
    assert files(out) == before


def test_a_folder_with_something_else_in_it_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train_000000.bin").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"holds 'train_000000\.bin', which was not prepared"):
        fill(source, tmp_path)
    assert files(tmp_path) == {"train_000000.bin": b"somebody's"}


def test_two_preparations_of_one_folder_do_not_meet(source: Path, tmp_path: Path) -> None:
    import fcntl

    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(SystemTroubleError, match="another process is preparing it"):
            fill(source, tmp_path)
    finally:
        os.close(handle)


def test_sources_held_out_by_name_are_and_others_are_not(source: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("held out\n\nthis too\n")
    out = tmp_path / "out"
    command = ["data", "prepare", str(source), "-o", str(out), "-w", "1", "--documents", "blank"]
    assert cli.run([*command, "--val", str(tmp_path / "val.txt")]) == 0
    assert read_back(out, "val") == ["held out", "this too"]
    assert read_back(out, "train") == [*TEXTS, TEXTS[7]]


def test_a_copy_of_what_is_trained_on_is_not_held_out(source: Path, tmp_path: Path, capsys) -> None:
    copy, out = tmp_path / "copy.txt", tmp_path / "out"
    copy.write_bytes(source.read_bytes())
    command = ["data", "prepare", str(source), "-o", str(out), "-w", "1", "--documents", "blank"]
    assert cli.run([*command, "--source-format", "text", "--val", str(copy)]) == 3
    assert f"--val {copy}: is a copy of {source}" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_document_that_is_held_out_is_trained_on_nowhere(
    tmp_path: Path, capsys, workers: int
) -> None:
    texts, held = TEXTS[:60], [*TEXTS[10:13], "only held out"]
    # In several parts, and one of them twice.
    for n, some in enumerate((texts[:20], texts[20:], [texts[11], "\n"])):
        (tmp_path / f"{n}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in some))
    (tmp_path / "val.txt").write_text("\n\n".join(held))
    out = tmp_path / "out"
    command = ["data", "prepare", *(str(tmp_path / f"{n}.jsonl") for n in range(3)), "-o", str(out)]
    command += ["--part-bytes", "2000", "--documents", "blank", "-w", str(workers)]
    assert cli.run([*command, "--val", str(tmp_path / "val.txt")]) == 0
    assert "4 documents to train on left out, held out by --val\n" in capsys.readouterr().out
    assert sorted(read_back(out, "val")) == sorted(held)
    expected = [*texts[:10], *texts[13:], "\n"]
    assert sorted(read_back(out, "train")) == sorted(expected)
    assert len(list(out.glob("train_*.bin"))) > 1
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.recipe["also_held_out"] == 4
    assert cli.run(["data", "check", str(out), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["also_held_out"], told["empty_documents"]) == (4, 0)
    older = json.loads((out / "manifest.json").read_text())
    del older["recipe"]["also_held_out"]
    (out / "manifest.json").write_text(json.dumps(older))
    assert cli.run([*command, "--val", str(tmp_path / "val.txt")]) == 0
    assert "version that trained on documents of --val" in capsys.readouterr().err


def test_parts_done_by_a_version_that_trained_on_what_is_held_out_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, texts in {"a": TEXTS[:20], "b": TEXTS[20:23], "val": TEXTS[15:23]}.items():
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts))
    recipe = Recipe("bytes", None, 0.0, 400, Ask(unit="blank"))
    named = [([str(tmp_path / f"{name}.txt") for name in "ab"], False)]
    named += [([str(tmp_path / "val.txt")], True)]
    sources = [s for names, held in named for s in find_sources(names, None, is_held_out=held)]
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr("scalekit.prepare.run.note_held_out", lambda *_: None)
        patch.setattr("scalekit.prepare.run._write_files", Mock(side_effect=Death))
        with pytest.raises(Death):
            prepare(recipe, sources, begun, workers=1)
    for path in (begun / "parts").glob("*.json"):
        report = json.loads(path.read_text())
        del report["also_held_out"]
        path.write_text(json.dumps(report))
    for folder in (begun, whole):
        prepare(recipe, sources, folder, workers=1)
    assert files(begun) == files(whole)


def test_sources_whose_documents_are_all_held_out_are_refused(tmp_path: Path, capsys) -> None:
    for name, texts in {"in": TEXTS[3:5], "val": TEXTS[:9]}.items():
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts))
    command = ["data", "prepare", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out")]
    command += ["--documents", "blank", "-w", "1", "--val", str(tmp_path / "val.txt")]
    assert cli.run(command) == 3
    assert "--val: has every document of the sources; name others" in capsys.readouterr().err


def test_what_is_left_out_of_a_folder_is_told(source: Path, tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / ".cache").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "a.txt").write_text("\n\n".join(TEXTS))
    for name in ("b.jsonl.zst", "C.JSONL", ".hidden.png", ".cache/d.bin"):
        (folder / name).write_bytes(b"{}")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    command = ["data", "prepare", str(folder), "-o", str(out), "-w", "1", "--documents", "blank"]
    assert cli.run(command) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {folder}: 2 files whose ending tells no format left out, the first is C.JSONL",
        f"note: {folder}: 1 linked folder left out, the first is more",
    ]


def test_small_files_share_a_shard(tmp_path: Path) -> None:
    (tmp_path / "in" / ".git").mkdir(parents=True)
    (tmp_path / "in" / ".git" / "hidden.txt").write_text("not this")
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    for n, text in enumerate(TEXTS[:40]):
        (tmp_path / "in" / f"{n:02d}.txt").write_text(text)
    sources = find_sources([str(tmp_path / "in")], None, is_held_out=False)
    assert len(sources) == 40
    prepare(RECIPE, sources, tmp_path / "out", workers=1)
    assert len(list((tmp_path / "out").glob("train_*.bin"))) < 4
    found = [text for split in ("train", "val") for text in read_back(tmp_path / "out", split)]
    assert sorted(found) == sorted(TEXTS[:40])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{in}", "--val-share", "0"], 3, "all of them for training; change the share"),
        (["{in}", "--val-share", "1"], 3, "all of them held out; change the share"),
        (["{in}", "{in}"], 2, "named twice"),
        (["{in}", "--tokenizer", "byte"], 2, "did you mean 'bytes'"),
        (["{in}", "--tokenizer", "bytes:x"], 3, "bytes need no file"),
        (["{in}", "--column", "body"], 3, "no column 'body'"),
        (["{in}", "--part-bytes", "lots"], 2, "--part-bytes 'lots'"),
        (["{in}", "--part-bytes", "0"], 2, "less than one byte"),
        (["{in}", "--val", "{in}", "--val-share", "0.1"], 2, "give one of them"),
        (["{in}", "--source-format", "jsonlines"], 2, "did you mean 'jsonl'"),
        (["{folder}/nowhere.jsonl"], 3, "nowhere.jsonl: cannot be read"),
        (["{folder}/empty"], 3, "no file of a known format"),
        (["{folder}/picture.png"], 3, "its ending tells no format; say --source-format"),
        (["{folder}/nowhere"], 3, "no such file or folder"),
        (["{folder}/blank.jsonl"], 3, "the sources: no document with any text"),
        (["{in}", "--val", "{folder}/blank.jsonl"], 3, "--val: no document with any text"),
        (["{folder}/blank.jsonl", "--val", "{in}"], 3, "the sources: no document with any text"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_words(
    *, arguments: list[str], code: int, says: str, source: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "blank.jsonl").write_text('\n{"text": ""}\n')
    filled = [a.format(**{"in": source, "folder": tmp_path}) for a in arguments]
    assert cli.run(["data", "prepare", *filled, "-o", str(tmp_path / "out"), "-w", "1"]) == code
    said = capsys.readouterr().err
    assert says in said
    assert said.startswith("error: ")


def test_bytes_of_sources_to_hold_out_are_told_as_they_are_read_before_all_else(
    tmp_path: Path,
) -> None:
    for name, texts in (("train", TEXTS[:90]), ("val", TEXTS[90:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    train, val = (tmp_path / f"{name}.jsonl" for name in ("train", "val"))
    sizes = [path.stat().st_size for path in (train, val)]
    sources = find_sources([str(train)], None, is_held_out=False)
    sources += find_sources([str(val)], None, is_held_out=True)
    told: list[tuple[int, int]] = []
    prepare(RECIPE, sources, tmp_path / "out", workers=1, advance=lambda *n: told.append(n))
    total = sizes[0] + 2 * sizes[1]
    assert told == sorted(told)
    # All noted and nothing done of the work, which says the same.
    assert told.count((sizes[1], total)) == 2
    assert told[-1] == (total, total)


def test_a_split_without_documents_can_be_tried_again_as_the_refusal_advises(
    tmp_path: Path, capsys
) -> None:
    (tmp_path / "one.txt").write_text("\n\n".join(TEXTS[:40]))
    command = ["data", "prepare", str(tmp_path / "one.txt"), "-o", str(tmp_path / "out")]
    assert cli.run([*command, "--val-share", "0.2"]) == 3
    assert "cut text into more documents with --documents blank" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert cli.run([*command, "--val-share", "0.2", "--documents", "blank"]) == 0


def test_a_bad_document_in_a_worker_ends_the_work_with_its_line(tmp_path: Path, capsys) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "fine " * 100}) + "\n" + "{\n" + '{"text": "x"}\n' * 99)
    command = ["data", "prepare", str(source), "-o", str(tmp_path / "out"), "-w", "2"]
    assert cli.run([*command, "--part-bytes", "300"]) == 3
    assert "a.jsonl:2: not JSON" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("manifest.json"))


def test_a_folder_that_cannot_be_written_is_said_with_what_to_do(
    source: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "file").touch()
    assert cli.run(["data", "prepare", str(source), "-o", str(tmp_path / "file" / "out")]) == 7
    assert "cannot be written" in capsys.readouterr().err


def test_a_check_finds_damage_to_the_lengths_of_tokens(
    source: Path, tmp_path: Path, capsys
) -> None:
    fill(source, tmp_path)
    path = tmp_path / "tokenizer" / "token_bytes.bin"
    whole = path.read_bytes()
    damages = {
        "do not add up to": whole[: 4 * ord("e")] + b"\x02" + whole[4 * ord("e") + 1 :],
        "the lengths of 256 tokens are 1,024": whole + b"xx",
        "cannot be read": None,
    }
    for says, data in damages.items():
        path.unlink() if data is None else path.write_bytes(data)
        assert cli.run(["data", "check", str(tmp_path)]) == 3
        said = capsys.readouterr().err
        assert says in said
        assert "token_bytes.bin" in said


def test_a_check_finds_every_damage(source: Path, tmp_path: Path, capsys) -> None:
    fill(source, tmp_path)
    assert cli.run(["data", "check", str(tmp_path)]) == 0
    shard = tmp_path / "train_000003.bin"
    whole = shard.read_bytes()
    damages = {
        "sha256": whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:],
        "holds token 511, the vocabulary has 256": whole[:2000] + b"\xff\x01" + whole[2002:],
        "the file is torn": whole[:-2],
        "cannot be read": None,
    }
    for says, data in damages.items():
        shard.unlink() if data is None else shard.write_bytes(data)
        assert cli.run(["data", "check", str(tmp_path)]) == 3
        assert says in capsys.readouterr().err
    shard.write_bytes(whole)
    (tmp_path / "train_9.bin").write_bytes(whole)
    assert cli.run(["data", "check", str(tmp_path)]) == 3
    assert "is not in manifest.json" in capsys.readouterr().err


def test_a_check_finds_a_manifest_that_contradicts_itself(
    source: Path, tmp_path: Path, capsys
) -> None:
    fill(source, tmp_path)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    val, shard = whole["splits"]["val"], whole["shards"][0]
    damages: dict[str, dict[str, Any]] = {
        "bytes_per_token 0.5 of 'val'": {
            "splits": {**whole["splits"], "val": {**val, "bytes_per_token": 0.5}}
        },
        "fingerprint": {"fingerprint": "0" * 16},
        # A shard for training that is held out as well.
        "lists train_000000.bin twice": {"shards": [*whole["shards"], {**shard, "split": "val"}]},
        "documents": {"shards": [{**shard, "split": "val"}, *whole["shards"][1:]]},
    }
    for says, change in damages.items():
        path.write_text(json.dumps({**whole, **change}))
        assert cli.run(["data", "check", str(tmp_path)]) == 3
        said = capsys.readouterr().err
        assert says in said
        assert "manifest.json" in said


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "scalekit.data/9"}'])
def test_a_manifest_that_is_none_is_refused(text: str, source: Path, tmp_path: Path) -> None:
    fill(source, tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    data = {"source": "shards", "path": str(tmp_path), "unique_tokens": None}
    with pytest.raises(InputError, match=r"manifest\.json"):
        shards.facts(data)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {}},
        {"recipe": []},
        {"recipe": {"ask": 3}},
        {"sources": [{}]},
        {"sources": 3},
        {"sources": "abc"},
        {"tokenizer": {"identity": "bytes", "vocab": 256, "token_bytes": 5}},
        {"tokenizer": {"identity": "bytes", "vocab": 0}},
    ],
    ids=json.dumps,
)
def test_a_manifest_with_something_else_in_its_place_is_refused_by_all(
    change: dict[str, Any], source: Path, tmp_path: Path, capsys
) -> None:
    fill(source, tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for command in (
        ["data", "check", str(tmp_path)],
        ["data", "prepare", str(source), "-o", str(tmp_path), "-w", "1"],
    ):
        assert cli.run(command) == 3
        assert "manifest.json is no manifest that can be read" in capsys.readouterr().err


def test_the_shards_are_as_small_as_the_vocabulary_allows() -> None:
    from scalekit.prepare.work import dtype_of

    assert dtype_of(65536) == "uint16"
    assert dtype_of(65537) == "uint32"


@pytest.mark.parametrize("normalizer", [None, "lower"])
def test_bits_per_byte_counts_the_bytes_of_the_held_out_rows_themselves(
    normalizer: str | None, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tokenizers", "0.1")
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    if normalizer:
        inner.normalizer = normalizers.Replace(" é", "")  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<e>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    recipe = Recipe(f"huggingface:{tmp_path / 'tokenizer.json'}", "<e>", 0.2, 4000, Ask())
    out = tmp_path / "out"
    manifest = prepare(recipe, find_sources([str(source)], None, is_held_out=False), out, workers=1)
    data = {"source": "shards", "path": str(out), "unique_tokens": None, "val_tokens": 160}
    corpus = shards.open_corpus(data, 16, 0)
    if normalizer:
        # Bytes that the tokenizer drops stand for no token: the split's own ratio is left.
        assert manifest.tokenizer["token_bytes"] is None
        assert corpus.held_out_bytes() == manifest.splits["val"]["bytes_per_token"]
        return
    targets = corpus.val.take(np.arange(10))[:, 1:]
    n_bytes = 0
    for token in targets.ravel().tolist():
        # A token by itself may be half a character, so count its letters, one a byte.
        n_bytes += len(inner.id_to_token(token) or "") if token != inner.token_to_id("<e>") else 0
    assert corpus.held_out_bytes() == n_bytes / 160
    assert corpus.held_out_bytes() != manifest.splits["val"]["bytes_per_token"]


@pytest.mark.parametrize("place", ["train", "val"])
def test_a_byte_that_is_the_end_of_a_document_too_is_in_doubt_in_held_out_text_only(
    place: str, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        text = "a\0b" if split == place else "ab"
        (tmp_path / f"{split}.txt").write_text(f"{text}\n{'c' * 40}")
    out = tmp_path / "out"
    command = ["data", "prepare", str(tmp_path / "train.txt"), "--val", str(tmp_path / "val.txt")]
    assert cli.run([*command, "-o", str(out), "-w", "1", "--documents", "line"]) == 0
    assert cli.run(["data", "check", str(out)]) == 0
    manifest = read_manifest(out)
    assert manifest is not None
    assert (manifest.tokenizer["token_bytes"] is None) == (place == "val")


def test_lengths_of_tokens_that_do_not_fit_the_shards_are_refused(
    source: Path, tmp_path: Path
) -> None:
    fill(source, tmp_path)
    data = {"source": "shards", "path": str(tmp_path), "unique_tokens": None, "val_tokens": 160}
    lengths = tmp_path / "tokenizer" / "token_bytes.bin"
    lengths.write_bytes(lengths.read_bytes()[:40])
    with pytest.raises(InputError, match=r"token_bytes\.bin has 10; remove the folder and prepare"):
        shards.open_corpus(data, 16, 0)
    lengths.unlink()
    with pytest.raises(InputError, match=r"token_bytes\.bin cannot be read"):
        shards.open_corpus(data, 16, 0)


OWN_TOKENIZER = """
import os
from scalekit.tokenizers.base import Tokenizer
from scalekit.tokenizers.bytes import Bytes

class Dying(Bytes):
    def encode(self, texts):
        if any("{fatal}" in text for text in texts):
            os._exit(9)
        return super().encode(texts)

TOKENIZER = Tokenizer("own", None, lambda where: Dying())
"""


def test_a_process_that_dies_is_said_and_the_same_command_goes_on(
    source: Path, expected: dict[str, bytes], tmp_path: Path, capsys
) -> None:
    own, out = tmp_path / "own.py", tmp_path / "out"
    command = ["data", "prepare", str(source), "-o", str(out), "--part-bytes", "4000", "-w", "2"]
    command += ["--val-share", "0.1", "--tokenizer", str(own)]
    own.write_text(OWN_TOKENIZER.format(fatal="document 333:"))
    assert cli.run(command) == 7
    assert "a process of the preparation died" in capsys.readouterr().err
    own.write_text(OWN_TOKENIZER.format(fatal="nothing that is there"))
    assert cli.run(command) == 0
    assert files(out) == expected


def test_a_source_that_goes_away_is_not_taken_for_a_full_disk(source: Path, tmp_path: Path) -> None:
    from scalekit.prepare.recipe import cut_parts, open_tokenizer
    from scalekit.prepare.work import Bench, work

    copy = tmp_path / "a.jsonl"
    copy.write_bytes(source.read_bytes())
    (part, *_) = cut_parts(RECIPE, find_sources([str(copy)], None, is_held_out=False))
    copy.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: cannot be read"):
        work(part, Bench.of(tmp_path, RECIPE, open_tokenizer("bytes")))


@pytest.mark.parametrize("name", registry.names("tokenizers"))
def test_a_prepared_folder_opens_the_tokenizer_that_made_its_tokens(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(name, tmp_path / "where")
    sources = find_sources([str(source)], None, is_held_out=False)
    manifest = prepare(replace(RECIPE, tokenizer=text), sources, tmp_path / "out", workers=1)
    settings = {"path": str(tmp_path / "out"), "tokenizer": manifest.tokenizer["identity"]}
    coder = shards.coder(settings)
    assert coder is not None
    assert coder.identity == manifest.tokenizer["identity"]
    tokens = next((tmp_path / "out").glob("val_*.bin"))
    read = coder.decode(shards.read_shard(tokens).map().tolist())
    assert any(document in read for document in TEXTS)
    if name == "bytes":
        return
    for kept in manifest.tokenizer["files"]:
        (tmp_path / "out" / "tokenizer" / kept).unlink()
    other = made(name, tmp_path / "other", "zebra").partition(":")[2]
    for file in Path(other).parent.iterdir():
        same = {"small.json": "tiktoken.json"}.get(file.name, file.name)
        (tmp_path / "out" / "tokenizer" / same).write_bytes(file.read_bytes())
    said = rf"holds '{name}:\w+', the tokens are of '{name}:"
    with pytest.raises(InputError, match=said):
        shards.coder(settings)
    with pytest.raises(InputError, match=said):
        check_folder(tmp_path / "out", manifest)
    # The tokens can still be looked at where its library is missing.
    monkeypatch.setattr("scalekit.prepare.check.metadata.distributions", lambda name: [])
    check_folder(tmp_path / "out", manifest)
