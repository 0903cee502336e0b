"""A study gathered from a sweep's folder, a table or a fit holds what lies there."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "plots"))
from study_examples import SOME_FIGURES, isoflop_table  # pyright: ignore[reportMissingImports]

from scalekit import cli, errors
from scalekit.analysis.gather import envelope_curves, gather
from scalekit.errors import FitError, InputError
from scalekit.fit import run as fit_run
from scalekit.plots import _write
from scalekit.results.reading import Reading
from scalekit.results.record import SCHEMA, RecordWriter
from scalekit.results.store import SweepFolder
from scalekit.results.table import RunTable, write_table


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let analyze draw some figures only."""
    monkeypatch.setattr(_write, "plot_names", lambda: list(SOME_FIGURES))


def plan_line(run: str, N: float, D: float, C: float) -> dict[str, Any]:
    config = {
        "model": {"arch": "gpt"},
        "data": {"source": "synthetic", "tokenizer": "symbols"},
        "train": {"seed": 0, "lr": 1e-3, "batch_tokens": 1024, "schedule": "cosine"},
    }
    params = {"total": N * 1.2, "non_embedding_head": N, "non_embedding": N * 0.9}
    flops = {"exact": 6 * N * D, "6N_total": 7.2 * N * D}
    kinds = {"params_kind": "non_embedding_head", "flops_kind": "exact"}
    plan = {"params": params, "flops": flops, "tokens": D, "steps": 10, "budget": C, **kinds}
    return {"schema": "scalekit.plan/1", "id": run, "config": config, "plan": plan, "resources": {}}


def lay_sweep(root: Path, table: RunTable, finished: int) -> SweepFolder:
    """Write a sweep's plan and the records of its first runs."""
    folder = SweepFolder(root)
    root.mkdir()
    names = ("run", "params", "tokens", "budget", "loss")
    rows = list(zip(*(table[name].tolist() for name in names), strict=True))
    lines = [plan_line(run, N, D, C) for run, N, D, C, _ in rows]
    folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line, (run, N, D, _, loss) in list(zip(lines, rows, strict=True))[:finished]:
        with RecordWriter(folder.record(run)) as record:
            header = {"id": run, "config": line["config"], "plan": line["plan"]}
            record.write("run", schema=SCHEMA, **header, facts={"entropy": 1.815})
            told = {"host": "node7", "device": "cpu", "code": "0.1.0+abc", "torch": "2.13.0"}
            record.write("attempt", n=1, time="2026-01-02", resumed_from=0, **told)
            for step in (2, 5, 10):
                share = step / 10
                more = {"loss": loss / share**0.1, "lr": 1e-3, "grad_norm": 0.5}
                record.write("step", step=step, tokens=D * share, **more)
                more = {"val_loss": loss / share**0.1, "val_sem": 0.001}
                record.write("eval", step=step, tokens=D * share, flops=6 * N * D * share, **more)
            record.write("end", status="done", wall_s=9.0, device_s=9.0, energy_j=None, attempts=1)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return lay_sweep(tmp_path_factory.mktemp("runs") / "demo", isoflop_table(), finished=30)


def test_a_sweep_gives_table_curves_plan_and_records(sweep: SweepFolder) -> None:
    study, notes = gather(sweep.root)
    assert notes == []
    assert study.table is not None
    assert (len(study.table), len(study.plan), len(study.curves)) == (35, 35, 30)
    assert study.name == "demo"
    assert (study.roles == "unfinished").sum() == 5
    curve = study.curves[0]
    np.testing.assert_array_equal(curve.steps["tokens"], curve.evals["tokens"])
    assert curve.evals["val_loss"][-1] == study.column("loss")[0]
    assert study.records[0]["attempts"][0]["torch"] == "2.13.0"


def test_curves_are_counted_as_the_table_is(sweep: SweepFolder) -> None:
    study, _ = gather(sweep.root, Reading(params_kind="total"))
    assert study.params_kind == "total"
    assert study.curves[0].params == study.column("params")[0]


def test_an_unreadable_record_is_noted_and_the_rest_is_gathered(tmp_path: Path) -> None:
    folder = lay_sweep(tmp_path / "demo", isoflop_table(), finished=30)
    folder.record("run004").write_text("what is this\n")
    study, notes = gather(folder.root)
    assert len(study.curves) == 29
    assert any("run004" in note for note in notes)


def test_the_envelope_takes_curves_only_at_a_constant_learning_rate(sweep: SweepFolder) -> None:
    study, _ = gather(sweep.root)
    assert envelope_curves(study) == []
    records = [json.loads(json.dumps(dict(r))) for r in study.records]
    for record in records:
        record["header"]["config"]["train"]["schedule"] = "constant"
    flat = replace(study, records=tuple(records))
    assert len(envelope_curves(flat)) == 30
    # Nor of runs that a fit leaves out, whose ends it has not either.
    dropped = (study.column("budget") >= study.budgets[-1]) & np.isfinite(study.column("loss"))
    drop = [f"budget>={study.budgets[-1]}"]
    assert 0 < dropped.sum() == 30 - len(envelope_curves(flat, drop))


