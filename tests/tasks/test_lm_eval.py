"""Tasks of lm-evaluation-harness: its own numbers where it is installed, a refusal where not."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalekit import registry
from scalekit.errors import InputError
from scalekit.tasks.base import TaskSource, find_source
from scalekit.tokenizers.bytes import Bytes
from scalekit.train.score import Likelihoods, summarise

BYTES = Bytes()

IS_HERE = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not IS_HERE, reason="lm_eval is not installed")
TASK = """\
task: shapes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/shapes.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}?"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
DOCS = [
    {"question": "Round", "options": ["ball", "cube", "a long box"], "right": 0},
    {"question": "Flat", "options": ["orange", "sheet of paper"], "right": 1},
    {"question": "Sharp", "options": ["pillow", "knife"], "right": 1},
]


def shapes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, more: str = "", *, times: int = 1
) -> tuple[TaskSource, str]:
    """Write the task and its documents, so many times over, and find it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    lines = [json.dumps(doc) + "\n" for doc in DOCS * times]
    (folder / "shapes.jsonl").write_text("".join(lines))
    (folder / "shapes.yaml").write_text(TASK.format(folder=folder) + more)
    return find_source(f"lm_eval:{folder}/shapes.yaml")


def test_a_task_of_the_harness_is_refused_by_name_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    source, where = find_source("lm_eval:arc_easy")
    for ask in (source.plan, source.open):
        with pytest.raises(InputError, match=r"lm_eval:arc_easy needs lm-evaluation-harness"):
            ask(where)


def test_a_task_of_the_harness_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="no task after lm_eval"):
        registry.find("tasks", "lm_eval").plan("")


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_its_accuracies_are_the_harnesss_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, where = shapes(tmp_path, monkeypatch)
    task = source.open(where)
    assert [item.context for item in task.items] == ["Round? ", "Flat? ", "Sharp? "]
    assert [item.answer for item in task.items] == [0, 1, 1]
    assert task.items[1].choices == ("orange", "sheet of paper")
    lines = task.encode(BYTES, vocab=256, window=64)
    assert lines[0].tokens == tuple(b"Round? ball")
    rng = np.random.default_rng(0)
    drawn = [-rng.uniform(1, 20, len(lines)) for _ in range(20)]
    for nats, theirs in zip(drawn, harness(tmp_path, drawn), strict=True):
        ours = summarise(task, lines, Likelihoods(nats, None))
        for name, metric in (("accuracy", "acc"), ("accuracy_norm", "acc_norm")):
            assert ours[name] == pytest.approx(np.mean([doc[metric] for doc in theirs]))


SHUFFLED = """
import random

def mixed(docs):
    return docs.map(lambda doc: {"question": doc["question"] + random.choice("abcdefgh")})
"""


def even(model: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    return [(-1.0, False)] * len(requests)


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_examples_are_drawn_as_in_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    more = "num_fewshot: 2\nfewshot_split: test\n"
    source, where = shapes(tmp_path, monkeypatch, more, times=3)
    ours = [str(item.context).rstrip() for item in source.open(where).items]
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    model = type("Even", (LM,), dict.fromkeys(LM.__abstractmethods__, even))()
    said = simple_evaluate(model, tasks=["shapes"], task_manager=manager, bootstrap_iters=0)
    samples = sorted(said["samples"]["shapes"], key=lambda sample: sample["doc_id"])
    assert ours == [sample["arguments"][0][0] for sample in samples]


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_a_task_that_shuffles_asks_the_same_questions_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import disable_caching, enable_caching

    (tmp_path / "mixing.py").write_text(SHUFFLED)
    source, where = shapes(tmp_path, monkeypatch, "process_docs: !function mixing.mixed\n")
    disable_caching()
    try:
        random.seed(7)
        first, second = (source.open(where) for _ in range(2))
        drawn = random.random()
    finally:
        enable_caching()
    assert first.items == second.items
    random.seed(7)
    assert drawn == random.random()


def harness(folder: Path, drawn: list[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
    """What the harness itself says of likelihoods, document by document."""
    from lm_eval.tasks import TaskManager, get_task_dict  # pyright: ignore[reportMissingImports]

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    task = get_task_dict(["shapes"], manager)["shapes"]
    for nats in drawn:
        told, first = [], 0
        for doc in task.test_docs():
            n = len(doc["options"])
            results = [(value, False) for value in nats[first : first + n].tolist()]
            told.append(task.process_results(doc, results))
            first += n
        yield told
