"""YAML with positions: nothing is guessed, every mistake is told where it stands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from scalekit.config.nodes import Items, Table, Text, read_nodes, read_source
from scalekit.config.problems import ConfigError, Problems, Source
from scalekit.config.validate import GIGABYTES, SECONDS, read_model, read_value
from scalekit.errors import REFUSED


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(default=1.0, gt=0)
    mode: Literal["slow", "fast"] = "slow"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = Field(ge=1)
    name: str = ""
    on: bool = True
    parts: list[Inner] = []
    inner: Inner = Inner()
    sizes: list[Annotated[float, Field(gt=0)]] = []
    limit: Annotated[float, SECONDS] | Literal["auto"] = "auto"
    memory: Annotated[float, GIGABYTES] | None = Field(default=None, gt=0)


def nodes(text: str) -> Text | Items | Table:
    return read_nodes(Source("a.yaml", text))


def read(text: str) -> Outer:
    problems = Problems()
    value = read_model(nodes(text), Outer, problems)
    problems.raise_if_any()
    assert value is not None
    return value


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("1e18", float, 1e18),
        ("3e-4", float, 3e-4),
        ("70M", int, 70_000_000),
        ("010", int, 10),
        ("no", str, "no"),
        ("no", bool, False),
        ("2026-01-01", str, "2026-01-01"),
        ("1:30:00", str, "1:30:00"),
        ("1.0", str, "1.0"),
        ("null", str | None, None),
        ("'null'", str | None, "null"),
        ("[1e3, 2k]", list[float], [1000.0, 2000.0]),
    ],
)
def test_a_scalar_is_read_by_its_declared_type(text, hint, value):
    problems = Problems()
    assert read_value(nodes(text), hint, problems) == value
    assert not problems


def test_every_key_and_value_knows_where_it_stands():
    table = nodes("a: 1\nb:\n  - x\n  - {c: 'd'}\n")
    assert isinstance(table, Table)
    assert table.keys["b"][1:] == (2, 1)
    items = table.entries["b"]
    assert isinstance(items, Items)
    last = items.items[1]
    assert isinstance(last, Table)
    assert (last.keys["c"][1:], last.entries["c"].place[1:]) == ((4, 6), (4, 9))


def test_all_mistakes_of_a_file_are_told_at_once_in_their_order():
    text = """\
