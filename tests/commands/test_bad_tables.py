"""What `collect` and `fit` do with tables that are wrong: a clear word, the right exit, no file."""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalekit import errors
from scalekit.analysis.gather import gather
from scalekit.cli import run
from scalekit.fit.run import read_fit
from scalekit.results.collect import read_runs
from scalekit.results.table import read_table

# Ten runs of L = 1.8 + 480 N^-0.35 + 2000 D^-0.36, which a law of five parameters can be fitted to.
SIZES = [(n, d) for n in (1e7, 3e7, 1e8, 3e8, 1e9) for d in (4e8, 9e9)]
ROWS = [f"{n:.0f},{d:.0f},{1.8 + 480 * n**-0.35 + 2000 * d**-0.36:.6f}" for n, d in SIZES]
HEADER = "params,tokens,loss"
GOOD = "\n".join([HEADER, *ROWS, ""])


def with_column(name: str, cells: list[str]) -> str:
    rows = [f"{row},{cell}" for row, cell in zip(ROWS, cells, strict=True)]
    return "\n".join([f"{HEADER},{name}", *rows, ""])


def changed(row: str, at: int = 3) -> str:
    return "\n".join([HEADER, *ROWS[:at], row, *ROWS[at + 1 :], ""])


def exits(
    folder: Path, data: bytes | str, command: str, *words: str, name: str = "runs.csv"
) -> tuple[int, str]:
    """Run a command on a table; return its exit code and what it said, and see what it left."""
    path, out = folder / name, folder / f"out-{command}.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    before = sorted(folder.iterdir())
    code = run([command, str(path), "-o", str(out), *words])
    if code not in (errors.OK,):
        assert sorted(folder.iterdir()) == before, "something was written, perhaps by half"
    return code, str(path)


FITS = {
    "NaN in a loss": (changed("3e8,4e8,nan"), "1 left out: 1 loss is not a number"),
    "infinite loss": (changed("3e8,4e8,inf"), "1 left out: 1 loss is not a number"),
    "an empty cell": (changed("3e8,,3.5"), "1 left out: 1 tokens is not a number"),
    "BOM": ("\ufeff" + GOOD, "10 runs"),
    "CRLF": (GOOD.replace("\n", "\r\n"), "10 runs"),
    "old Macintosh lines": (GOOD.replace("\n", "\r"), "10 runs"),
    "UTF-16": (GOOD.encode("utf-16"), "10 runs"),
    "blank lines": (GOOD.replace("\n", "\n\n"), "10 runs"),
    "spaces around names": (GOOD.replace("params,tokens", " params , tokens"), "10 runs"),
    "quoted newlines": (
        GOOD.replace(HEADER, HEADER + ",note").replace("\n", ',"two\nlines"\n').replace(
            'note,"two\nlines"', "note"
        ),
        "10 runs",
    ),
    "a row twice": (GOOD + ROWS[0] + "\n", "11 runs"),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_odd_but_readable_tables_are_fitted_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    data, says = FITS[case]
    assert exits(tmp_path, data, "fit")[0] == errors.OK
    assert says in capsys.readouterr().out
    assert exits(tmp_path, data, "collect")[0] == errors.OK


BAD_FOR_BOTH = {
    "empty": ("", "the file is empty"),
    "a byte order mark alone": ("\ufeff", "the file is empty"),
    "a header alone": (HEADER + "\n", "a header and no rows"),
    "semicolons": (GOOD.replace(",", ";"), "cells separated by ';' are not read"),
    "semicolons and decimal commas": (
        GOOD.replace(",", ";").replace(".", ","),
        "with a decimal point",
    ),
    "quoted decimal commas": (changed('3e8,4e8,"3,5"'), "'3,5' in row 4; a comma may divide"),
    "bare decimal commas": (changed("3e8,4e8,3,5"), ":5: 4 cells but the header has 3"),
    "a header twice": (GOOD.replace("tokens", "params"), "column 'params' stands twice"),
    "a header without a name": (GOOD.replace("tokens", ""), "column 2 has no name"),
    "latin-1": (GOOD.replace(HEADER, "params,tokens,loss").encode() + b"1,2,caf\xe9\n", ":12: not"),
    "an open quote": (GOOD + '"1,2,3\n', "unexpected end of data; mend the quotes"),
    "a word among numbers": (changed("3e8,4e8,oops"), "'oops' in row 4; mend the cell"),
    "a suffix among numbers": (changed("300M,4e8,3.5"), "'300M' in row 4; write it as 3e+08"),
    "no loss": (GOOD.replace("loss", "los"), "no column 'loss'; did you mean 'los'"),
    "no params": (GOOD.replace("params", "parms"), "no column 'params'"),
    "two losses": (GOOD.replace("tokens,loss", "val_loss,train_loss"), "say which is meant"),
    "damaged gzip": (gzip.compress(GOOD.encode())[:-20], "damaged gzip"),
    "UTF-16 without its mark": (GOOD.encode("utf-16-le"), ":1: holds zero bytes"),
    "zeros": (bytes(500), ":1: holds zero bytes"),
    "zstd": (b"\x28\xb5\x2f\xfd" + GOOD.encode(), "packed by zstd"),
}


@pytest.mark.parametrize("command", ["collect", "fit"])
@pytest.mark.parametrize("case", BAD_FOR_BOTH)
def test_a_table_that_cannot_be_read_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, command: str
) -> None:
    data, says = BAD_FOR_BOTH[case]
    code, path = exits(tmp_path, data, command)
    said = capsys.readouterr().err
    assert code == errors.REFUSED
    assert path in said
    assert says in said
    assert "Traceback" not in said


