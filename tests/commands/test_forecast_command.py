"""scalekit forecast and verify as a user meets them: files, refusals with codes, a log scored."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fit_files import THETA, chinchilla, written

from scalekit import errors
from scalekit.analysis.forecast import digest
from scalekit.cli import run
from scalekit.results.table import make_table, read_table, write_table

KINDS = {"params_kind": "total", "flops_kind": "6N_total", "loss_unit": "nats/token"}


def loss_of(N: float, D: float) -> float:
    t = THETA
    return t["E"] + t["A"] * N ** -t["alpha"] + t["B"] * D ** -t["beta"]


def row(name: str, N: float, D: float, factor: float = 1.0, **columns) -> dict:
    plain = {"run": name, "status": "done", "params": N, "tokens": D, "flops": 6 * N * D}
    return {**plain, "loss": loss_of(N, D) * factor, **KINDS, **columns}


def table(path: Path, *rows: dict) -> Path:
    write_table(make_table(rows, {}), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a fitted table, its fit, and three runs that came later."""
    monkeypatch.chdir(tmp_path)
    sizes = np.geomspace(2e7, 3.4e9, 8)
    old = table(tmp_path / "old.csv", *(row(f"o{k}", N, 20 * N) for k, N in enumerate(sizes)))
    meta = read_table(old).meta
    data = {"path": "old.csv", "sha256": meta["sha256"], **KINDS}
    written(tmp_path, chinchilla(data=data))
    table(
        tmp_path / "new.csv",
        row("n1", 7e9, 1.4e11, 1.001),
        row("n2", 1e10, 1e11, 1.05),
        row("n3", 5e9, 2e11, 1.0, status="running"),
    )
    return tmp_path


def forecast(*options: str) -> int:
    return run(["forecast", "fit.json", *options])


def test_a_forecast_says_how_far_the_laws_with_a_say_spread(here: Path, capsys) -> None:
    shares = {"params": {"value": 0.51}, "tokens": {"value": 0.49}}
    theta = {**{k: THETA[k] for k in ("E", "A", "B")}, "alpha": THETA["alpha"]}
    other = chinchilla(law="chinchilla_tied", theta=theta, exponents=shares, covariance=None)
    written(here, chinchilla(exponents=shares, others=(other,)))
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    form = json.loads((here / "f.json").read_text())["form"]
    tied = (
        theta["E"] + (theta["A"] * 7e9 ** -theta["alpha"]) + theta["B"] * 140e9 ** -theta["alpha"]
    )
    assert form["laws"] == ["chinchilla", "chinchilla_tied"]
    assert form["loss"] == pytest.approx([loss_of(7e9, 140e9), tied], rel=1e-12)
    assert f"  forms  loss {form['loss'][0]:.4g} to {tied:.4g} over" in capsys.readouterr().out


