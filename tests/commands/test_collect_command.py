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


def test_what_is_only_said_is_a_note_and_what_is_doubtful_a_warning(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "runs.csv").write_text(",params,tokens,loss\n0,1e6,2e7,3\n1,2e6,3e7,2.5\n")
    (folder / "weights.pt").write_text("")
    for command in (["collect", str(folder), "-o", str(tmp_path / "o.csv")], ["plot", str(folder)]):
        assert run([*command, *(["-o", str(tmp_path)] if command[0] == "plot" else [])]) == 0
        said = capsys.readouterr().err.splitlines()
        for told in ("1 files that are not read: 1 .pt", "first column has no name"):
            assert [line.split()[0] for line in said if told in line] == ["note:"], command
        assert not [line for line in said if line.startswith("warning:")]
    (folder / "runs.csv").write_text("params,tokens,loss\n1e6,2e7,3\n2e6,3e7,-1\n")
    assert run(["collect", str(folder), "-o", str(tmp_path / "o.csv")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said if "not positive" in line] == ["warning:"]


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


NANOGPT = """\
tokens per iteration will be: 491,520
number of parameters: 123.59M
step 0: train loss 10.9898, val loss 10.9897
iter 0: loss 10.9886, time 57384.40ms, mfu -100.00%
step 20: train loss 9.1000, val loss 9.1234
"""


def test_logs_are_refused_until_each_open_question_has_its_option(tmp_path: Path, capsys) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "logs" / f"{name}.log").write_text(NANOGPT)
    out = tmp_path / "data.csv"
    words = ["collect", str(tmp_path / "logs"), "-o", str(out)]
    assert run(words) == 3
    assert "say which is meant with --map loss=val_loss" in capsys.readouterr().err
    assert not out.exists()
    assert run([*words, "--map", "loss=val_loss"]) == 0
    said = capsys.readouterr().err
    assert "note: loss is val_loss, in nats/token" in said
    assert "note: params are column params_non_embedding_head" in said
    assert "note: flops are computed, by 6N_non_embedding_head" in said
    assert "stands for each run, at step 20; no smoothing" in said
    table = read_table(out)
    assert table["run"].tolist() == ["a", "b"]
    assert table["tokens"].tolist() == [20 * 491520] * 2
    assert table.meta["params_kind"] == "non_embedding_head"
    assert table.meta["loss_unit"] == "nats/token"
    assert table.meta["flops_kind"] == "6N_non_embedding_head"


def test_several_sources_and_a_pattern_become_one_table(make_sweep, tmp_path: Path, capsys) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    (tmp_path / "theirs.csv").write_text("params,tokens,loss\n1e6,2e7,3.5\n")
    (tmp_path / "a.log").write_text(NANOGPT)
    out = tmp_path / "out" / "data.csv"
    sources = [str(folder.root), str(tmp_path / "theirs.csv")]
    assert run(["collect", *sources, "-o", str(out)]) == 0
    assert read_table(out)["source"].tolist() == ["demo", "demo", sources[1]]
    said = capsys.readouterr().err
    assert "params_kind is not stated, and other sources say non_embedding" in said
    words = [str(tmp_path / "*.log"), "--map", "loss=val_loss"]
    assert run(["collect", *words, "-o", str(out)]) == 0
    assert read_table(out)["run"].tolist() == ["a"]


def test_collecting_into_the_folder_that_is_read_is_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("params,tokens,loss\n1e6,2e7,3.5\n")
    out = tmp_path / "data.csv"
    assert run(["collect", str(tmp_path), "-o", str(out)]) == 0
    first = out.read_bytes()
    assert run(["collect", str(tmp_path), "-o", str(out)]) == 0
    assert out.read_bytes() == first


def test_rows_without_a_name_in_a_joined_table_are_runs_and_no_checkpoints(
    make_sweep, tmp_path: Path, capsys
) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    table, out = tmp_path / "a.csv", tmp_path / "all.csv"
    table.write_text("params,tokens,loss\n1e6,2e7,3\n2e6,3e7,2.5\n3e6,5e7,2.2\n")
    assert run(["collect", str(folder.root), str(table), "-o", str(out)]) == 0
    capsys.readouterr()
    # collect reads its own result again, as fit does: five runs, each by itself.
    assert run(["collect", str(out), "-o", str(tmp_path / "again.csv")]) == 0
    assert len(read_table(tmp_path / "again.csv")) == 5