LINE = '{"params": 1e8, "tokens": 4e8, "loss": 3.5'
BAD_BY_NAME = {
    "commas in a .tsv": ("runs.tsv", GOOD, ":1: one column only, 'params,tokens,loss'; cells"),
    "half a character": (
        "runs.jsonl",
        LINE + ', "note": "\\ud800"}',
        ":1: holds '\\ud800', half a",
    ),
    "a key without a name": ("runs.jsonl", LINE + ', " ": 1}', ":1: a key without a name"),
    "a key twice but for spaces": ("runs.jsonl", LINE + ', " loss": 1}', "'loss' stands twice"),
}


@pytest.mark.parametrize("case", BAD_BY_NAME)
def test_what_could_not_be_read_again_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, data, says = BAD_BY_NAME[case]
    assert exits(tmp_path, data, "collect", name=name)[0] == errors.REFUSED
    assert says in capsys.readouterr().err


def test_a_pipe_is_refused_instead_of_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "runs.csv"
    os.mkfifo(pipe)
    for command in ("collect", "fit"):
        assert run([command, str(pipe), "-o", str(tmp_path / "out")]) == errors.REFUSED
        assert f"{pipe}: a pipe or a device" in capsys.readouterr().err
    (tmp_path / "more.csv").write_text(GOOD)
    assert run(["collect", str(tmp_path), "-o", str(tmp_path / "out.csv")]) == errors.OK


def test_a_long_cell_is_read_and_not_quoted_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "x" * 200_000
    assert exits(tmp_path, with_column("note", [page] * len(ROWS)), "collect")[0] == errors.OK
    capsys.readouterr()
    assert exits(tmp_path, changed(f"3e8,4e8,{page}"), "fit")[0] == errors.REFUSED
    said = capsys.readouterr().err
    assert "xxx...' in row 4; mend the cell" in said
    mixed = ["--map", "loss=loss+0"]
    assert exits(tmp_path, changed(f"3e8,4e8,{page}"), "fit", *mixed)[0] == errors.REFUSED
    assert "loss is 'xxx" in (also := capsys.readouterr().err)
    assert max(len(said), len(also)) < 1000


