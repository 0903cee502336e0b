"""scalekit fit, predict and simulate as a user meets them: results, refusals, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fit_examples import BESIROGLU

from scalekit import errors
from scalekit.cli import run
from scalekit.fit.run import read_fit
from scalekit.results.table import RunTable, read_table, write_table


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    argv = ["simulate", "--budgets", "1e18,3e18,1e19,3e19,1e20", "--noise", "0.003"]
    assert run([*argv, "--sizes", "6", "-o", str(path)]) == errors.OK
    return path


def test_simulate_fit_and_predict_make_a_round(data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "fit.json"
    argv = ["fit", str(data), "--hold-out", "largest-budget", "--predict", "1e21", "-o", str(out)]
    assert run([*argv, "--approach", "parametric", "--approach", "isoflop"]) == errors.OK
    text = capsys.readouterr().out
    assert "CONVERGED" in text
    assert "held out  largest-budget" in text
    assert "isoflop  approach 2" in text
    assert run(["predict", str(out), "--flops", "1e21", "--format", "json"]) == errors.OK
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.predict/1"
    fit = read_fit(out)
    asked, again = fit.optimum[0], value["predictions"][0]
    for name in ("params", "tokens", "loss"):
        # Written and read back, a law predicts the same: JSON keeps every digit.
        assert again[name] == pytest.approx(asked[name], rel=1e-12)
    truth = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])
    assert fit.exponents["params"]["low"] < truth < fit.exponents["params"]["high"]


def test_json_and_csv_hold_full_precision(data: Path, capsys) -> None:
    assert run(["fit", str(data), "--format", "json"]) == errors.OK
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.fit/1"
    assert run(["fit", str(data), "--format", "csv"]) == errors.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "law,name,value,low,high,method,status"
    found = {line.split(",")[1]: float(line.split(",")[2]) for line in lines[1:]}
    assert found == value["theta"]


def test_the_printed_numbers_carry_enough_digits_for_the_optimum(data: Path, capsys) -> None:
    """P7: a law as printed must put the optimum where the law as fitted does."""
    assert run(["fit", str(data), "--format", "json"]) == errors.OK
    exact = json.loads(capsys.readouterr().out)["theta"]
    assert run(["fit", str(data)]) == errors.OK
    printed = {}
    for line in capsys.readouterr().out.splitlines():
        words = line.split()
        if words and words[0] in exact:
            printed[words[0]] = float(words[1])

    def log_best(t: dict) -> float:
        inside = t["alpha"] * t["A"] / (t["beta"] * t["B"])
        share = t["alpha"] + t["beta"]
        return (np.log(inside) + t["beta"] * np.log(1e23 / 6)) / share

    assert set(printed) == set(exact)
    assert log_best(printed) == pytest.approx(log_best(exact), abs=5e-3)


def test_foreign_columns_are_mapped_and_computed(data: Path, tmp_path: Path, capsys) -> None:
    table = read_table(data)
    N, D = table["params"], table["tokens"]
    foreign = {"wte": 0.2 * N, "body": 0.8 * N, "D": D, "val/loss": table["loss"]}
    path = tmp_path / "foreign.csv"
    write_table(RunTable(foreign), path)
    argv = ["fit", str(path), "--format", "json"]
    assert run([*argv, "--map", "params=wte+body,tokens=D,loss=val/loss"]) == errors.OK
    taken = capsys.readouterr()
    assert "FLOPs are counted as 6 x params x tokens" in taken.err
    mapped = json.loads(taken.out)["theta"]
    assert run(["fit", str(data), "--format", "json"]) == errors.OK
    plain = json.loads(capsys.readouterr().out)["theta"]
    assert mapped == pytest.approx(plain, rel=1e-6)


def test_a_users_own_law_is_a_file(data: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from scalekit.laws.chinchilla import LAW as base\n"
        "LAW = replace(base, name='mine', source='me')\n"
    )
    out = tmp_path / "fit.json"
    assert run(["fit", str(data), "--law", str(path), "-o", str(out)]) == errors.OK
    assert run(["predict", str(out), "--params", "70B", "--tokens", "1.4T"]) == errors.OK
    assert "prediction interval" in capsys.readouterr().out


BAD = {
    "no such law": (["--law", "chinchila"], errors.USAGE, "did you mean 'chinchilla'?"),
    "no such objective": (["--objective", "hofmann"], errors.USAGE, "did you mean 'hoffmann'?"),
    "a delta for nothing": (["--delta", "0.1"], errors.USAGE, "robust takes none"),
    "huber without delta": (["--objective", "huber"], errors.USAGE, "needs a positive --delta"),
    "a hold-out of valleys": (
        ["--approach", "isoflop", "--hold-out", "largest-budget"],
        errors.USAGE,
        "--hold-out: is of the parametric approach, and --approach names isoflop alone",
    ),
    "no such approach": (["--approach", "isoflops"], errors.USAGE, "did you mean 'isoflop'?"),
    "no such parameter": (["--fix", "gamma=1"], errors.USAGE, "chinchilla has none"),
    "not a number": (["--fix", "E=high"], errors.USAGE, "--fix E='high': not a number"),
    "negative": (["--fix", "E=-1"], errors.USAGE, "not a positive number"),
    "a floor above all losses": (
        ["--fix", "E=10"],
        errors.USAGE,
        "but all runs' do",
    ),
    "a call": (["--drop", "__import__('os').system('x')"], errors.REFUSED, "calls"),
    "no such column": (["--hold-out", "flop>1"], errors.REFUSED, "did you mean 'flops'?"),
    "no such rule": (["--hold-out", "largest"], errors.REFUSED, "did you mean 'largest-budget'?"),
    "holds out all": (["--hold-out", "flops>0"], errors.NOT_IDENTIFIED, "takes every run"),
    "holds out none": (["--hold-out", "flops<0"], errors.NOT_IDENTIFIED, "takes no run"),
    "negative budget": (["--predict", "-1"], errors.USAGE, "not positive"),
    "drops all": (["--drop", "flops>0"], errors.REFUSED, "no run is left to fit"),
    "keeps four": (["--drop", "budget>1e18", "--drop", "params>1e8"], 6, "5 free parameters"),
    "no cluster": (["--cluster", "trunk"], errors.REFUSED, "no column 'trunk'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_answered_with_its_place_and_code(
    data: Path, tmp_path: Path, capsys, name: str
) -> None:
    options, code, says = BAD[name]
    out = tmp_path / "fit.json"
    out.write_text("what was there\n")
    capsys.readouterr()
    assert run(["fit", str(data), "-o", str(out), *options]) == code
    taken = capsys.readouterr()
    assert says in taken.err
    assert "Traceback" not in taken.err
    assert taken.out == ""
    assert out.read_text() == "what was there\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


TABLES = {
    "empty": ("params,tokens,loss\n", 3, ""),
    "one row": ("params,tokens,loss\n1e7,2e8,4.0\n", 6, "1 run but chinchilla has 5"),
    "no loss": ("params,tokens\n1e7,2e8\n", 3, "no column 'loss'"),
    "text for loss": ("params,tokens,loss\n1e7,2e8,good\n", 3, "not numeric, 'good' in row 1"),
    "all NaN": ("params,tokens,loss\n1e7,2e8,nan\n1e7,3e8,\n", 3, "loss is not a number"),
    "identical rows": ("params,tokens,loss\n" + "1e7,2e8,4.0\n" * 9, 6, "1 different sizes"),
    "mixed units": (
        "params,tokens,loss,loss_unit\n" + "1e7,2e8,4.0,nats/token\n1e7,3e8,1.2,bits/byte\n" * 5,
        3,
        "loss_unit mixes bits/byte, nats/token",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_fitted_is_refused(tmp_path: Path, capsys, name: str) -> None:
    text, code, says = TABLES[name]
    path = tmp_path / "runs.csv"
    path.write_text(text)
    assert run(["fit", str(path)]) == code
    taken = capsys.readouterr()
    assert says in taken.err
    assert taken.out == ""


def test_an_unidentified_fit_is_shown_and_fails_only_when_strict(tmp_path: Path, capsys) -> None:
    path = tmp_path / "ray.csv"
    rows = [f"{n},{20 * n},{1.8 + 400 * n**-0.3}" for n in np.geomspace(1e7, 1e9, 12)]
    path.write_text("params,tokens,loss\n" + "\n".join(rows) + "\n")
    assert run(["fit", str(path)]) == errors.OK
    taken = capsys.readouterr()
    assert "UNIDENTIFIED: all runs lie on one ray" in taken.out
    assert "UNIDENTIFIED" in taken.err
    assert run(["fit", str(path), "--strict"]) == errors.NOT_IDENTIFIED


def test_predict_refuses_what_is_no_fit(tmp_path: Path, capsys) -> None:
    path = tmp_path / "fit.json"
    for text, says in (("{", "not JSON"), ("[1]", "schema 'list'"), ("{}", "schema None")):
        path.write_text(text)
        assert run(["predict", str(path), "--flops", "1e21"]) == errors.REFUSED
        assert says in capsys.readouterr().err
    assert run(["predict", str(tmp_path / "no.json"), "--flops", "1e21"]) == errors.REFUSED
    assert run(["predict", str(path)]) == errors.USAGE


@pytest.mark.parametrize("command", ["fit", "analyze"])
def test_a_result_is_not_written_over_the_table_it_is_made_of(
    data: Path, tmp_path: Path, capsys, command: str
) -> None:
    before = data.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(data)
    out = data if command == "fit" else tmp_path
    assert run([command, str(link), "-o", str(out)]) == errors.REFUSED
    assert "is the table itself" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_simulate_needs_a_whole_law(tmp_path: Path, capsys) -> None:
    assert run(["simulate"]) == errors.USAGE
    assert "--budgets" in capsys.readouterr().err
    assert run(["simulate", "--budgets", "1e18", "--theta", "Z=1"]) == errors.USAGE
    assert run(["simulate", "--budgets", "1e18", "--law", "power"]) == errors.USAGE
    assert "power needs E, A, alpha" in capsys.readouterr().err


def test_the_same_seed_simulates_the_same_table(capsys) -> None:
    argv = ["simulate", "--budgets", "1e18", "--sizes", "1M,2M,4M"]
    texts = []
    for seed in ("0", "0", "1"):
        assert run([*argv, "--seed", seed]) == errors.OK
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].count("\n") == 4


def test_a_whole_fit_loads_numpy_and_nothing_heavier(data: Path) -> None:
    """A second of imports is more than the fit itself: scipy and pandas stay out."""
    argv = ["fit", str(data), "--law", "chinchilla", "--law", "coupled", "--bootstrap", "50"]
    argv += ["--approach", "parametric", "--approach", "isoflop", "--approach", "envelope"]
    argv += ["--hold-out", "largest-budget", "--predict", "1e22"]
    heavy = ("torch", "pandas", "scipy", "matplotlib", "jinja2", "submitit")
    code = (
        "import sys; from scalekit.cli import run; code = run(sys.argv[1:]); "
        f"print('LOADED', *[m for m in {heavy!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]
