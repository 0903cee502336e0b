"""The tokenizer of a run's data, as files that Hugging Face's libraries open."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalekit import registry
from scalekit.datasets.base import Rows
from scalekit.errors import InputError
from scalekit.tokenizers.base import Coder, parse

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenizerFiles:
    """What is exported of a tokenizer.

    Attributes:
        identity: Which it is; None where none is exported.
        files: Their contents by name.
        checked_tokens: Held-out tokens on which a converted one was compared with the run's own;
            None where nothing was converted.
        note: What a person has to know, or why there is none.
        end_of_text: The token that it ends a text with, if it names one.
    """

    identity: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    checked_tokens: int | None = None
    note: str | None = None
    end_of_text: int | None = None


def tokenizer_files(config: Mapping[str, Any], facts: Mapping[str, Any]) -> TokenizerFiles:
    """Return the tokenizer of a run's data, or say why it cannot be had.

    A tokenizer of another library is converted, and then compared with itself on all of the run's
    held-out text: its algorithm is not that of `tokenizers` to the letter, and neither are the
    regular expressions.

    Args:
        config: The run's.
        facts: What its record says of its data.
    """
    try:
        coder = _open(config["data"], facts.get("tokenizer"))
        if coder is None:
            return TokenizerFiles(note="its data name no tokenizer; the folder has none")
        files = coder.to_huggingface(config["model"]["context"])
        member = registry.find("tokenizers", parse(coder.identity)[0])
        if not member.is_converted:
            return TokenizerFiles(coder.identity, files, None, _note(files), coder.end_of_text)
        rows = _held_out(config)
        assert rows.n_rows is not None
        differ, n_tokens = _compare(coder, files, rows)
    except InputError as error:
        return TokenizerFiles(note=f"no tokenizer is written: {error}")
    if differ:
        return TokenizerFiles(
            note=f"no tokenizer is written: {coder.identity} as tokenizer.json would cut "
            f"{differ:,} of {rows.n_rows:,} held-out rows otherwise; encode with the one kept with "
            "the data"
        )
    note = f"{coder.identity} as tokenizer.json gives its {n_tokens:,} tokens of held-out text"
    return TokenizerFiles(coder.identity, files, n_tokens, note, coder.end_of_text)


def _open(data: Mapping[str, Any], known: str | None) -> Coder | None:
    """Open the tokenizer that the run's record names, or that of its data where it names none."""
    if known is not None and not registry.find("tokenizers", parse(known)[0]).file:
        return registry.find("tokenizers", known).open("")
    coder = registry.find("datasets", data["source"]).coder(data)
    if coder is not None and known not in (None, coder.identity):
        raise InputError(
            f"data.path: {data['path']} is of tokenizer {coder.identity!r}, the run saw {known!r}; "
            "put its data back"
        )
    return coder


def _held_out(config: Mapping[str, Any]) -> Rows:
    member = registry.find("datasets", config["data"]["source"])
    return member.open(config["data"], config["model"]["context"], config["train"]["seed"]).val


def _compare(coder: Coder, files: Mapping[str, bytes], rows: Rows) -> tuple[int, int]:
    """Return in how many rows the text's tokens differ, and how many tokens they are in all."""
    assert rows.n_rows is not None
    with tempfile.TemporaryDirectory() as room:
        for name, data in files.items():
            (Path(room) / name).write_bytes(data)
        other = registry.find("tokenizers", "huggingface").open(room)
    differ = n_tokens = 0
    for first in range(0, rows.n_rows, _ROWS_AT_ONCE):
        some = np.arange(first, min(rows.n_rows, first + _ROWS_AT_ONCE))
        # What a row's ends cut in two is text of another kind, and has to agree as well.
        texts = [coder.decode(row) for row in rows.take(some).tolist()]
        pairs = zip(coder.encode(texts), other.encode(texts), strict=True)
        for ours, theirs in pairs:
            differ += list(ours) != list(theirs)
            n_tokens += len(ours)
    return differ, n_tokens


def _note(files: Mapping[str, bytes]) -> str | None:
    written = json.loads(files["tokenizer.json"])
    if not _frames(written.get("post_processor")):
        return None
    return (
        "its tokenizer.json puts special tokens around a text, which training did not; encode with "
        "add_special_tokens=False"
    )


def _frames(processor: Any) -> bool:
    """Say whether a post-processor adds tokens."""
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "Sequence":
        return any(map(_frames, processor.get("processors", [])))
    is_template = processor.get("type") == "TemplateProcessing"
    adds = processor.get("special_tokens") if is_template else processor.get("cls")
    return bool(adds)