steps: 0
nam: x
inner: {rate: -1, mode: fsat, other: 1}
parts: [{rate: x}, 7, {mode: fast}]
sizes: [1, y, -2]
limit: 12:30
memory: lots
on: maybe
"""
    assert refused(text) == [
        "a.yaml:1:8: 'steps' must be at least 1, found '0'; change it",
        "a.yaml:2:1: unknown key 'nam'; did you mean 'name'?",
        "a.yaml:3:15: 'rate' must be above 0, found '-1'; change it",
        "a.yaml:3:25: must be slow or fast, found 'fsat'; did you mean 'fast'?",
        "a.yaml:3:31: unknown key 'other'; choose from mode, rate",
        "a.yaml:4:16: must be a number, found 'x'; write it like 3e-4, 70M, 1e18 or 0.5%",
        "a.yaml:4:20: must be a mapping, found '7'; write {rate: ...}",
        "a.yaml:5:12: must be a number, found 'y'; write it like 3e-4, 70M, 1e18 or 0.5%",
        "a.yaml:5:15: 'sizes' must be above 0, found '-2'; change it",
        "a.yaml:6:8: may be hours or minutes, found '12:30'; write 12h30m or 12m30s",
        "a.yaml:7:9: must be an amount of memory such as 32GB, found 'lots'; "
        "write it like 32GB or 512MB",
        "a.yaml:8:5: must be true or false, found 'maybe'; change it",
    ]


def test_a_message_shows_the_line_and_a_caret_under_the_place():
    with pytest.raises(ConfigError) as caught:
        read("steps: 1\ninner: {rate: -1}\n")
    assert str(caught.value).splitlines()[1:] == ["    inner: {rate: -1}", "                  ^"]
    assert caught.value.exit_code == REFUSED


def test_a_caret_stays_under_its_place_in_a_long_line():
    with pytest.raises(ConfigError) as caught:
        read("name: " + "x" * 500 + "\nsteps: [" + "1, " * 300 + "]")
    shown = str(caught.value).splitlines()
    assert max(map(len, shown)) < 300
    assert shown[1][shown[2].index("^")] == "["


def test_a_missing_key_is_told_once():
    assert refused("name: x") == ["a.yaml:1:1: key 'steps' is missing; add it"]
    assert refused("steps:") == ["a.yaml:1:7: must be a whole number, found nothing; change it"]


def test_a_duplicate_key_is_refused_with_both_places():
    assert refused("steps: 1\nname: a\nsteps: 2") == [
        "a.yaml:3:1: duplicate key 'steps', first on line 1; keep one of them"
    ]


def test_an_anchor_may_be_used_again_and_merged_under_what_is_written():
    value = read("steps: 1\ninner: &i {rate: 2, mode: fast}\nparts: [*i, {<<: *i, rate: 3}]")
    assert [(part.rate, part.mode) for part in value.parts] == [(2, "fast"), (3, "fast")]


def test_a_mistake_behind_an_anchor_is_told_once():
    assert len(refused("steps: 1\ninner: &i {rate: 0}\nparts: [*i, *i, *i]")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a.yaml:1:1: must be a mapping, found nothing"),
        ("- 1", "a.yaml:1:1: must be a mapping, found a list of 1"),
        ("steps: !!int 3", "a.yaml:1:8: a YAML tag"),
        ("steps: !!python/object/apply:os.system [x]", "a.yaml:1:8: a YAML tag"),
        ("steps: *a", "a.yaml:1:8: no anchor &a"),
        ("steps: &a [*a]", "a.yaml:1:12: alias *a stands inside its own anchor"),
        ("steps: 1\n---\nsteps: 2", "a.yaml:2:1: a second document"),
        ("{[1]: 2}", "a.yaml:1:2: a key is a word"),
        ("<<: 3\nsteps: 1", "a.yaml:1:1: << merges mappings"),
        ("a:\n\t- 1", "a.yaml:2:1: a tab where YAML wants spaces"),
        ("a: [1", "a.yaml:1:4: not YAML"),
        ("b: 1\na: 'x", "a.yaml:2:4: not YAML"),
        ("a: b: c", "a.yaml:1:5: not YAML, mapping values are not allowed"),
        ("a: x\x00", "a.yaml:1:5: a control character"),
        ("\n  é\x07", "a.yaml:2:4: a control character"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_position(text, said):
    assert refused(text)[0].startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 50_000 + "x",
        "".join(" " * i + "a:\n" for i in range(2000)),
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 20)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{y: *a{i - 1}}}\n" for i in range(1, 90)),
    ],
    ids=["lists", "mappings", "dashes", "indents", "many aliases", "deep aliases"],
)
def test_nesting_and_aliases_without_end_are_refused_soon(text):
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"^a.yaml:\d+:\d+: "):
        nodes(text)
    assert time.monotonic() - begin < 5  # seconds; an expanded bomb would take hours


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: \xff", ":1:4: not UTF-8 text, found byte 0xff"),
        ("é: 1\nb: ".encode() + b"\xe9", ":2:4: not UTF-8 text, found byte 0xe9"),
        ("a: 1".encode("utf-16"), ":1:1: not UTF-8 text"),
        (b"a: 1\n" * 1_000_000, ":1:1: larger than 4 MB"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_its_position(tmp_path, data, said):
    file = tmp_path / "a.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.yaml" + said):
        read_source(file)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="1:1: cannot be read"):
        read_source(Path(tmp_path, name))


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfsteps: 1\r\nname: x\r\nbad: 1\r\n")
    problems = Problems()
    read_model(read_nodes(read_source(file)), Outer, problems)
    (problem,) = problems
    assert problem.place[1:] == (3, 1)
    assert problem.what == "unknown key 'bad'"
