"""Small tokenizers of every member of the family, made on the spot."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekit import registry

END = "<|endoftext|>"
SENTENCES = ["the cat sat on the mat", "the dog sat on the log", "el niño está aquí"] * 20


def make_bytes(folder: Path, extra: str = "") -> str:
    return "bytes"


def make_tiktoken(folder: Path, extra: str = "") -> str:
    """Write a description with every byte and a few merges, as small as a real one can be."""
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the", extra.encode() or b"at"]
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]
    (folder / "small.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    described = {
        "ranks": "small.tiktoken",
        "pattern": r" ?\w+|\s+|[^\s\w]+",
        "special_tokens": {END: len(tokens)},
    }
    (folder / "small.json").write_text(json.dumps(described))
    return f"tiktoken:{folder / 'small.json'}"


def make_huggingface(folder: Path, extra: str = "") -> str:
    """Train a byte-level BPE; its configuration names the token that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *([extra] * 50)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return f"huggingface:{folder / 'tokenizer.json'}"


MAKERS: dict[str, Callable[..., str]] = {
    "bytes": make_bytes,
    "tiktoken": make_tiktoken,
    "huggingface": make_huggingface,
}


def made(name: str, folder: Path, extra: str = "") -> str:
    package = registry.find("tokenizers", name).package
    if package is not None:
        pytest.importorskip(package, "0.1")
    folder.mkdir(parents=True, exist_ok=True)
    return MAKERS[name](folder, extra)
