"""The tokenizer of bytes as Hugging Face's `tokenizers` reads it: token and byte are one number."""

from __future__ import annotations

from typing import Any


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary, in their order.

    A byte that prints in Latin-1 is its own letter; the others follow from U+0100 on.
    """
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    return [chr(b if b in prints else 0x100 + others.index(b)) for b in range(256)]


def bytes_tokenizer(context: int) -> dict[str, dict[str, Any]]:
    """Return the files of the tokenizer by name: a vocabulary of 256 letters and no merges."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {**byte_level, "use_regex": False},
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
                "vocab": {letter: byte for byte, letter in enumerate(byte_letters())},
                "merges": [],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        },
    }
