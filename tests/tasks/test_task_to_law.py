"""From a sweep with a task to the link between its loss and its accuracy, all by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from task_examples import next_symbol_task, oracle_accuracy, write_task

from scalekit import errors
from scalekit.cli import run
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.results.table import read_table

SWEEP = """\
scalekit: 1
name: linked
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 16}
  data: {source: synthetic, val_tokens: 4096, synthetic: {symbols: 64, degree: 10}}
  train: {batch_tokens: 512, lr: 1e-2, warmup_frac: 0.1}
  log: {every: 100, evals: 2}
  eval: {tasks: [next.jsonl]}
grid: {train.steps: [4, 16, 32, 64, 128, 320], train.seed: [0, 1]}
"""
TRAIN = ["sweep", "linked.yaml", "-e", "inline", "--wait", "-y", "--allow-unidentified"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked.yaml").write_text(SWEEP)
    return tmp_path


def test_a_sweep_with_a_task_gives_the_link_from_loss_to_accuracy(here: Path) -> None:
    items = next_symbol_task(n_items=400)
    write_task(here / "next.jsonl", items)
    assert run(TRAIN) == 0
    assert run(["collect", "runs/linked", "-o", "data.csv"]) == 0
    table = read_table("data.csv")
    loss, accuracy, sem = table["loss"], table["accuracy"], table["accuracy_sem"]
    assert table["next.accuracy"].tolist() == accuracy.tolist()
    assert set(table["task_items"]) == {400}
    # A binary mean has the standard error that its own mean gives.
    assert sem == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 399))
    # Nobody beats who knows the source, beyond the noise of 400 items.
    best = oracle_accuracy(items)
    noise = 3 * sem.max()
    assert 0.25 - noise < accuracy.min() < 0.45 < best - 0.1 < accuracy.max() < best + noise
    assert np.corrcoef(loss, accuracy)[0, 1] < -0.9
    code = run(["fit", "data.csv", "--law", "link_logistic", "--fix", "floor=0.25", "-o", "f.json"])
    assert code == 0
    fitted = json.loads(Path("f.json").read_text())
    assert fitted["n_runs"] == 12
    theta = fitted["theta"]
    # The curve ends where the source does: at its entropy no model does better than its oracle.
    entropy = table["entropy"][0]
    share = 1 / (1 + np.exp(theta["slope"] * (entropy - theta["middle"])))
    at_entropy = 0.25 + (theta["ceiling"] - 0.25) * share
    assert at_entropy == pytest.approx(best, abs=0.05)  # two sd of 400 items' accuracy


def test_scores_at_every_evaluation_and_of_two_tasks(here: Path) -> None:
    write_task(here / "a.jsonl", next_symbol_task(n_items=20, seed=1))
    cloze = [{"context": [1, 2], "target": [3]}, {"context": [4], "target": [5, 6]}]
    write_task(here / "b.jsonl", cloze)
    tasks = f"eval.tasks=[{here}/a.jsonl, jsonl:{here}/b.jsonl]"
    settings = (tasks, "eval.tasks_at=every", "grid.train.steps=[4]", "grid.train.seed=[0]")
    assert run([*TRAIN, *(word for s in settings for word in ("-s", s))]) == 0
    folder = SweepFolder(Path("runs/linked"))
    (line,) = folder.plan_lines()
    evals = read_record(folder.record(line["id"])).evals
    assert [set(e["tasks"]) for e in evals] == [{"a", "b"}] * 2
    assert run(["collect", "runs/linked", "-o", "data.csv"]) == 0
    table = read_table("data.csv")
    assert table["a.accuracy"][0] == evals[-1]["tasks"]["a"]["accuracy"]
    assert table["b.bits"][0] == evals[-1]["tasks"]["b"]["bits"]
    # Which of two would `accuracy` be?
    assert not {"accuracy", "task_loss"} & set(table.columns)


def test_tasks_change_no_run(here: Path) -> None:
    write_task(here / "next.jsonl", next_symbol_task(n_items=4))
    few = ("-s", "grid.train.steps=[4]", "-s", "grid.train.seed=[0]")
    losses = []
    for n, extra in enumerate([(), ("-s", "eval.tasks=[]"), ("-s", "eval.tasks_at=every")]):
        assert run([*TRAIN, *few, *extra, "--out", str(n)]) == 0
        folder = SweepFolder(Path(str(n)))
        (line,) = folder.plan_lines()
        record = read_record(folder.record(line["id"]))
        losses.append((line["id"], [step["loss"] for step in record.steps]))
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("[no.jsonl]", "no.jsonl cannot be read"),
        ("[a.jsonl, jsonl:a.jsonl]", "two tasks are called 'a'"),
        ("[large.jsonl]", "task 'large', item 1: token 64, but model.vocab is 64"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], tasks: str, said: str
) -> None:
    write_task(here / "a.jsonl", next_symbol_task(n_items=2))
    write_task(here / "large.jsonl", [{"context": [1], "target": [64]}])
    assert run([*TRAIN, "-s", f"eval.tasks={tasks}"]) == errors.REFUSED
    found = " ".join(capsys.readouterr().err.split())
    assert said in found
    assert "eval.tasks, eval.tasks" not in found
    assert not (here / "runs").exists()
