"""Whatever a file holds, it becomes runs or a refusal with a position, soon."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalekit.errors import InputError
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep

FILES = Path(__file__).parent / "files"
SEEDS = [(FILES / name).read_text() for name in ("whole.yaml", "block.yaml")]
POSITION = re.compile(r"^[^\n]+:\d+:\d+: [^\n]+")
SLOWEST = 40.0  # seconds; the most runs that are allowed take ten, twice, on a busy machine

_WORDS = r"""
1e18 1e999 -1 0 nan .inf ~ null [] {} '' "" 9e307 1e-320 -0 0x10 010 1_000 1:30:00 12:30 no yes
2026-01-01 70M 0.5% 1.5k 1e18k *a &a <<: !!python/object/apply:os.system !x % @ ` | > - ? : # , [
] { } 2**9**9 9**9**9**9**9 (((((((((( __import__('os') lr.__class__ N/0 D/(N-N) lambda:0 train.lr
n_layers=3 model data.synthetic log.every isoflop zip grid derive extends whole.yaml block.yaml .
../whole.yaml / {logspace:[1,2],num:99999999} {range:[0,1e9],step:1e-9} {linspace:[1,2]} é 日本
"\u0000" "\ud800"
"""
WORDS = _WORDS.split()
WORDS += [
    "9" * 400,
    "x" * 5000,
    "[" * 200,
    "{a: " * 60,
    "\t",
    "\x00",
    "- " * 80,
    "a: b: c",
    "-" * 40 + "1",
]

Mutation = Callable[[random.Random, str], str]


def delete_line(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines)


def repeat_line(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return "\n".join(lines)


def indent_line(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    lines[at] = (
        " " * rng.randrange(6) + lines[at].lstrip() if rng.random() < 0.5 else " " + lines[at]
    )
    return "\n".join(lines)


def change_character(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    new = rng.choice(["", chr(rng.randrange(32, 127)), chr(rng.randrange(0x2FFF))])
    return text[:at] + new + text[at + 1 :]


def change_word(rng: random.Random, text: str) -> str:
    words = list(re.finditer(r"[\w.%+-]+", text))
    if not words:
        return text
    word = rng.choice(words)
    new = rng.choice([rng.choice(WORDS), rng.choice(words).group()])
    return text[: word.start()] + new + text[word.end() :]


def insert_word(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(WORDS) + text[at:]


def cut(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text))]


def move_branch(rng: random.Random, text: str) -> str:
    """Put one part of the file in another's place, or a value of another type."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    spots: list[tuple[Any, Any]] = []
    collect_spots(data, spots)
    if len(spots) < 2:
        return text
    (a, i), (b, j) = rng.sample(spots, 2)
    value = (
        b[j] if rng.random() < 0.5 else rng.choice([None, [], {}, 0, -1.5, True, "x", [[]], 1e300])
    )
    a[i] = yaml.safe_load(yaml.safe_dump(value))
    return yaml.safe_dump(data, sort_keys=False)


def collect_spots(node: Any, spots: list[tuple[Any, Any]]) -> None:
    pairs = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else []
    )
    for key, value in list(pairs):
        spots.append((node, key))
        collect_spots(value, spots)


MUTATIONS: list[Mutation] = [
    delete_line,
    repeat_line,
    indent_line,
    change_character,
    change_word,
    change_word,
    insert_word,
    cut,
    move_branch,
    move_branch,
]


def mutate(seed: int) -> bytes:
    rng = random.Random(seed)
    text = rng.choice(SEEDS)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        text = rng.choice(MUTATIONS)(rng, text) or "x"
    data = text.encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]
    return data


def try_one(file: Path, seed: int) -> bool:
    """Whether the mutated file gave runs; anything but runs or a refusal is an error."""
    file.write_bytes(mutate(seed))
    begin = time.monotonic()
    refusal = None
    try:
        expansion = expand(load_sweep(file))
    except InputError as error:
        refusal = str(error)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    else:
        assert expansion.runs, f"seed {seed}"
        again = file.with_name("resolved.yaml")
        again.write_text(expansion.spec.resolved_yaml())
        assert expand(load_sweep(again)).runs == expansion.runs, f"seed {seed}"
    assert refusal is None or POSITION.match(refusal), f"seed {seed}: {refusal}"
    assert time.monotonic() - begin < SLOWEST, f"seed {seed}"
    return refusal is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("whole.yaml", "block.yaml"):
        (tmp_path / name).write_text((FILES / name).read_text())
    return tmp_path


def try_many(folder: Path, seeds: range) -> None:
    n_expanded = sum(try_one(folder / "mutated.yaml", seed) for seed in seeds)
    # Both answers must occur, or the mutations test nothing.
    assert len(seeds) * 0.02 < n_expanded < len(seeds) * 0.8


def test_a_mutated_file_becomes_runs_or_a_refusal_with_a_position(folder):
    try_many(folder, range(300))


@pytest.mark.slow
def test_thousands_of_mutated_files_become_runs_or_refusals_with_a_position(folder):
    try_many(folder, range(1000, 9000))


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_refused_with_a_position(tmp_path, seed):
    file = tmp_path / "noise.yaml"
    file.write_bytes(random.Random(seed).randbytes(seed * 50))
    with pytest.raises(InputError, match=POSITION.pattern):
        load_sweep(file)
