"""Tasks of text in the tokens of a run's own data, cut as lm-evaluation-harness cuts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from task_examples import write_task
from tokenizer_examples import SENTENCES, made

from scalekit import errors, registry
from scalekit.cli import run
from scalekit.errors import InputError
from scalekit.prepare.recipe import open_tokenizer
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.tasks.base import Item, Line, make_task
from scalekit.tokenizers.base import Coder
from scalekit.train.score import open_tasks

NAMES = registry.names("tokenizers")
ITEMS = [
    Item("the cat sat on", (" the mat", " the log", " a"), 0),
    Item("the dog ", ("sat on the log", " el niño"), 0),
    Item("the", (" the", " cat sat"), 1),
    # A tokenizer joins "t" and "he" over the cut.
    Item("the cat on t", ("he mat on the log", "at log on the"), 0),
]


@pytest.fixture(params=NAMES, scope="module")
def coder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Coder:
    return open_tokenizer(made(request.param, tmp_path_factory.mktemp("tokenizer")))


def encoded(coder: Coder, items: list[Item], window: int = 64) -> list[Line]:
    return make_task("t", items, "", "here").encode(coder, coder.vocab, window)


def harness_pair(coder: Coder, context: str, choice: str) -> tuple[list[int], list[int]]:
    """`TemplateLM._encode_pair` of lm-evaluation-harness, step by step."""
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        choice, context = context[-n_spaces:] + choice, context[:-n_spaces]
    (whole,), (before,) = coder.encode([context + choice]), coder.encode([context])
    return list(before), list(whole)[len(before) :]


def test_a_choice_is_what_the_harness_takes_for_it(coder: Coder) -> None:
    lines = iter(encoded(coder, ITEMS))
    for item in ITEMS:
        for choice in item.choices:
            assert isinstance(item.context, str)
            assert isinstance(choice, str)
            line = next(lines)
            before, after = harness_pair(coder, item.context, choice)
            assert line.tokens == (*before, *after)
            assert line.n_choice == len(after)
            assert line.size == len(choice.encode())


def test_a_choice_that_begins_with_a_space_is_cut_from_the_very_text(coder: Coder) -> None:
    for line, choice in zip(encoded(coder, ITEMS[:1]), ITEMS[0].choices, strict=True):
        assert coder.decode(line.tokens) == f"{ITEMS[0].context}{choice}"
        assert coder.decode(line.tokens[-line.n_choice :]) == choice


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bytes"])
def test_a_choice_that_is_one_token_with_its_context_is_refused(name: str, tmp_path: Path) -> None:
    coder = open_tokenizer(made(name, tmp_path))
    with pytest.raises(InputError, match=r"'t', item 2: a choice without a token of its own"):
        encoded(coder, [ITEMS[0], Item("t", ("he", " log"), 0)])


SWEEP = """\
scalekit: 1
name: own-tokens
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 16}
  data: {source: shards, path: web, val_tokens: 64, max_epochs: 100}
  train: {batch_tokens: 64, steps: 2}
  log: {evals: 1}
  eval: {tasks: [cats.jsonl]}
"""
TRAIN = ["sweep", "own-tokens.yaml", "-e", "inline", "--wait", "-y", "--allow-unidentified"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own-tokens.yaml").write_text(SWEEP)
    items = [{"context": i.context, "choices": i.choices, "answer": i.answer} for i in ITEMS[:1]]
    write_task(tmp_path / "cats.jsonl", items)
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n, text in enumerate(SENTENCES))
    )
    return tmp_path


def prepared(here: Path, tokenizer: str, folder: str) -> None:
    told = ["in.jsonl", "-o", folder, "--tokenizer", tokenizer, "--workers", "1"]
    assert run(["data", "prepare", *told, "--val-share", "0.5"]) == 0


@pytest.mark.parametrize("source", ["shards", "mixture"])
def test_a_run_is_scored_in_the_tokens_of_its_data(here: Path, source: str) -> None:
    tokenizer = made("huggingface", here / "tokenizer")
    prepared(here, tokenizer, "data/web")
    path = {"shards": "data/web", "mixture": "data"}[source]
    weights = ["-s", "base.data.weights=web=1"] if source == "mixture" else []
    asked = ["-s", f"base.data.source={source}", "-s", f"base.data.path={path}", *weights]
    assert run([*TRAIN, *asked]) == 0
    folder = SweepFolder(Path("runs/own-tokens"))
    (line,) = folder.plan_lines()
    (last,) = read_record(folder.record(line["id"])).evals
    assert last["tasks"]["cats"]["items"] == 1
    assert last["tasks"]["cats"]["bits_per"] == "byte"
    spec = RunSpec.from_json(line)
    ((_, lines),) = open_tasks(RunConfig.model_validate(spec.config)).lines
    assert list(lines) == encoded(open_tokenizer(tokenizer), ITEMS[:1], window=16)


@pytest.mark.parametrize(
    "asked",
    [
        ("base.data.path=raw", "base.model.vocab=300"),
        ("base.data={source: synthetic, val_tokens: 64}",),
    ],
)
def test_text_on_tokens_of_no_known_tokenizer_is_refused_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    prepared(here, made("huggingface", here / "tokenizer"), "web")
    raw = here / "raw"
    raw.mkdir()
    for split in ("train", "val"):
        (raw / f"{split}.bin").write_bytes(next((here / "web").glob(f"{split}*.bin")).read_bytes())
    assert run([*TRAIN, *(word for one in asked for word in ("-s", one))]) == errors.REFUSED
    said = " ".join(capsys.readouterr().err.split())
    assert "task 'cats': is text, and the run's data do not say which tokenizer" in said
    assert not (here / "runs").exists()


def test_a_task_that_is_not_read_yet_but_is_text_is_refused_likewise() -> None:
    source = registry.find("tasks", "lm_eval")
    with pytest.raises(InputError, match="task 'arc_easy': is text"):
        source.check_unread("arc_easy", lambda: None)
    source.check_unread("arc_easy", lambda: open_tokenizer("bytes"))
    registry.find("tasks", "jsonl").check_unread("x", lambda: None)
