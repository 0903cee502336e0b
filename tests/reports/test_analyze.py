"""The commands plot and analyze: what they write, what they print, how they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "plots"))
from study_examples import SOME_FIGURES, isoflop_table  # pyright: ignore[reportMissingImports]

from scalekit import cli
from scalekit.plots import _write
from scalekit.results.table import RunTable, write_table


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let analyze draw some figures only."""
    monkeypatch.setattr(_write, "plot_names", lambda: list(SOME_FIGURES))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "runs.csv"
    write_table(isoflop_table(), path)
    return path


@pytest.fixture(scope="module")
def analysed(data: Path) -> Path:
    folder = data.parent / "out"
    words = ["analyze", str(data), "-o", str(folder), "-t", "svg", "--predict", "1e22"]
    assert cli.run([*words, "--bootstrap", "20"]) == 0
    return folder


def test_analyze_leaves_table_fit_figures_and_every_report(analysed: Path) -> None:
    assert {p.name for p in analysed.iterdir()} == {
        "data.csv",
        "fit.json",
        "figures",
        "report.html",
        "report.md",
        "tables",
    }
    shown = {p.stem for p in (analysed / "figures").glob("*.svg")}
    assert shown >= {"isoflop", "frontier", "contours", "residuals", "design"}
    assert {p.stem for p in (analysed / "figures").glob("*.csv")} == shown


def test_the_report_shows_the_figures_that_lie_beside_it(analysed: Path) -> None:
    text = (analysed / "report.md").read_text()
    for path in (analysed / "figures").glob("*.svg"):
        assert f"(figures/{path.name})" in text


def test_the_recovered_exponent_is_that_of_the_surface_the_runs_came_from(analysed: Path) -> None:
    fit = json.loads((analysed / "fit.json").read_text())
    found = fit["exponents"]["params"]
    # beta / (alpha + beta) of the surface; the noise of the runs is inside the interval
    assert found["low"] < 0.366 / (0.348 + 0.366) < found["high"]


def test_a_fit_is_drawn_again_from_its_own_folder(analysed: Path, tmp_path: Path, capsys) -> None:
    assert cli.run(["plot", str(analysed / "fit.json"), "isoflop", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert [Path(line).name for line in shown.out.split()] == [
        "isoflop.pdf",
        "isoflop.svg",
        "isoflop.png",
        "isoflop.csv",
    ]
    assert (tmp_path / "isoflop.svg").read_bytes() == (
        analysed / "figures/isoflop.svg"
    ).read_bytes()
    assert shown.err == ""


def test_a_table_alone_gives_what_it_can_and_says_what_it_skipped(
    data: Path, tmp_path: Path, capsys
) -> None:
    assert cli.run(["plot", str(data), "all", "-o", str(tmp_path), "-t", "svg"]) == 0
    shown = capsys.readouterr()
    assert {"isoflop.svg", "design.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert "skipped frontier: there is no fit; run `scalekit fit` first" in shown.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["plot", "DATA", "isoflops"], 2, "did you mean 'isoflop'?"),
        (["plot", "DATA", "-t", "gif"], 2, "choose from pdf, png, svg"),
        (["plot", "DATA", "frontier"], 3, "there is no fit"),
        (["plot", "NOWHERE"], 3, "nowhere.csv"),
        (["analyze", "DATA", "--predict", "many"], 2, "--predict"),
        (["analyze", "DATA", "--predict", "-1e22"], 2, "FLOPs are positive"),
        (["analyze", "DATA", "--law", "chinchila"], 2, "did you mean 'chinchilla'?"),
        (["analyze", "NOLOSS"], 3, "loss"),
    ],
    ids=["name", "format", "no fit", "no file", "word", "negative", "law", "no loss"],
)
def test_a_mistake_is_answered_with_its_exit_code_and_writes_nothing(
    data: Path, tmp_path: Path, capsys, *, words: list[str], code: int, message: str
) -> None:
    poor = tmp_path / "noloss.csv"
    table = isoflop_table()
    write_table(RunTable({k: v for k, v in table.columns.items() if k != "loss"}), poor)
    names = {"DATA": data, "NOWHERE": tmp_path / "nowhere.csv", "NOLOSS": poor}
    before = sorted(p.name for p in tmp_path.iterdir())
    argv = [str(names.get(word, word)) for word in words]
    assert cli.run([*argv, "-o", str(tmp_path / "out")]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.usefixtures("few_figures")
def test_json_output_is_one_value_with_its_schema(data: Path, tmp_path: Path, capsys) -> None:
    words = ["analyze", str(data), "-o", str(tmp_path), "-t", "svg", "--bootstrap", "0"]
    assert cli.run([*words, "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.analyze/1"
    assert set(value["theta"]) == {"E", "A", "B", "alpha", "beta"}


@pytest.mark.usefixtures("few_figures")
def test_one_budget_is_analysed_without_a_held_out_check(tmp_path: Path, capsys) -> None:
    path = tmp_path / "one.csv"
    write_table(isoflop_table((1e19,), sizes=9), path)
    assert cli.run(["analyze", str(path), "-o", str(tmp_path / "out"), "-t", "svg"]) == 0
    assert "all runs have one budget" in capsys.readouterr().err


@pytest.mark.usefixtures("few_figures")
def test_an_unidentified_law_is_never_printed_as_a_law(tmp_path: Path, capsys) -> None:
    path = tmp_path / "one.csv"
    write_table(isoflop_table((1e19,), sizes=9), path)
    words = ["analyze", str(path), "-o", str(tmp_path / "out"), "-t", "svg", "--strict"]
    assert cli.run(words) == 6
    shown = capsys.readouterr()
    assert "chinchilla: not identified by these runs" in shown.out
    assert "C^" not in shown.out
    assert "frontier (" in (tmp_path / "out/report.html").read_text()  # among what is not drawn