BAD_FOR_FIT = {
    "zero loss": (changed("3e8,4e8,0"), [], errors.REFUSED, "loss must be positive, found 0"),
    "negative loss": (changed("3e8,4e8,-2"), [], errors.REFUSED, "loss must be positive, found -2"),
    "zero tokens": (changed("3e8,0,3"), [], errors.REFUSED, "tokens must be positive"),
    "negative error": (
        with_column("loss_sem", ["0.1", "", "-0.1", *["0.1"] * (len(ROWS) - 3)]),
        [],
        errors.REFUSED,
        "loss_sem is the standard error of a loss, found -0.1 in row 3",
    ),
    "infinite error": (
        with_column("loss_sem", ["inf"] * len(ROWS)),
        [],
        errors.REFUSED,
        "loss_sem is the standard error of a loss, found inf in row 1",
    ),
    "one row": (f"{HEADER}\n{ROWS[0]}\n", [], errors.NOT_IDENTIFIED, "1 run but chinchilla has 5"),
    "identical rows": (
        "\n".join([HEADER, *[ROWS[0]] * 10, ""]),
        [],
        errors.NOT_IDENTIFIED,
        "10 runs at 1 different sizes",
    ),
    "no loss anywhere": (
        "\n".join([HEADER, *(f"{n},{d}," for n, d in SIZES), ""]),
        [],
        errors.REFUSED,
        "no run is left to fit",
    ),
    "mixed units": (
        "\n".join(
            [
                f"{HEADER},loss_unit",
                *(f"{r},{'nats/token' if i % 2 else 'bits/token'}" for i, r in enumerate(ROWS)),
                "",
            ]
        ),
        [],
        errors.REFUSED,
        "loss_unit mixes bits/token, nats/token",
    ),
    "mixed counts": (
        "\n".join(
            [
                f"{HEADER},params_kind",
                *(f"{r},{'total' if i % 2 else 'non_embedding'}" for i, r in enumerate(ROWS)),
                "",
            ]
        ),
        [],
        errors.REFUSED,
        "params_kind mixes non_embedding, total",
    ),
}


@pytest.mark.parametrize("case", BAD_FOR_FIT)
def test_numbers_that_no_law_fits_are_refused_by_fit_and_told_by_collect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    data, words, code, says = BAD_FOR_FIT[case]
    assert exits(tmp_path, data, "fit", *words)[0] == code
    assert says in capsys.readouterr().err
    assert exits(tmp_path, data, "collect")[0] == errors.OK
    assert len(read_table(tmp_path / "out-collect.csv")) == data.count("\n") - 1


def test_a_constant_column_is_told_and_not_identified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [",".join(["1000000", *row.split(",")[1:]]) for row in ROWS]
    code, _ = exits(tmp_path, "\n".join([HEADER, *rows, ""]), "fit", "--strict")
    said = capsys.readouterr().err
    assert code == errors.NOT_IDENTIFIED
    assert "params, the same in every row, 1e+06; no law can tell what it does" in said


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch pwned')",
        "open('pwned','w')",
        "(lambda: loss)()",
        "loss.__class__.__bases__",
        "[x for x in loss]",
        "exec('1')",
        "loss.tofile('pwned')",
    ],
)
@pytest.mark.parametrize("command", ["collect", "fit"])
def test_an_expression_that_tries_to_call_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    expression: str,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = exits(tmp_path, GOOD, command, "--map", f"loss={expression}")
    assert code == errors.REFUSED
    assert "--map loss" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("option", ["--map", "--drop", "--hold-out"])
def test_an_unknown_column_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    word = "loss=tokenz*2" if option == "--map" else "tokenz>1"
    assert exits(tmp_path, GOOD, "fit", option, word)[0] == errors.REFUSED
    assert "no column 'tokenz'; did you mean 'tokens'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["collect", "fit", "analyze"])
def test_a_folder_with_nothing_to_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert run([command, str(folder), "-o", str(tmp_path / "out")]) == errors.REFUSED
    assert "no plan.jsonl, no table and no known log in it" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty"]


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PIECES = [
    "params",
    "tokens",
    "loss",
    "1e6",
    "0",
    "-1",
    "nan",
    ",",
    "\n",
    '"',
    "run",
    "step",
    "a",
    "{",
    ":",
]


@settings(deadline=None, suppress_health_check=QUIET, max_examples=80)
@given(
    text=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join),
    name=st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.json", "x.log", "x.csv.gz"]),
    words=st.sampled_from([[], ["--map", "loss=loss"], ["--at", "every"], ["--loss-unit", "bpb"]]),
)
def test_any_file_is_collected_or_refused(
    tmp_path: Path, text: str, name: str, words: list[str]
) -> None:
    path, out = tmp_path / name, tmp_path / "out.csv"
    path.write_text(text, encoding="utf-8", errors="replace")
    out.unlink(missing_ok=True)
    code = run(["collect", str(path), "-o", str(out), *words])
    assert code in (errors.OK, errors.REFUSED)
    assert out.exists() == (code == errors.OK)


