"""What a file of tasks may say, and how what it may not say is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekit import registry
from scalekit.errors import InputError
from scalekit.tasks import jsonl
from scalekit.tasks.base import Item, Task, find_source
from scalekit.tokenizers.bytes import Bytes

GOOD = '{"context": "ab", "choices": ["c", " dd"], "answer": 1}\n'


def read(path: Path, text: str) -> Task:
    path.write_text(text)
    source, where = find_source(str(path))
    return source.open(where)


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_every_source_is_found_by_its_name_and_refuses_what_is_not_there(name: str) -> None:
    source, where = find_source(f"{name}:no/such-task")
    assert (source.name, where) == (name, "no/such-task")
    with pytest.raises(InputError, match=r"eval\.tasks: .*no/such-task"):
        source.open(where)


def test_a_file_of_json_lines_is_a_task_by_its_name(tmp_path: Path) -> None:
    task = read(tmp_path / "arc.jsonl", GOOD + "\n" + GOOD)
    assert task.name == "arc"
    assert task.items == (Item("ab", ("c", " dd"), 1),) * 2
    assert not task.is_cloze
    assert task.is_text


def test_planning_reads_what_training_reads(tmp_path: Path) -> None:
    opened = read(tmp_path / "arc.jsonl", GOOD)
    planned = registry.find("tasks", "jsonl").plan(str(tmp_path / "arc.jsonl"))
    assert planned == opened


def test_another_item_is_another_fingerprint(tmp_path: Path) -> None:
    one = read(tmp_path / "arc.jsonl", GOOD)
    other = read(tmp_path / "arc.jsonl", GOOD.replace("dd", "de"))
    assert one.fingerprint != other.fingerprint


def test_choices_are_bytes_after_their_context(tmp_path: Path) -> None:
    lines = read(tmp_path / "a.jsonl", GOOD).encode(Bytes(), vocab=256, window=16)
    assert [(line.tokens, line.n_choice, line.size) for line in lines] == [
        (tuple(b"abc"), 1, 1),
        (tuple(b"ab dd"), 3, 3),
    ]


def test_spaces_that_end_a_context_are_predicted_with_the_choice(tmp_path: Path) -> None:
    text = '{"context": "ab ", "target": "cd"}'
    (line,) = read(tmp_path / "a.jsonl", text).encode(Bytes(), vocab=256, window=16)
    # The space is scored, but the length is the choice's own, as lm-evaluation-harness has it.
    assert (line.tokens, line.n_choice, line.size) == (tuple(b"ab cd"), 3, 2)


def test_a_context_longer_than_the_model_loses_its_beginning(tmp_path: Path) -> None:
    text = '{"context": [1, 2, 3, 4, 5, 6], "choices": [[7], [8, 9]], "answer": 0}'
    lines = read(tmp_path / "a.jsonl", text).encode(Bytes(), vocab=10, window=4)
    assert [line.tokens for line in lines] == [(3, 4, 5, 6, 7), (4, 5, 6, 8, 9)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no items"),
        ("{", "a.jsonl:1: not JSON"),
        ("[1]", "a.jsonl:1: not an item"),
        ('{"choices": ["a", "b"], "answer": 0}', "'context' must be text or a list of tokens"),
        ('{"context": "a"}', "neither a 'target' nor two 'choices'"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "neither a 'target' nor two"),
        ('{"context": "a", "choices": ["b", 3], "answer": 0}', "choice 1 must be text"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "choice 1 must be text"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "from 0 to 1, found 2"),
        ('{"context": "a", "choices": ["b", "c"], "answer": true}', "found True"),
        ('{"context": "a", "choices": ["b", "c"]}', "found None"),
        ('{"context": "a", "choices": ["b", [3]], "answer": 0}', "mixes text and tokens"),
        ('{"context": "a", "choices": ["b", "\\ud800"], "answer": 0}', "choice 1 holds a lone"),
        (GOOD + '{"context": "a", "target": "b"}', "item 2 has 1 choices and the first 2"),
        (GOOD + '{"context": [1], "choices": [[2], [3]], "answer": 0}', "item 2 mixes"),
    ],
)
def test_what_is_no_task_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path / "a.jsonl", text)
    assert said in str(refused.value)
    assert str(tmp_path / "a.jsonl") in str(refused.value)


@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        ('{"context": [1], "target": [64]}', {}, "item 1: token 64, but model.vocab is 64"),
        ('{"context": [-1], "target": [6]}', {}, "item 1: token -1"),
        ('{"context": [1], "target": [2, 3, 4, 5, 6]}', {}, "a choice of 5 tokens"),
        ('{"context": "  ", "target": "a"}', {"vocab": 256}, "nothing before the choice"),
        ('{"context": "a", "target": "b"}', {"coder": None}, "do not say which tokenizer made"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    tmp_path: Path, text: str, asked: dict[str, object], said: str
) -> None:
    task = read(tmp_path / "a.jsonl", text)
    with pytest.raises(InputError) as refused:
        task.encode(**{"coder": Bytes(), "vocab": 64, "window": 4, **asked})  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_text_that_is_not_utf8_is_refused_and_not_scored_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        (GOOD + '{"context": "caf\xe9", "choices": ["b", "c"], "answer": 0}').encode("latin1")
    )
    with pytest.raises(InputError, match=r"a\.jsonl:2: not UTF-8, byte 0xe9"):
        jsonl.read(str(path))
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert jsonl.read(str(path)).items == read(tmp_path / "b.jsonl", GOOD).items


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    source, where = find_source(str(tmp_path / "no.jsonl"))
    with pytest.raises(InputError, match=r"no.jsonl cannot be read, No such file"):
        source.open(where)
