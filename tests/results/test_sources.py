"""What a user names becomes sweeps and groups of files; what is left out is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "importers"))
from log_examples import EXAMPLES, NANOGPT  # pyright: ignore[reportMissingImports]

from scalekit.errors import InputError, UsageError
from scalekit.results.collect import collect
from scalekit.results.reading import Reading
from scalekit.results.sources import Files, find_sources
from scalekit.results.store import SweepFolder
from scalekit.results.table import read_table, write_table

CSV = "params,tokens,loss\n1,2,3\n"


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(found: list[SweepFolder | Files]) -> list[tuple[str, str]]:
    return [
        ("sweep", one.root.name) if isinstance(one, SweepFolder) else (one.importer.name, one.run)
        for one in found
    ]


def test_a_folder_is_walked_and_runs_are_named_by_their_place(tmp_path: Path) -> None:
    put(tmp_path / "a" / "train.log", NANOGPT)
    put(tmp_path / "b" / "deep" / "lr0.1.log", NANOGPT)
    EXAMPLES["lightning"][0](tmp_path / "c")
    found, notes = find_sources([tmp_path])
    assert names(found) == [
        ("nanogpt", "a/train"),
        ("nanogpt", "b/deep/lr0.1"),
        ("lightning", "c/run1/version_0"),
    ]
    assert notes == []


def test_files_of_one_run_are_read_together_however_they_are_named(tmp_path: Path) -> None:
    first = EXAMPLES["tensorboard"][0](tmp_path)
    second = first.with_name("events.out.tfevents.2.host")
    second.write_bytes(first.read_bytes())
    for named in ([tmp_path], [first, second], [str(tmp_path / "*" / "events*")]):
        found, _ = find_sources(named)
        (group,) = found
        assert isinstance(group, Files)
        assert len(group.sources) == 2
        assert group.run == "run1"


def test_tables_beside_logs_are_left_out_and_told(tmp_path: Path) -> None:
    put(tmp_path / "train.log", NANOGPT)
    put(tmp_path / "data.csv", CSV)
    put(tmp_path / "model.pt", "x")
    put(tmp_path / ".hidden", "x")
    found, notes = find_sources([tmp_path])
    assert names(found) == [("nanogpt", "train")]
    assert notes == [f"{tmp_path}: 2 files that are not read: 1 .pt, 1 .csv beside logs"]
    found, notes = find_sources([tmp_path, tmp_path / "data.csv"])
    assert names(found) == [("nanogpt", "train"), ("csv", "data")]


def test_a_folder_of_tables_is_read_whole_but_for_the_output(tmp_path: Path) -> None:
    for name in ("a", "b", "out"):
        put(tmp_path / f"{name}.csv", CSV)
    found, notes = find_sources([tmp_path], skip=tmp_path / "out.csv")
    assert names(found) == [("csv", "a"), ("csv", "b")]
    assert notes == [f"{tmp_path}: 1 files that are not read: 1 named already"]


def test_an_output_folder_below_the_source_is_not_walked(tmp_path: Path) -> None:
    put(tmp_path / "a.csv", CSV)
    put(tmp_path / "analysis" / "data.csv", CSV)
    found, _ = find_sources([tmp_path], skip=tmp_path / "analysis")
    assert names(found) == [("csv", "a")]


def test_sweeps_below_a_folder_are_sweeps_and_not_walked(make_sweep, tmp_path: Path) -> None:
    make_sweep(1, name="one", r0="done")
    make_sweep(1, name="two", r0="done")
    found, _ = find_sources([tmp_path])
    assert names(found) == [("sweep", "one"), ("sweep", "two")]


def test_a_source_named_twice_is_read_once_and_told(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", CSV)
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    found, notes = find_sources([path, path, link])
    assert names(found) == [("csv", "a")]
    assert len(notes) == 2
    assert "named twice" in notes[0]


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    put(tmp_path / "a" / "a.csv", CSV)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names(find_sources([tmp_path])[0]) == [("csv", "a/a")]


def test_runs_that_would_have_one_name_get_their_whole_paths(tmp_path: Path) -> None:
    paths = [put(tmp_path / x / "train.log", NANOGPT) for x in "ab"]
    found, _ = find_sources(paths)
    assert names(found) == [("nanogpt", str(path)) for path in paths]


def test_names_that_are_no_text_are_told_apart_and_written(tmp_path: Path) -> None:
    for byte in (b"\xe9", b"\xff"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/run" + byte + b".log"))
        try:
            path.write_text(NANOGPT)
        except OSError:
            pytest.skip("this file system takes names of text only")
    table = collect([tmp_path], Reading({"loss": "val_loss"}, params_kind="total"))
    assert table["run"].tolist() == ["run\\xe9", "run\\xff"]
    write_table(table, tmp_path / "out.csv")
    assert read_table(tmp_path / "out.csv")["source"].tolist() == table["source"].tolist()


def test_a_pattern_without_a_match_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file matches"):
        find_sources([str(tmp_path / "*.log")])


def test_what_nobody_recognises_is_refused_with_all_formats(tmp_path: Path) -> None:
    path = put(tmp_path / "notes.txt", "hello")
    with pytest.raises(InputError, match=r"notes\.txt: of no known format.*--importer.*wandb"):
        find_sources([path])
    (found,), _ = find_sources([path], importer="csv")
    assert isinstance(found, Files)
    assert found.importer.name == "csv"


def test_an_unknown_importer_is_a_usage_error_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'nanogpt'"):
        find_sources([put(tmp_path / "a", "x")], importer="nanogtp")


def test_a_users_own_importer_is_a_file(tmp_path: Path) -> None:
    own = put(
        tmp_path / "mine.py",
        "from scalekit.importers.base import Imported, Importer\n"
        "IMPORTER = Importer('mine', 'my logs', lambda s: s.name.endswith('.mine'),\n"
        "                    lambda sources, text: Imported({'loss': [1.0]}))\n",
    )
    put(tmp_path / "logs" / "x.mine", "1")
    put(tmp_path / "logs" / "x.csv", CSV)
    found, notes = find_sources([tmp_path / "logs"], importer=str(own))
    assert names(found) == [("mine", "x")]
    assert "1 .csv" in notes[0]


@pytest.mark.parametrize("data", [b"\x28\xb5\x2f\xfd....", b"PK\x03\x04...", b"BZh9...."])
def test_what_is_packed_otherwise_is_refused_with_the_packing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "runs.zst"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"packed by \w+; unpack it"):
        find_sources([path])


def test_empty_and_absent_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table and no known log in it"):
        find_sources([tmp_path])
    put(tmp_path / "x.bin", "x")
    with pytest.raises(InputError, match=r"in it, only 1 files that are not read: 1 \.bin"):
        find_sources([tmp_path])
    with pytest.raises(InputError, match="cannot be read, No such file"):
        find_sources([tmp_path / "absent.csv"])
    with pytest.raises(UsageError, match="no source"):
        find_sources([])
