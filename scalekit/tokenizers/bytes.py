"""Bytes of UTF-8 as tokens: 256 symbols, nothing to train, any text.

Byte 0 ends a document: UTF-8 text has no other use for it. A text that holds it anyway is encoded
as it is; only where its documents end is then in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalekit.errors import InputError
from scalekit.tokenizers._byte_level import write_byte_level, write_config
from scalekit.tokenizers.base import Tokenizer

VOCAB = 256


class Bytes:
    """The bytes of a text."""

    identity = "bytes"
    vocab = VOCAB
    end_of_text = 0
    files: Mapping[str, bytes] = {}

    def to_huggingface(self, context: int) -> dict[str, bytes]:
        """Return a vocabulary of 256 letters and no merges."""
        return {
            "tokenizer.json": write_byte_level({bytes([b]): b for b in range(VOCAB)}),
            "tokenizer_config.json": write_config(context),
        }

    def token(self, text: str) -> int | None:
        """Return the byte of a text of one byte."""
        data = text.encode()
        return data[0] if len(data) == 1 else None

    def token_bytes(self) -> list[int]:
        """Return one for each."""
        return [1] * VOCAB

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the bytes of each text."""
        return [text.encode() for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes."""
        return bytes(tokens).decode("utf-8", errors="replace")


def open_coder(where: str) -> Bytes:
    """Open it; there is only one.

    Raises:
        InputError: A file was named.
    """
    if where:
        raise InputError(f"tokenizer 'bytes:{where}': bytes need no file; write bytes")
    return Bytes()


TOKENIZER = Tokenizer("bytes", None, open_coder)
