"""`fit` and `analyze` read what others' training left, and keep beside the result how."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from scalekit import errors
from scalekit.cli import run
from scalekit.fit.run import read_fit

REFDATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "refdata"
EPOCH = REFDATA / "chinchilla_epoch_245.csv"
is_here = pytest.mark.skipif(not REFDATA.is_dir(), reason="the reference data is not here")
BATCH = 491_520
# E, A, B, alpha, beta: near Besiroglu et al. 2024, arXiv:2404.10102, table 1.
TRUTH = (1.8, 480.0, 2000.0, 0.35, 0.36)


def loss(N: float, D: float) -> float:
    E, A, B, alpha, beta = TRUTH
    return E + A * N**-alpha + B * D**-beta


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Six sizes, each trained to three lengths, as nanoGPT logs them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for millions in (10, 20, 40, 80, 160, 320):
        for steps in (1000, 3000, 9000):
            lines = [
                f"tokens per iteration will be: {BATCH:,}",
                f"number of parameters: {millions:.2f}M",
            ]
            for step in range(0, steps + 1, 500):
                value = loss(millions * 1e6, max(step, 1) * BATCH)
                lines.append(f"step {step}: train loss {value - 0.01:.4f}, val loss {value:.4f}")
            (folder / f"{millions}M-{steps}.log").write_text("\n".join(lines) + "\n")
    return folder


def test_a_fit_of_logs_is_that_of_their_collected_table(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, direct, later = (tmp_path / name for name in ("data.csv", "direct.json", "later.json"))
    words = ["--map", "loss=val_loss"]
    assert run(["fit", str(logs), *words, "-o", str(direct)]) == errors.OK
    told = capsys.readouterr().err
    assert "note: loss is val_loss, in nats/token" in told
    assert "note: flops are computed, by 6N_non_embedding_head" in told
    assert run(["collect", str(logs), *words, "-o", str(table)]) == errors.OK
    assert run(["fit", str(table), "-o", str(later)]) == errors.OK
    first, second = read_fit(direct), read_fit(later)
    assert first.theta == second.theta
    # The log has four decimals: losses near 3 are known to 2e-5, exponents to some 1e-3 of them.
    assert first.theta["alpha"] == pytest.approx(TRUTH[3], rel=0.02)
    assert first.data["params_kind"] == second.data["params_kind"] == "non_embedding_head"
    assert first.data["loss_unit"] == second.data["loss_unit"] == "nats/token"
    assert first.data["sha256"] == second.data["sha256"]
    assert any(
        "stands for each run, at steps 1000 to 9000" in said for said in first.data["assumed"]
    )


def test_a_fit_of_logs_finds_its_runs_again(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scalekit.analysis.gather import gather

    out = tmp_path / "fit.json"
    words = ["--map", "loss=val_loss", "--at", "step=500", "--smooth", "2"]
    assert run(["fit", str(logs), *words, "-o", str(out), "--fix", "beta=0.36"]) in (0, 6)
    kept = json.loads(out.read_text())["data"]
    assert kept["mapping"] == {"loss": "val_loss"}
    assert kept["reading"] == {"at": "step=500", "smooth": 2}
    study, notes = gather(out)
    assert notes == []
    assert study.table is not None
    assert study.table["step"].tolist() == [500] * 18
    assert set(study.table["flags"]) == {"smoothed_2"}
    with (logs / "10M-1000.log").open("a") as file:
        file.write("step 500: train loss 3.0, val loss 3.0\n")
    assert any("has changed since" in note for note in gather(out)[1])


def test_an_open_question_stops_a_fit_before_it_begins(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fit.json"
    assert run(["fit", str(logs), "-o", str(out)]) == errors.REFUSED
    assert "--map loss=val_loss" in capsys.readouterr().err
    assert not out.exists()


def test_a_law_of_compute_alone_needs_no_params(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    flops = np.geomspace(1e18, 1e21, 12)
    rows = [f"{c:.6g},{1.7 + 200 * c**-0.1:.8f}" for c in flops]
    path.write_text("\n".join(["flops,loss", *rows, ""]))
    assert run(["fit", str(path), "--law", "power"]) == errors.OK


@pytest.mark.slow
def test_logs_are_analysed_into_a_report_that_says_what_was_assumed(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--map", "loss=val_loss", "--bootstrap", "0", "-t", "svg"]
    folder = logs / "analysis"
    for _ in range(2):  # the second time the report of the first lies below the source
        assert run(["analyze", str(logs), *words]) == errors.OK
        captured = capsys.readouterr()
        assert "note: read as nanogpt" in captured.err
        assert "note: approach isoflop is left out" in captured.err
        fit = read_fit(folder / "fit.json")
        assert fit.n_runs == 18
        assert fit.data["path"] == "data.csv"
        assert fit.data["collected"]["mapping"] == {"loss": "val_loss"}
        assert any("nanoGPT's mean" in said for said in fit.data["assumed"])
    assert (
        run(["plot", str(folder / "fit.json"), "residuals", "-o", str(logs / "f"), "-t", "svg"])
        == 0
    )


@pytest.mark.data
@is_here
def test_the_published_table_is_fitted_as_it_lies(tmp_path: Path) -> None:
    """Epoch's digitised points; the best optimum known of the 240 that its authors kept."""
    out = tmp_path / "fit.json"
    words = ["--drop", "epoch_excluded", "--objective", "hoffmann", "-o", str(out)]
    assert run(["fit", str(EPOCH), *words]) == errors.OK
    fit = read_fit(out)
    assert fit.objective["value"] == pytest.approx(1.0182740178006e-03, rel=1e-9)
    assert len(fit.dropped) == 5


@pytest.mark.data
@is_here
def test_anyones_names_are_mapped_for_several_laws_and_questions(tmp_path: Path) -> None:
    out, path = tmp_path / "fit.json", tmp_path / "anyones_runs.csv"
    with EPOCH.open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch_excluded"] == "False"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["N", "D", "train_loss", "val_loss"])
        writer.writerows([r["params"], r["tokens"], r["loss"], r["loss"]] for r in rows)
    words = ["--map", "params=N,tokens=D,loss=val_loss", "--law", "chinchilla", "--law", "coupled"]
    words += ["--approach", "parametric", "--bootstrap", "50", "--hold-out", "largest-budget"]
    assert run(["fit", str(path), *words, "--predict", "1e22,1e24", "-o", str(out)]) == errors.OK
    fit = read_fit(out)
    assert [one.law for one in (fit, *fit.others)] == ["chinchilla", "coupled"]
    assert [row["flops"] for row in fit.optimum] == [1e22, 1e24]
    assert fit.holdout["mape"] < 0.02
