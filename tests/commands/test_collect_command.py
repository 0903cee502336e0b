"""`scalekit collect`: what is written, what is said, and how it exits."""

from __future__ import annotations

from pathlib import Path

from scalekit.cli import run
from scalekit.results.table import read_table


def test_collecting_a_sweep_writes_its_own_table(make_sweep, capsys) -> None:
    folder, _ = make_sweep(3, r0="done", r1="diverged")
    assert run(["collect", str(folder.root)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder.table_file}\n"
    assert "3 runs, 1 done, 1 diverged, 1 pending" in err
    assert "params: non_embedding" in err
    assert read_table(folder.table_file)["status"].tolist() == ["done", "diverged", "pending"]


def test_the_table_is_rebuilt_whole(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done")
    assert run(["collect", str(folder.root)]) == 0
    folder.table_file.write_text("run\nstale\n")
    make_sweep.write_record(folder, lines[1], "done")
    assert run(["collect", str(folder.root)]) == 0
    assert read_table(folder.table_file)["status"].tolist() == ["done", "done"]


def test_a_table_can_go_to_stdout(make_sweep, capsys) -> None:
    folder, _ = make_sweep(1, r0="done")
    assert run(["collect", str(folder.root), "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("run,source,group,status,")
    assert not folder.table_file.exists()


def test_an_unreadable_record_exits_with_runs_failed_and_still_writes(make_sweep, capsys) -> None:
    folder, lines = make_sweep(2, r0="done", r1="done")
    folder.record(lines[1]["id"]).write_text("garbage\n")
    assert run(["collect", str(folder.root)]) == 4
    assert "no run header" in capsys.readouterr().err
    assert read_table(folder.table_file)["status"].tolist() == ["done", "unreadable"]
    assert folder.record(lines[1]["id"]).read_text() == "garbage\n"


def test_foreign_tables_need_a_name_for_the_result(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_text("N,loss\n1,2\n")
    assert run(["collect", str(path)]) == 2
    assert "-o data.csv" in capsys.readouterr().err
    out = tmp_path / "out.csv"
    words = ["--map", "params=2*N", "--n-kind", "total"]
    assert run(["collect", str(path), *words, "-o", str(out)]) == 0
    assert read_table(out)["params"].tolist() == [2]
    assert read_table(out).meta["params_kind"] == "total"


def test_a_refused_table_leaves_the_older_result(tmp_path: Path, capsys) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "out.csv"
    path.write_text("N,loss\n1\n")
    out.write_text("old")
    assert run(["collect", str(path), "-o", str(out)]) == 3
    assert f"{path}:2: 1 cells but the header has 2" in capsys.readouterr().err
    assert out.read_text() == "old"


def test_an_unwritable_place_is_system_trouble(make_sweep, tmp_path: Path, capsys) -> None:
    folder, _ = make_sweep(1, r0="done")
    (tmp_path / "file").write_text("")
    assert run(["collect", str(folder.root), "-o", str(tmp_path / "file" / "x.csv")]) == 7
    assert "cannot be written" in capsys.readouterr().err
