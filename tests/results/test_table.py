"""Tables of runs: what reads back equal, what is refused and where."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import InputError, UsageError
from scalekit.results.arithmetic import FUNCTIONS, evaluate
from scalekit.results.columns import require
from scalekit.results.mapping import parse_mapping
from scalekit.results.table import (
    COLUMNS,
    RunTable,
    make_table,
    read_table,
    table_text,
    write_table,
)


def write(folder: Path, text: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_are_floats_and_words_stay_words(tmp_path: Path) -> None:
    path = write(tmp_path, "run,params,loss,note\n0012345678,1e6,2.5,a\n12345e6789,2e6,,b\n")
    table = read_table(path)
    assert table["run"].tolist() == ["0012345678", "12345e6789"]
    assert table["params"].tolist() == [1e6, 2e6]
    assert table["loss"].dtype == np.float64
    assert math.isnan(table["loss"][1])
    assert table["note"].tolist() == ["a", "b"]


def test_the_hash_is_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, "params,loss\n1,2\n")
    assert read_table(path).meta["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_tsv_jsonl_and_csv_of_the_same_runs_give_the_same_columns(tmp_path: Path) -> None:
    csv = read_table(write(tmp_path, "params,loss,name\n1000000,2.5,a\n2000000,2.25,b\n"))
    tsv = read_table(write(tmp_path, "params\tloss\tname\n1e6\t2.5\ta\n2e6\t2.25\tb\n", "x.tsv"))
    lines = (
        '{"params": 1e6, "loss": 2.5, "name": "a"}\n{"params": 2000000, "loss": 2.25, "name": "b"}'
    )
    jsonl = read_table(write(tmp_path, lines, "x.jsonl"))
    for other in (tsv, jsonl):
        assert {k: v.tolist() for k, v in other.columns.items()} == {
            k: v.tolist() for k, v in csv.columns.items()
        }


def test_nested_json_becomes_dotted_columns_and_absent_keys_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": {"b": 1}}\n{"a": {"b": 2}, "c": true}\n', "x.jsonl")
    table = read_table(path)
    assert table["a.b"].tolist() == [1, 2]
    assert table["c"].tolist() == ["", "true"]


def test_names_with_underscores_between_digits_are_not_numbers(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "name,loss\n1_0,1\n2_0,2\n"))["name"].tolist() == [
        "1_0",
        "2_0",
    ]


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "null", "None", " "])
def test_the_usual_words_for_missing_leave_a_column_numeric(tmp_path: Path, word: str) -> None:
    table = read_table(write(tmp_path, f"params,loss\n1,2.0\n2,{word}\n"))
    assert math.isnan(table["loss"][1])


def test_a_number_beyond_all_floats_is_infinite_however_long(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "params,loss\n" + "9" * 200_000 + ",2\n"))
    assert table["params"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "runs.csv: the file is empty"),
        ("\n \n", "runs.csv: the file is empty"),
        ("params,loss\n", "runs.csv: a header and no rows"),
        ("params,loss,params\n1,2,3\n", "runs.csv:1: column 'params' stands twice"),
        ("params,,loss\n1,2,3\n", "runs.csv:1: column 2 has no name"),
        ("params,loss\n1,2\n1,2,3\n", "runs.csv:3: 3 cells but the header has 2"),
        ("params,loss\n1,2\n\n1\n", "runs.csv:4: 1 cells but the header has 2"),
        ('params,loss\n1,"2\n', "runs.csv:2: unexpected end of data"),
        ("params;loss\n1;2\n", "runs.csv:1: one column only, 'params;loss'"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path, text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}\n{"a": \n', "x.jsonl:2: not JSON"),
        ('{"a": 1}\n[1]\n', "x.jsonl:2: not a JSON object"),
        ("{}\n{}\n", "x.jsonl: no columns in it"),
        ("[" * 100_000, "x.jsonl:1: not JSON"),
    ],
)
def test_broken_json_lines_are_refused_with_their_line(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path, text, "x.jsonl"))
    assert says in str(caught.value)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.txt is not a table's format"):
        read_table(write(tmp_path, "a", "a.txt"))
    with pytest.raises(InputError, match="cannot be read, No such file"):
        read_table(tmp_path / "absent.csv")
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"a,b\n1,\xff\xfe\n")
    with pytest.raises(InputError, match=r"b\.csv:2: not UTF-8"):
        read_table(binary)


def test_a_table_without_loss_names_the_nearest_column(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "params,tokens,los\n1,2,3\n"))
    with pytest.raises(InputError) as caught:
        require(table, ["params", "loss"])
    assert "no column 'loss'; did you mean 'los'?" in str(caught.value)
    assert "--map loss=COLUMN" in str(caught.value)


def test_a_text_cell_in_a_column_of_numbers_is_named(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "params,loss\n1,2\n1,\n3,oops\n"))
    with pytest.raises(InputError, match=r"column 'loss' is not numeric, 'oops' in row 3"):
        require(table, ["params", "loss"])
    require(table, ["params"])


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map(lambda t: "x" + t)


@given(
    numbers=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    data=st.data(),
)
def test_a_written_table_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], data: st.DataObject
) -> None:
    words = data.draw(st.lists(CELLS, min_size=len(numbers), max_size=len(numbers)))
    objects = np.empty(len(words), dtype=object)
    objects[:] = words
    table = RunTable({"loss": np.array(numbers), "group": objects})
    path = tmp_path_factory.mktemp("t") / "data.csv"
    write_table(table, path)
    again = read_table(path)
    np.testing.assert_array_equal(again["loss"], table["loss"])
    assert np.signbit(again["loss"][table["loss"] == 0]).tolist() == (
        np.signbit(table["loss"][table["loss"] == 0]).tolist()
    )
    assert again["group"].tolist() == words


def test_whole_numbers_are_written_without_a_point() -> None:
    text = table_text(RunTable({"tokens": np.array([16384.0, 1e22, 0.5, 0.0, -3.0])}))
    assert text == "tokens\n16384\n1e+22\n0.5\n0\n-3\n"


def test_the_contracts_columns_come_first_in_order() -> None:
    table = make_table([{"zeta": 1, "loss": 2.0, "run": "a"}, {"run": "b", "lr": 1e-3}], {})
    assert list(table.columns) == ["run", "loss", "lr", "zeta"]
    assert [c for c in COLUMNS if c in table] == ["run", "loss", "lr"]


def test_a_mapping_computes_and_renames(tmp_path: Path) -> None:
    path = write(tmp_path, "wte,transformer,N,val/loss,id\n10,90,7,1.0,007\n20,180,8,2.0,008\n")
    table = read_table(
        path,
        {"params": "wte + transformer", "tokens": "20 * N", "loss": "{val/loss} * log(2)"}
        | {"run": "id"},
    )
    assert table["params"].tolist() == [100, 200]
    assert table["tokens"].tolist() == [140, 160]
    assert table["loss"].tolist() == pytest.approx([math.log(2), 2 * math.log(2)], rel=1e-15)
    assert table["run"].tolist() == ["007", "008"]


def test_a_mapping_reads_the_files_own_columns_and_not_the_mapped_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,10\n2,20\n")
    table = read_table(path, {"a": "b", "b": "a", "c": "a + 0"})
    assert table["a"].tolist() == [10, 20]
    assert table["b"].tolist() == [1, 2]
    assert table["c"].tolist() == [1, 2]


def test_mapping_another_count_of_parameters_changes_the_stated_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path, "params,params_total,params_kind,N\n1,2,non_embedding,3\n3,4,non_embedding,5\n"
    )
    assert read_table(path).meta["params_kind"] == "non_embedding"
    assert read_table(path, {"params": "params_total"}).meta["params_kind"] == "total"
    assert read_table(path, {"params": "N"}).meta["params_kind"] == "unstated"
    assert read_table(path, {"params": "N", "params_kind": "'total'"}).meta["params_kind"] == (
        "total"
    )


def test_mixed_kinds_are_called_mixed(tmp_path: Path) -> None:
    path = write(tmp_path, "params,params_kind\n1,total\n2,non_embedding\n")
    assert read_table(path).meta["params_kind"] == "mixed"


COLUMNS_OF_THREE = {
    "N": np.array([1.0, 10.0, 100.0]),
    "D": np.array([2.0, 20.0, 200.0]),
    "train.lr": np.array([0.1, 0.2, 0.3]),
    "status": np.array(["done", "failed", "done"], dtype=object),
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("N", [1, 10, 100]),
        ("6 * N * D", [12, 1200, 120000]),
        ("-N ** 2", [-1, -100, -10000]),
        ("D / N % 2", [0, 0, 0]),
        ("D // 3", [0, 6, 66]),
        ("train.lr * 10", [1, 2, 3]),
        ("min(N, D, 15)", [1, 10, 15]),
        ("max(N, 15)", [15, 15, 100]),
        ("round(log10(N))", [0, 1, 2]),
        ("1e3", [1000, 1000, 1000]),
        ("5 <= D / N * 3 <= 20", [True, True, True]),
        ("N > 5 and not D > 100", [False, True, False]),
        ("N < 5 or D > 100", [True, False, True]),
        ("status == 'done'", [True, False, True]),
        ("status != 'done' and N > 1", [False, True, False]),
    ],
)
def test_an_expression_computes_by_column(expression: str, value: list[float]) -> None:
    assert evaluate(expression, COLUMNS_OF_THREE, "t").tolist() == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_that_is_offered_can_be_called(name: str) -> None:
    arguments = "N, D" if name in ("min", "max") else "N"
    assert evaluate(f"{name}({arguments})", COLUMNS_OF_THREE, "t").shape == (3,)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("M * 2", "no column 'M'"),
        ("n_laers + n_layer.s", "no column 'n_laers'"),
        ("__import__('os').system('ls')", "calls"),
        ("(lambda: 1)()", "calls"),
        ("open('x')", "calls 'open'"),
        ("exp(N, D)", "exp() takes one value"),
        ("min(N)", "min() takes two values or more"),
        ("log(x=N)", "calls 'log'"),
        ("[n for n in N]", "is not arithmetic"),
        ("N.__class__", "no column 'N.__class__'"),
        ("N[0]", "is not arithmetic"),
        ("N if D else 1", "is not arithmetic"),
        ("N in D", "is not arithmetic"),
        ("N | D", "is not arithmetic"),
        ("~N", "is not arithmetic"),
        ("1j", "is not arithmetic"),
        ("status * 2", "mixes text and numbers"),
        ("-status", "mixes text and numbers"),
        ("N +", "not an expression"),
        ("", "not an expression"),
        ("N\x00", "not an expression"),
        ("(" * 500 + "N" + ")" * 500, "not an expression"),
        ("N" + "+N" * 5000, "too long"),
        ("f'{N}'", "is not arithmetic"),
    ],
)
def test_anything_but_arithmetic_is_refused(expression: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(expression, COLUMNS_OF_THREE, "runs.csv: --map loss")
    assert says in str(caught.value)
    assert str(caught.value).startswith("runs.csv: --map loss")


def test_a_tower_of_powers_is_infinite_instead_of_endless() -> None:
    assert evaluate("9**9**9**9", COLUMNS_OF_THREE, "t").tolist() == [math.inf] * 3


@given(st.text(max_size=40))
def test_any_text_gives_a_column_or_a_refusal(expression: str) -> None:
    try:
        value = evaluate(expression, COLUMNS_OF_THREE, "t")
    except InputError as error:
        message = str(error)
        assert message.startswith("t=")
    else:
        assert value.shape == (3,)


@pytest.mark.parametrize("text", ["params", "=N", "params=", "a=1,a=2"])
def test_a_mapping_option_without_name_or_expression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--map"):
        parse_mapping([text])
