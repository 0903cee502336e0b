"""An exported run has the tokenizer of its data, or it is said why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from curves import write_plan
from tokenizer_examples import END, SENTENCES, made

from scalekit import cli
from scalekit.documents.base import Ask
from scalekit.prepare.recipe import Recipe, find_sources, open_tokenizer
from scalekit.prepare.run import prepare
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.run import train_run

TEXTS = [f"{text} {n} {n * 12345}" for n, text in enumerate(SENTENCES * 3)]


@pytest.fixture
def trained(planned, tmp_path: Path):
    """Prepare data with a tokenizer, train a run on them and keep its weights."""

    def train(tokenizer: str) -> tuple[RunSpec, SweepFolder, Path]:
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        recipe = Recipe(tokenizer, None, 0.5, 4000, Ask())
        folder = tmp_path / "data"
        prepare(recipe, find_sources([str(path)], None, is_held_out=False), folder, workers=1)
        spec = planned(
            model={"mlp": "swiglu", "vocab": 300},
            data={"source": "shards", "path": str(folder), "val_tokens": 1024, "max_epochs": 10},
            train={"steps": 1},
            log={"keep_weights": True, "evals": 1},
        )
        sweep = write_plan(tmp_path / "sweep", spec)
        assert train_run(spec, sweep, device="cpu") == "done"
        return spec, sweep, folder

    return train


def export(folder: SweepFolder, spec: RunSpec, out: Path, capsys) -> str:
    """Export and return what is said beside the result."""
    capsys.readouterr()
    assert cli.run(["export", str(folder.root), spec.id, "-o", str(out)]) == 0
    told = capsys.readouterr()
    named = [line.strip() for line in told.out.splitlines()[1:]]
    assert named == sorted(p.name for p in out.iterdir())
    return told.err


def test_a_hugging_face_tokenizer_goes_with_the_weights_byte_for_byte(
    trained, tmp_path: Path, capsys
) -> None:
    tokenizer = made("huggingface", tmp_path / "tokenizer")
    spec, folder, _ = trained(tokenizer)
    assert export(folder, spec, tmp_path / "out", capsys) == ""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first = (tmp_path / "tokenizer" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == first
    origin = json.loads((tmp_path / "out" / "scalekit.json").read_text())
    identity = open_tokenizer(tokenizer).identity
    assert origin["tokenizer"] == {"identity": identity, "checked_tokens": None}


def test_a_tiktoken_tokenizer_is_converted_and_compared_on_the_held_out_text(
    trained, tmp_path: Path, capsys
) -> None:
    tokenizer = made("tiktoken", tmp_path / "tokenizer")
    spec, folder, _ = trained(tokenizer)
    said = export(folder, spec, tmp_path / "out", capsys)
    assert "as tokenizer.json gives its" in said
    coder, theirs = open_tokenizer(tokenizer), open_tokenizer(f"huggingface:{tmp_path / 'out'}")
    assert theirs.encode(TEXTS) == coder.encode(TEXTS)
    assert theirs.end_of_text == coder.token(END)
    origin = json.loads((tmp_path / "out" / "scalekit.json").read_text())
    # Rows cut some letters in two, which then are read as others.
    assert origin["tokenizer"]["checked_tokens"] >= 1024


@pytest.mark.parametrize("kind", ["huggingface", "tiktoken"])
def test_what_is_generated_ends_with_the_token_that_ends_a_text(
    trained, tmp_path: Path, capsys, kind: str
) -> None:
    tokenizer = made(kind, tmp_path / "tokenizer")
    spec, folder, _ = trained(tokenizer)
    export(folder, spec, tmp_path / "out", capsys)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    token = open_tokenizer(tokenizer).token(END)
    assert token is not None
    assert (config["bos_token_id"], config["eos_token_id"]) == (None, token)


def test_a_tokenizer_whose_conversion_differs_is_not_written(
    trained, tmp_path: Path, capsys
) -> None:
    """Three digits at most, which `tokenizers` reads as any number of times three digits."""
    made("tiktoken", tmp_path / "tokenizer", "34")
    path = tmp_path / "tokenizer" / "small.json"
    described = json.loads(path.read_text())
    pattern = r" ?\p{L}+|\p{N}{1,3}+|\s+|[^\s\p{L}\p{N}]+"
    path.write_text(json.dumps({**described, "pattern": pattern}))
    spec, folder, _ = trained(f"tiktoken:{path}")
    said = export(folder, spec, tmp_path / "out", capsys)
    assert "no tokenizer is written: tiktoken:" in said
    assert "held-out rows otherwise" in said
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_without_its_data_a_run_is_exported_without_its_tokenizer_and_says_so(
    trained, tmp_path: Path, capsys
) -> None:
    spec, folder, data = trained(made("huggingface", tmp_path / "tokenizer"))
    shutil.rmtree(data)
    said = export(folder, spec, tmp_path / "out", capsys)
    assert "no tokenizer is written: data.path:" in said
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_data_of_another_tokenizer_are_not_taken_for_those_of_the_run(
    trained, tmp_path: Path, capsys
) -> None:
    spec, folder, data = trained(made("huggingface", tmp_path / "tokenizer"))
    shutil.rmtree(data)
    recipe = Recipe(made("huggingface", tmp_path / "b", "zebra"), None, 0.5, 4000, Ask())
    source = find_sources([str(tmp_path / "in.jsonl")], None, is_held_out=False)
    prepare(recipe, source, data, workers=1)
    said = export(folder, spec, tmp_path / "out", capsys)
    assert "the run saw 'huggingface:" in said
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_special_tokens_that_training_did_not_have_are_pointed_out(
    trained, tmp_path: Path, capsys
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = made("huggingface", tmp_path / "tokenizer")
    path = str(tmp_path / "tokenizer" / "tokenizer.json")
    framed = Tokenizer.from_file(path)
    end = framed.token_to_id(END)
    framed.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, end)])  # type: ignore[assignment]
    framed.save(path)
    spec, folder, _ = trained(tokenizer)
    assert "encode with add_special_tokens=False" in export(folder, spec, tmp_path / "out", capsys)


def test_bytes_need_no_data(trained, tmp_path: Path, capsys) -> None:
    spec, folder, data = trained("bytes")
    shutil.rmtree(data)
    assert export(folder, spec, tmp_path / "out", capsys) == ""
    assert (tmp_path / "out" / "tokenizer.json").exists()