def test_a_sweep_is_analysed_into_a_report_with_its_provenance(
    sweep: SweepFolder, tmp_path: Path, capsys
) -> None:
    assert cli.run(["analyze", str(sweep.root), "-o", str(tmp_path), "-t", "svg"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<dt>hosts</dt><dd>node7</dd>" in page
    assert "torch 2.13.0" in page
    assert "<dt>energy</dt><dd>unknown</dd>" in page
    assert "The source's entropy is known: 1.815 nats/token." in capsys.readouterr().out
    shown = {p.stem for p in (tmp_path / "figures").glob("*.svg")}
    assert {"curves", "design", "isoflop", "frontier", "contours", "residuals"} <= shown


def test_a_fit_of_a_sweep_with_mapped_columns_is_drawn_with_the_same_ones(
    sweep: SweepFolder, tmp_path: Path
) -> None:
    words = ["fit", str(sweep.root), "--map", "params=params_total,loss=loss+0"]
    assert cli.run([*words, "-o", str(tmp_path / "fit.json")]) == 0
    study, notes = gather(tmp_path / "fit.json")
    assert notes == []
    assert study.params_kind == "total"
    np.testing.assert_array_equal(study.column("params"), study.column("params_total"))


@pytest.mark.usefixtures("few_figures")
def test_runs_that_start_from_others_have_no_compute_optimum(tmp_path: Path, capsys) -> None:
    table = isoflop_table()
    start = np.array(["0123456789"] * len(table), dtype=object)
    tuned = {"start_run": start, "finetune_tokens": table["tokens"]}
    write_table(RunTable({**table.columns, **tuned}), tmp_path / "runs.csv")
    words = ["analyze", str(tmp_path / "runs.csv"), "--law", "finetune", "--bootstrap", "0"]
    assert cli.run([*words, "-o", str(tmp_path / "out"), "-t", "svg"]) == 0
    assert "whose compute is not in theirs" in capsys.readouterr().err
    fit = json.loads((tmp_path / "out/fit.json").read_text())
    assert fit["approach"] == "parametric"
    assert not [one for one in fit.get("others", ()) if one["approach"] != "parametric"]
    assert not (tmp_path / "out/figures/frontier.svg").exists()


@pytest.mark.usefixtures("few_figures")
def test_a_fit_whose_table_changed_says_so(tmp_path: Path) -> None:
    write_table(isoflop_table(), tmp_path / "runs.csv")
    words = ["analyze", str(tmp_path / "runs.csv"), "-o", str(tmp_path / "out"), "-t", "svg"]
    assert cli.run([*words, "--bootstrap", "0"]) == 0
    _, notes = gather(tmp_path / "out/fit.json")
    assert notes == []
    write_table(isoflop_table(seed=1), tmp_path / "out/data.csv")
    _, notes = gather(tmp_path / "out/fit.json")
    assert "has changed since" in notes[0]


@pytest.mark.usefixtures("few_figures")
def test_a_fit_without_its_table_still_gives_the_fit(tmp_path: Path) -> None:
    write_table(isoflop_table(), tmp_path / "runs.csv")
    words = ["analyze", str(tmp_path / "runs.csv"), "-o", str(tmp_path / "out"), "-t", "svg"]
    assert cli.run([*words, "--bootstrap", "0"]) == 0
    (tmp_path / "out/data.csv").unlink()
    study, notes = gather(tmp_path / "out/fit.json")
    assert study.table is None
    assert study.fit is not None
    assert "is not here" in notes[0]


def test_what_a_fit_is_asked_is_handed_on(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def fit(table: RunTable, **options: Any) -> None:
        asked.update(options)
        raise FitError("enough")

    write_table(isoflop_table(), tmp_path / "runs.csv")
    words = ["analyze", str(tmp_path / "runs.csv"), "-o", str(tmp_path / "out"), "-t", "svg"]
    words += ["--law", "repeat_exp", "--hold-out", "none", "--predict", "1e20", "--seed", "3"]
    with monkeypatch.context() as patched:
        patched.setattr(fit_run, "fit", fit)
        assert (
            cli.run([*words, "--given", "U=25B", "--drop", "params<1e6"]) == errors.NOT_IDENTIFIED
        )
    assert asked["given"] == {"U": 25e9}
    assert asked["drop"] == ("params<1e6",)
    assert (asked["laws"], asked["predict"], asked["seed"]) == (("repeat_exp",), (1e20,), 3)
    capsys.readouterr()
    for given, says in (("w=3", "no input of repeat_exp; choose from U"), ("U", "not NAME=NUMBER")):
        assert cli.run([*words, "--given", given]) == errors.USAGE
        assert says in capsys.readouterr().err


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no plan\.jsonl"):
        gather(tmp_path)
