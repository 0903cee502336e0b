"""Hugging Face tokenizers from a local `tokenizer.json`, or a folder that holds one.

Which token ends a document is said by `tokenizer_config.json` beside it (`eos_token`), where there
is one. A tokenizer that normalises text does not give the same text back; bytes per token then
count the bytes of the text as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit.errors import InputError
from scalekit.tokenizers._byte_level import write_config
from scalekit.tokenizers.base import DIGEST_DIGITS, Tokenizer, missing

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"


class HuggingFace:
    """A `tokenizers.Tokenizer` with its identity."""

    def __init__(self, inner: Any, files: Mapping[str, bytes], end_of_text: str | None) -> None:
        self._inner = inner
        # Text is data: a document about `</s>` must not end there.
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        self.files = files
        digest = hashlib.sha256(files[_FILE]).hexdigest()[:DIGEST_DIGITS]
        self.identity = f"huggingface:{digest}"
        # Tokens may have holes, so the largest counts and not how many there are.
        self.vocab = 1 + max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
        self.end_of_text = None if end_of_text is None else self.token(end_of_text)

    def to_huggingface(self, context: int) -> Mapping[str, bytes]:
        """Return its own files, with a plain configuration where it has none."""
        return {_CONFIG: write_config(context), **self.files}

    def token(self, text: str) -> int | None:
        """Return the token that is this very text."""
        return self._inner.token_to_id(text)

    def token_bytes(self) -> list[int] | None:
        """Return the length of each token of a byte-level vocabulary, which has a letter a byte."""
        if type(self._inner.decoder).__name__ != "ByteLevel":
            return None
        lengths = [0] * self.vocab
        for text, token in self._inner.get_vocab(with_added_tokens=False).items():
            lengths[token] = len(text)
        for token, added in self._inner.get_added_tokens_decoder().items():
            lengths[token] = 0 if added.special else len(added.content.encode())
        return lengths

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._inner.decode(list(tokens), skip_special_tokens=False)


def open_coder(where: str) -> HuggingFace:
    """Open a `tokenizer.json`.

    Raises:
        InputError: No `tokenizers` here, or no such file, or none that it can read.
    """
    # Before the import: the library decides then. Here processes work side by side, not threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        # By name: a folder `tokenizers` in the working directory would import as an empty package.
        from tokenizers import Tokenizer as Inner
    except ImportError as error:
        raise missing("huggingface", "tokenizers") from error
    if not where:
        raise InputError(
            "tokenizer 'huggingface': no file is named; write huggingface:PATH/tokenizer.json"
        )
    path = Path(where)
    path = path / _FILE if path.is_dir() else path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read, {error.strerror}; name a local tokenizer.json"
        ) from error
    try:
        inner = Inner.from_buffer(data)
    # The library raises bare Exceptions from Rust.
    except Exception as error:
        raise InputError(f"{path}: no tokenizer that can be read, {error}; mend it") from error
    config = path.with_name(_CONFIG)
    files, end_of_text = {_FILE: data}, None
    if config.is_file():
        files[_CONFIG] = config.read_bytes()
        end_of_text = _end_of_text(config)
    return HuggingFace(inner, files, end_of_text)


def _end_of_text(path: Path) -> str | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON; mend it or move it away") from error
    token = value.get("eos_token") if isinstance(value, dict) else None
    # Older files spell a token out as a mapping with its `content`.
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


TOKENIZER = Tokenizer("huggingface", "tokenizers", open_coder, _FILE)