def test_a_gzipped_table_is_read_as_the_plain_one(tmp_path: Path) -> None:
    exits(tmp_path, GOOD, "collect")
    plain = (tmp_path / "out-collect.csv").read_bytes()
    for name in ("runs.csv.gz", "packed.csv"):
        assert exits(tmp_path, gzip.compress(GOOD.encode()), "collect", name=name)[0] == errors.OK
        assert (tmp_path / "out-collect.csv").read_bytes() == plain


@pytest.mark.slow
def test_a_million_rows_are_read_in_little_memory(tmp_path: Path) -> None:
    """Six floats a row are 48 MB; the lists of words that they were would be over 500."""
    path = tmp_path / "runs.csv"
    rng = np.random.default_rng(0)
    numbers = rng.uniform(1e6, 1e9, size=(20_000, 5))
    lines = [f"run{i}," + ",".join(f"{x:.6f}" for x in row) for i, row in enumerate(numbers)]
    with path.open("w") as file:
        file.write("run,params,tokens,flops,loss,lr\n")
        for _ in range(50):
            file.write("\n".join(lines) + "\n")
    code = (
        "import resource, sys; from scalekit.results.table import read_table\n"
        "import numpy; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "table = read_table(sys.argv[1])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(table), float(table['lr'][-1]), (after - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    n_rows, last, grown_mb = done.stdout.split()
    assert int(n_rows) == 1_000_000
    assert float(last) == pytest.approx(numbers[-1, -1], abs=1e-6)
    # Measured 160 MB: the floats while chunks are joined, and a million names.
    assert int(grown_mb) < 320


DOUBTED = {
    "a repeated row": (f"{ROWS[0]},ours,bpb", "1 row repeats the loss, params, tokens, flops of"),
    "a missing loss": ("3e8,4e8,,ours,bpb", "loss is missing or not finite in 1 row"),
    "a loss below zero": ("3e8,4e8,-1,ours,bpb", "loss is not positive in 1 row, the first is"),
    "a size in millions": ("3,4e8,4,ours,bpb", "params jump from 3 to 1e+07"),
    "another code": ("3e8,4e8,3.5,other,bpb", "mixes runs of 2 states of the code"),
    "no unit": ("3e8,4e8,3.5,ours,", "loss_unit is stated in 10 rows and not in 1"),
}


@pytest.mark.parametrize("case", DOUBTED)
def test_a_row_that_is_dropped_is_not_doubted(tmp_path: Path, case: str) -> None:
    row, says = DOUBTED[case]
    path = tmp_path / "runs.csv"
    rows = [f"{one},ours,bpb,0" for one in ROWS]
    path.write_text("\n".join([f"{HEADER},code,loss_unit,is_odd", *rows, f"{row},1", ""]))
    for drop in ([], ["is_odd"], ["params<0", "is_odd==1"]):
        notes = [read_runs(path, drop=drop).meta["notes"], gather(path, drop=drop)[1]]
        for told in notes:
            assert any(says in note for note in told) != ("is_odd" in "".join(drop)), drop


def test_rows_are_numbered_as_they_stand_where_some_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(GOOD + "1e8,4e8,-1\n")
    (told,) = [n for n in read_runs(path, drop=["params<2e7"]).meta["notes"] if "positive" in n]
    assert "the first is row 11 with -1" in told


def test_a_fit_says_nothing_of_repeats_that_it_drops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = GOOD.replace("\n", ",0\n").replace("loss,0", "loss,copy") + f"{ROWS[0]},1\n"
    assert exits(tmp_path, twice, "fit", "--drop", "copy")[0] == errors.OK
    assert "repeat" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "kinds", "found"),
    [
        ("params_kind", ("non_embedding", "total"), ("non_embedding", "6N_non_embedding")),
        ("flops_kind", ("6N_total", "exact"), ("unstated", "6N_total")),
    ],
)
def test_a_table_of_two_kinds_is_fitted_by_the_words_of_its_refusal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    column: str,
    kinds: tuple[str, str],
    found: tuple[str, str],
) -> None:
    path, out = tmp_path / "runs.csv", tmp_path / "fit.json"
    flops = [f"{6 * n * d:.0f}" for n, d in SIZES]
    has_flops = column == "flops_kind"
    rows = [
        f"{row},{cost if has_flops else ''},{kind}"
        for kind in kinds
        for row, cost in zip(ROWS, flops, strict=True)
    ]
    path.write_text("\n".join([f"{HEADER},flops,{column}", *rows, ""]))
    assert run(["fit", str(path), "-o", str(out)]) == errors.REFUSED
    advice = capsys.readouterr().err.partition("with --drop ")[2].strip()
    assert run(["fit", str(path), "-o", str(out), "--drop", *shlex.split(advice)]) == errors.OK
    fit = read_fit(out)
    assert (fit.data["params_kind"], fit.data["flops_kind"]) == found
    assert fit.n_runs == len(ROWS)


