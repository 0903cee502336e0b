"""What a tokenizer must offer: tokens of a text, the text of tokens, and which tokenizer it is.

A member of `tokenizers/` binds `TOKENIZER`, a `Tokenizer`. A tokenizer is written `NAME` or
`NAME:WHERE`, where WHERE is a local file or whatever else the member reads. Importing a member
needs no tokenizer library; opening one does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scalekit.errors import InputError

DIGEST_DIGITS = 12
"""Hex digits of a tokenizer's hash in its identity."""


class Coder(Protocol):
    """An opened tokenizer."""

    @property
    def identity(self) -> str:
        """Return the member's name and, unless there is one of it, a hash of what decides tokens.

        Equal identities give equal tokens, up to a change of the library.
        """
        ...

    @property
    def vocab(self) -> int:
        """Return one more than the largest token, special ones included."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Return the files by name that open this tokenizer again without anything else."""
        ...

    def to_huggingface(self, context: int) -> Mapping[str, bytes]:
        """Return files by name by which Hugging Face's libraries open this tokenizer.

        Args:
            context: How many tokens the model takes.
        """
        ...

    def token(self, text: str) -> int | None:
        """Return the token of a special text such as `<|endoftext|>`; None where there is none."""
        ...

    @property
    def end_of_text(self) -> int | None:
        """Return the token between documents where the tokenizer itself says which; else None."""
        ...

    def token_bytes(self) -> list[int] | None:
        """Return how many bytes of text each token (vocab,) stands for; None where none is fixed.

        Special tokens stand for no text. Whether the bytes of a text's tokens add up to the text's
        own is for who encodes it to check: a tokenizer may change text before it cuts it.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the tokens of each text; what looks like a special token in a text is text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; bytes that are no UTF-8 become the replacement character."""
        ...


@dataclass(frozen=True)
class Tokenizer:
    """A member of the family.

    Attributes:
        name: The file name.
        package: The package that opening needs, as on the index; None where it needs none.
        open: From WHERE, empty where none was written, to a `Coder`.
        file: Which of a coder's files opens it again; empty where there is only one coder.
        is_converted: Whether `to_huggingface` is another algorithm for the same tokens, to be
            compared on text before it is trusted.
    """

    name: str
    package: str | None
    open: Callable[[str], Coder]
    file: str = ""
    is_converted: bool = False


def parse(text: str) -> tuple[str, str]:
    """Split `NAME:WHERE`, of which the second may be missing.

    >>> parse("huggingface:tokenizer.json"), parse("bytes")
    (('huggingface', 'tokenizer.json'), ('bytes', ''))
    """
    name, _, where = text.partition(":")
    return name.strip(), where.strip()


def missing(name: str, package: str) -> InputError:
    """Say that a tokenizer's library is not installed."""
    return InputError(
        f"tokenizer {name!r}: the package {package!r} is not installed here; "
        "pip install 'scalekit-laws[data]'"
    )
