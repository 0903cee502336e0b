"""A byte-level vocabulary as Hugging Face's libraries read it: the text of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary, in their order.

    A byte that prints in Latin-1 is its own letter; the others follow from U+0100 on.
    """
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    return [chr(b if b in prints else 0x100 + others.index(b)) for b in range(256)]


def write_byte_level(
    tokens: Mapping[bytes, int],
    merges: Sequence[tuple[bytes, bytes]] = (),
    pattern: str | None = None,
    special: Mapping[str, int] | None = None,
) -> bytes:
    """Write a byte-pair encoding as `tokenizer.json`.

    Args:
        tokens: Every token's bytes.
        merges: Which two tokens become one, the first to happen first.
        pattern: The regular expression whose matches are encoded each on its own; None for none.
        special: Tokens that stand for no bytes, by their text.
    """
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    cut: dict[str, Any] = {**byte_level, "use_regex": False}
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        cut = {"type": "Sequence", "pretokenizers": [{**split, "invert": False}, cut]}
    written = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(text, token) for text, token in (special or {}).items()],
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # A piece that is a token is that token, whether or not merges lead to it.
            "ignore_merges": True,
            "vocab": {spelled(token): number for token, number in tokens.items()},
            "merges": [[spelled(left), spelled(right)] for left, right in merges],
        },
    }
    return json.dumps(written, indent=2, ensure_ascii=False).encode() + b"\n"


def write_config(context: int, end_of_text: str | None = None) -> bytes:
    """Write `tokenizer_config.json` for texts of at most `context` tokens."""
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **({"eos_token": end_of_text} if end_of_text else {}),
    }
    return json.dumps(written, indent=2).encode() + b"\n"


def _added(text: str, token: int) -> dict[str, Any]:
    told = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, **told, "special": True}