def test_a_run_that_stands_twice_is_said_to_narrow_the_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits(tmp_path, GOOD + ROWS[0] + "\n", "fit")[0] == errors.OK
    assert "intervals are too narrow by it" in capsys.readouterr().err


def test_fewer_clusters_than_parameters_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = with_column("seed", [str(k % 3) for k in range(len(ROWS))])
    assert exits(tmp_path, noisy, "fit", "--cluster", "seed")[0] == errors.OK
    assert "3 clusters for 5 free parameters" in capsys.readouterr().err
    assert exits(tmp_path, noisy, "fit")[0] == errors.OK
    assert "clusters for" not in capsys.readouterr().err


def test_all_that_leaves_no_run_is_named_with_its_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drops = ["--drop", "params<2e7", "--drop", "params>=2e7"]
    assert exits(tmp_path, GOOD, "fit", *drops)[0] == errors.REFUSED
    said = capsys.readouterr().err
    assert "no run is left to fit, 2 --drop params<2e7, 8 --drop params>=2e7;" in said


def test_a_status_of_other_words_is_named_and_mapped_as_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = with_column("status", ["finished"] * len(ROWS))
    assert exits(tmp_path, table, "fit")[0] == errors.REFUSED
    said = capsys.readouterr().err
    assert "10 finished; 'finished' is no status that is known here" in said
    advice = shlex.split(said.partition(", as with ")[2])
    for command in ("fit", "collect"):
        assert exits(tmp_path, table, command, *advice)[0] == errors.OK
    assert set(read_table(tmp_path / "out-collect.csv")["status"]) == {"done"}
    assert exits(tmp_path, table.replace("finished", "failed"), "fit")[0] == errors.REFUSED
    assert "10 failed; finish or keep some runs" in capsys.readouterr().err


def test_an_input_that_no_law_takes_is_refused_and_one_that_is_open_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits(tmp_path, GOOD, "fit", "--given", "U=1e9")[0] == errors.USAGE
    assert "--given U: no input of chinchilla; leave it out" in capsys.readouterr().err
    rows = [
        f"{n:.0f},{u * e:.0f},{u:.0f},{1.9 + 480 * n**-0.35 + 2000 * (u * e) ** -0.36:.6f}"
        for n in (1e7, 1e8, 1e9)
        for u in (2e8, 2e9)
        for e in (1, 4, 30)
    ]
    repeated = "\n".join(["params,tokens,unique_tokens,loss", *rows, ""])
    asked = ["--law", "repeat_exp", "--predict", "1e20"]
    assert exits(tmp_path, repeated, "fit", *asked)[0] == errors.OK
    said = capsys.readouterr().err
    assert "it depends on U (unique_tokens); say it with --given U=NUMBER" in said
    assert exits(tmp_path, repeated, "fit", *asked, "--given", "U=1e9")[0] == errors.OK
    assert "--given U" not in capsys.readouterr().err


def test_options_that_were_not_given_are_not_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{s},3e-4,{2 + 0.6 * (s * 3e-4) ** -0.5:.6f}" for s in range(50, 2001, 50)]
    path = tmp_path / "curve.csv"
    path.write_text("\n".join(["step,lr,loss", *lines, ""]))
    run(["fit", str(path), "--law", "annealing", "--map", "warmup_steps=0"])
    assert "--at" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("run+run", "column 'loss' is text, '0101' in row 1, though it reads as a number"),
        ("note*2+loss", "mixes text and numbers, note is 'a' in row 1;"),
    ],
)
def test_words_that_were_computed_with_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str, says: str
) -> None:
    rows = [f"{row},{k:02d},a" for k, row in enumerate(ROWS, start=1)]
    data = "\n".join([f"{HEADER},run,note", *rows, ""])
    mapped = ["--map", f"loss={loss}", "--loss-unit", "nats"]
    for command in ("fit", "collect"):
        assert exits(tmp_path, data, command, *mapped)[0] == errors.REFUSED
        assert says in capsys.readouterr().err