def test_a_forecast_is_written_scored_and_printed_to_the_letter(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[:6] == [
        "forecast by chinchilla, CONVERGED on 30 runs",
        "    FLOPs  params  tokens  tokens/param   loss            90 %         one run"
        "  extrapolation",
        "  5.88e21      7B    140B          20.0  2.183  2.173 to 2.193  2.170 to 2.195"
        "          58.8x",
        "  scored on the run with params within 1 %, tokens within 1 %",
        "  without any law: 2.2837, the best fitted loss",
        "  params total, FLOPs 6N_total, loss nats/token",
    ]
    body = json.loads((here / "f.json").read_text())
    assert f"  digest {body['digest']}" in lines
    assert body["data"]["sha256"] == read_table(here / "old.csv").meta["sha256"]
    assert re.fullmatch(r"0\.1\.0(\+[0-9a-f]{12}(\.changed)?)?", body["code"])
    assert run(["verify", "f.json", "new.csv"]) == errors.OK
    taken = capsys.readouterr()
    assert taken.out == (
        "verified\n"
        "  forecast  run  params  tokens  extrapolation   loss  forecast            90 %      z"
        "  inside    error   no law\n"
        "  f.json    n1       7B    140B          58.8x  2.185     2.183  2.170 to 2.195  +0.30"
        "  yes     +0.10 %  -4.52 %\n"
        "  error is observed less forecast, over observed; no law, that of the best fitted loss\n"
        "1 of 1 forecast inside its 90 % interval; mean absolute error 0.10 %, without any law "
        "4.52 %, bias +0.10 %\n"
    )
    # What the table's columns are taken for is told; nothing is warned of.
    assert all(line.startswith("note: ") for line in taken.err.splitlines())


def test_without_a_file_the_forecast_itself_is_printed(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B") == errors.OK
    text = capsys.readouterr().out
    (here / "piped.json").write_text(text)
    assert run(["verify", "piped.json", "new.csv", "--format", "json"]) == errors.OK
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.verify/1"
    assert value["tally"]["inside"] == 1
    assert value["verdicts"][0]["digest"] == json.loads(text)["digest"]


def test_a_forecast_that_stands_is_not_written_over(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    before = (here / "f.json").read_text()
    assert forecast("--params", "8B", "--tokens", "140B", "-o", "f.json") == errors.REFUSED
    assert "a forecast is not written over" in capsys.readouterr().err
    assert (here / "f.json").read_text() == before


def test_a_log_of_forecasts_is_scored_together(here: Path, capsys) -> None:
    for k, (N, D) in enumerate([("7B", "140B"), ("10B", "100B"), ("5B", "200B"), ("9B", "9T")]):
        assert forecast("--params", N, "--tokens", D, "-o", f"f{k}.json") == errors.OK
    capsys.readouterr()
    files = [f"f{k}.json" for k in range(4)]
    assert run(["verify", *files, "new.csv"]) == errors.OK
    taken = capsys.readouterr()
    assert "1 of 2 forecasts inside their 90 % interval" in taken.out
    assert "come out so or worse in 19 % of cases" in taken.out
    assert "waiting: f2.json: new.csv: run n3 is running" in taken.err
    assert "waiting: f3.json: new.csv: no run of 9B params and 9T tokens" in taken.err
    assert run(["verify", *files, "new.csv", "--format", "csv"]) == errors.OK
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["file"] for r in rows] == ["f0.json", "f1.json"]
    assert float(rows[1]["z"]) > 5
    # When none has come there is nothing to score yet.
    assert run(["verify", "f2.json", "f3.json", "new.csv"]) == errors.NOT_FINISHED


def test_a_single_forecast_without_its_run_is_refused_with_what_differs(here: Path, capsys) -> None:
    for options, code, says in (
        (
            ("--params", "9B", "--tokens", "9T"),
            errors.REFUSED,
            "the nearest is n3 with params 5B (-44.4%)",
        ),
        (("--params", "5B", "--tokens", "200B"), errors.NOT_FINISHED, "run n3 is running"),
    ):
        path = here / "f.json"
        path.unlink(missing_ok=True)
        assert forecast(*options, "-o", "f.json") == errors.OK
        assert run(["verify", "f.json", "new.csv"]) == code
        taken = capsys.readouterr()
        assert says in taken.err
        assert "verified" not in taken.out


def test_a_changed_file_is_refused(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    text = (here / "f.json").read_text()
    (here / "f.json").write_text(text.replace('"loss": 2.18', '"loss": 2.19', 1))
    assert (here / "f.json").read_text() != text
    assert run(["verify", "f.json", "new.csv"]) == errors.REFUSED
    assert "was changed after it was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"params_kind": "non_embedding"}, "params are counted as non_embedding, not total"),
        ({"loss_unit": "bits/byte"}, "the loss is in bits/byte, the forecast is of nats/token"),
    ],
)
def test_runs_counted_otherwise_are_refused(here: Path, capsys, columns: dict, says: str) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    assert forecast("--params", "8B", "--tokens", "140B", "-o", "g.json") == errors.OK
    table(here / "odd.csv", row("n1", 7e9, 1.4e11, **columns))
    for files in (["f.json"], ["f.json", "g.json"]):
        assert run(["verify", *files, "odd.csv"]) == errors.REFUSED
        assert says in capsys.readouterr().err


def test_flops_of_params_that_are_not_stated_are_scored_under_a_warning(here: Path, capsys) -> None:
    data = {"path": "old.csv", "sha256": "", "params_kind": "unstated"}
    data |= {"flops_kind": "6N_unstated", "loss_unit": "nats/token"}
    written(here, chinchilla(data=data))
    assert forecast("--flops", "1e21", "-o", "f.json") == errors.OK
    size = json.loads((here / "f.json").read_text())["target"]["params"]
    table(here / "one.csv", row("n1", size, 1e21 / 6 / size))
    assert run(["verify", "f.json", "one.csv"]) == errors.OK
    assert "unlike the forecast, how its flops is counted" in capsys.readouterr().err


def test_params_are_recounted_where_the_table_holds_the_forecasts_count(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    run_row = row("n1", 6.5e9, 1.4e11, params_kind="non_embedding", params_total=7e9)
    table(here / "both.csv", {**run_row, "loss": loss_of(7e9, 1.4e11)})
    assert run(["verify", "f.json", "both.csv", "--format", "json"]) == errors.OK
    taken = capsys.readouterr().out
    assert json.loads(taken[taken.index("{") :])["verdicts"][0]["params"] == 7e9


def test_a_run_that_was_fitted_is_called_no_forecast(here: Path, capsys) -> None:
    size = float(read_table(here / "old.csv")["params"][3])
    options = ("--params", repr(size), "--tokens", repr(20 * size))
    assert forecast(*options, "-o", "f.json") == errors.OK
    assert "the data holds runs of this size already, o3" in capsys.readouterr().out
    assert run(["verify", "f.json", "old.csv"]) == errors.OK
    taken = capsys.readouterr()
    assert "o3 was already in the data that it was made from, among the fitted runs" in taken.err
    assert "no forecast among them" in taken.out
    assert run(["verify", "f.json", "--loss", repr(loss_of(size, 20 * size))]) == errors.OK
    assert "this loss was already in the data" in capsys.readouterr().err


def test_a_fit_whose_data_changed_makes_a_forecast_that_says_what_it_cannot_know(
    here: Path, capsys
) -> None:
    table(here / "old.csv", row("other", 1e9, 2e10))
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    assert "old.csv: has changed since the fit" in capsys.readouterr().err
    assert run(["verify", "f.json", "new.csv"]) == errors.OK
    taken = capsys.readouterr()
    assert "cannot tell whether n1 was already in its data" in taken.err
    assert "without any law" not in taken.out


def test_a_loss_by_itself_is_scored_against_one_forecast(here: Path, capsys) -> None:
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    assert run(["verify", "f.json", "--loss", "2.40", "--format", "json"]) == errors.OK
    out = capsys.readouterr().out
    verdict = json.loads(out[out.index("{") :])["verdicts"][0]
    assert verdict["inside"] is False
    assert verdict["loss"] == 2.40
    assert verdict["z"] > 10


def test_an_optimum_is_forecast_and_met_by_a_feasible_shape_near_it(here: Path, capsys) -> None:
    assert forecast("--flops", "5.88e21", "-o", "f.json") == errors.OK
    assert "flops within 1 %, params within 25 %" in capsys.readouterr().out
    assert run(["verify", "f.json", "new.csv", "--format", "json"]) == errors.OK
    verdict = json.loads(capsys.readouterr().out)["verdicts"][0]
    assert verdict["run"] == "n1"
    # The frozen law moves the forecast to the run's own size: the miss is the run's own 0.1 %.
    assert verdict["relative_error"] == pytest.approx(0.001 / 1.001, rel=1e-6)


def test_a_sweeps_folder_is_scored_by_its_records(here: Path, capsys, make_sweep) -> None:
    folder, lines = make_sweep(3, r0="done", r1=None)
    plan = lines[0]["plan"]
    N, D = plan["params"]["non_embedding"], plan["tokens"]
    data = {"path": "gone.csv", "sha256": "0", **KINDS, "params_kind": "non_embedding"}
    written(here, chinchilla(data=data))
    assert forecast("--params", repr(N), "--tokens", repr(D), "-o", "f.json") == errors.OK
    assert run(["verify", "f.json", str(folder.root), "--format", "json"]) == errors.OK
    taken = capsys.readouterr()
    verdict = json.loads(taken.out[taken.out.index("{") :])["verdicts"][0]
    assert verdict["run"] == lines[0]["id"]
    assert verdict["loss"] == pytest.approx(2.0)
    # Its record says that it began in January.
    assert "began at 2026-01-01T00:00:00, before the forecast was made" in taken.err


BAD = {
    "a list": (["forecast", "fit.json", "--flops", "1e21,1e22"], errors.USAGE, "one run a file"),
    "nothing": (["forecast", "fit.json"], errors.USAGE, "nothing is asked"),
    "half": (["forecast", "fit.json", "--params", "1B"], errors.USAGE, "add --tokens or --flops"),
    "too near": (
        ["forecast", "fit.json", "--flops", "1e21", "--tolerance", "2"],
        errors.USAGE,
        "a share below one",
    ),
    "no fit": (["forecast", "no.json", "--flops", "1e21"], errors.REFUSED, "cannot be read"),
    "no forecast": (["verify", "new.csv"], errors.USAGE, "name a file of scalekit forecast"),
    "a fit for a forecast": (["verify", "fit.json", "new.csv"], errors.REFUSED, "schema"),
    "no data": (["verify", "f.json"], errors.USAGE, "found none"),
    "two tables": (["verify", "f.json", "old.csv", "new.csv"], errors.USAGE, "found old.csv and"),
    "loss and data": (["verify", "f.json", "new.csv", "--loss", "2"], errors.USAGE, "leave DATA"),
    "one loss for two": (["verify", "f.json", "f.json", "--loss", "2"], errors.USAGE, "one by one"),
    "a run for two": (
        ["verify", "f.json", "f.json", "new.csv", "--run", "n1"],
        errors.USAGE,
        "one by one",
    ),
    "no such run": (["verify", "f.json", "new.csv", "--run", "n9"], errors.REFUSED, "no run 'n9'"),
    "no such table": (["verify", "f.json", "no.csv"], errors.REFUSED, "cannot be read"),
    "a loss in a unit": (
        ["verify", "f.json", "--loss", "2", "--loss-unit", "bits"],
        errors.USAGE,
        "in the forecast's own unit",
    ),
    "a negative loss": (["verify", "f.json", "--loss", "-2"], errors.USAGE, "not positive"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_answered_with_its_reason_and_code(here: Path, capsys, name: str) -> None:
    argv, code, says = BAD[name]
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    capsys.readouterr()
    assert run(argv) == code
    taken = capsys.readouterr()
    assert says in taken.err
    assert taken.out == ""
    assert "Traceback" not in taken.err


FORGED = {
    "no size": ({"target": {}}, "target.held is missing"),
    "a size of words": ({"target": {"params": "big"}}, "target.params is 'big', not a positive"),
    "no parameters": ({"theta": {}}, "theta.E is missing"),
    "a negative one": ({"theta": {"A": -1.0}}, "theta.A is -1, below zero"),
    "a loss of words": ({"loss": "low"}, "loss is 'low', not a positive number"),
    "no interval": ({"intervals": {}}, "intervals.loss_prediction is missing"),
    "runs of words": ({"seen": ["r1"]}, "seen[0] is 'r1', not names and values"),
    "another time": ({"time": "noon"}, "Invalid isoformat string: 'noon'"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_forecast_is_refused_in_words(here: Path, capsys, name: str) -> None:
    changes, says = FORGED[name]
    assert forecast("--params", "7B", "--tokens", "140B", "-o", "f.json") == errors.OK
    body = json.loads((here / "f.json").read_text())
    for part, value in changes.items():
        body[part] = {**body[part], **value} if isinstance(value, dict) and value else value
    (here / "f.json").write_text(json.dumps({**body, "digest": digest(body)}))
    assert run(["verify", "f.json", "--loss", "3.0"]) == errors.REFUSED
    assert f"f.json: not a whole forecast, {says}" in capsys.readouterr().err
