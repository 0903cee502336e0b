"""The page about files names every field that is written, where a reader looks for it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scalekit import cli
from scalekit.fit.result import FitResult
from scalekit.results.store import SweepFolder
from scalekit.results.table import read_table

PAGE = Path(__file__).parents[1] / "docs" / "files.md"

SWEEP = """\
scalekit: 1
name: tiny
base:
  model: {d_model: 16, n_layers: 1, head_dim: 8, context: 16}
  data: {source: mixture, path: PATH, weights: "a=0.5, b=0.5", val_tokens: 64}
  train: {batch_tokens: 64, schedule: wsd, warmup_tokens: 64}
  log: {every: 4, evals: 1}
  eval: {tasks: [PATH/quiz.jsonl]}
ladder: {train.steps: [8, 12]}
"""


def words(title: str) -> set[str]:
    """Return what stands between backticks in a section of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2]
    return set(re.findall(r"`([^`]+)`", section.partition("\n## ")[0]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """A sweep of a ladder on a mixture with a task, which ran."""
    root = tmp_path_factory.mktemp("page")
    for name in "ab":
        text = "".join(json.dumps({"text": f"{name} {n} " * 20}) + "\n" for n in range(40))
        (root / f"{name}.jsonl").write_text(text)
        command = ["data", "prepare", str(root / f"{name}.jsonl"), "-o", str(root / name)]
        assert cli.run([*command, "--val-share", "0.3", "-w", "1"]) == 0
    (root / "quiz.jsonl").write_text('{"context": "a", "choices": [" 1", " 2"], "answer": 0}\n' * 2)
    (root / "s.yaml").write_text(SWEEP.replace("PATH", str(root)))
    out = root / "runs"
    assert cli.run(["sweep", str(root / "s.yaml"), "--out", str(out), "-e", "inline", "-y"]) == 0
    assert cli.run(["collect", str(out), "-o", str(out / "data.csv")]) == 0
    return SweepFolder(out)


def test_every_field_of_a_record_is_on_the_page(folder: SweepFolder) -> None:
    known, told = words("A run's record"), defaultdict(set)
    for path in (folder.root / "runs").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            value = json.loads(line)
            told[value["t"]] |= value.keys() - {"t"}
    assert {"run", "attempt", "step", "eval", "spent", "end"} <= told.keys() <= known
    assert {(t, key) for t, keys in told.items() for key in keys if key not in known} == set()


def test_every_column_of_the_table_is_on_the_page(folder: SweepFolder) -> None:
    known = {word.replace("TASK.", "quiz.") for word in words("The table")}
    swept = {"train.steps", "train.tokens", "train.warmup_frac"}
    assert {
        column
        for column in read_table(folder.table_file).columns
        if not any(fnmatch(column.removesuffix("_sem"), word) for word in known)
        and column not in known | swept
    } == set()


def test_every_file_of_a_folder_and_every_field_of_a_fit_is_on_the_page(
    folder: SweepFolder,
) -> None:
    known = {word.partition("/")[0] for word in words("A sweep's folder")}
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} <= known
    assert {"schema", *(field.name for field in fields(FitResult))} <= words("fit.json")
