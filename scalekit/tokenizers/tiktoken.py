"""tiktoken's byte-pair encodings: from a local description, or by name where tiktoken holds it.

A description is a JSON file with what `tiktoken.Encoding` is built of:

    {"ranks": "ranks.tiktoken", "pattern": "...", "special_tokens": {"<|endoftext|>": 50256}}

`ranks` is a file beside it, one token a line: its bytes in base64, and its rank. By name
(`tiktoken:gpt2`) tiktoken downloads the ranks, or takes them from the folder TIKTOKEN_CACHE_DIR.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit.errors import InputError, did_you_mean
from scalekit.tokenizers._byte_level import write_byte_level, write_config
from scalekit.tokenizers.base import DIGEST_DIGITS, Tokenizer, missing

END_OF_TEXT = "<|endoftext|>"
_RANKS_FILE, _DESCRIPTION_FILE = "tiktoken.ranks", "tiktoken.json"


class Encoding:
    """A `tiktoken.Encoding` with its identity."""

    def __init__(
        self, ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int], where: str
    ) -> None:
        from tiktoken import Encoding as Inner

        self._special, self._ranks, self._pattern = dict(special), dict(ranks), pattern
        self._lengths = {rank: len(token) for token, rank in ranks.items()}
        lines = sorted((rank, base64.b64encode(token)) for token, rank in ranks.items())
        written = b"".join(token + b" %d\n" % rank for rank, token in lines)
        described = {"ranks": _RANKS_FILE, "pattern": pattern, "special_tokens": self._special}
        text = json.dumps(described, indent=1, sort_keys=True).encode()
        self.files = {_DESCRIPTION_FILE: text, _RANKS_FILE: written}
        digest = hashlib.sha256(text + written).hexdigest()[:DIGEST_DIGITS]
        self.identity = f"tiktoken:{digest}"
        try:
            self._encoding = Inner(
                digest, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=self._special
            )
        # The library is Rust behind Python: what it refuses arrives as any of these, or a panic.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise InputError(
                f"{where}: tiktoken refuses it, {error}; mend the ranks, pattern or special tokens"
            ) from error
        self.vocab = self._encoding.n_vocab
        self.end_of_text = self._special.get(END_OF_TEXT)

    def to_huggingface(self, context: int) -> dict[str, bytes]:
        """Return it as a byte-pair encoding with merges in place of ranks.

        tiktoken joins the neighbours whose joint token has the lowest rank, so every way to cut a
        token into two others is a merge, and merges are ordered by the ranks of what they make.
        """
        ranks = self._ranks
        merges = [
            (token[:cut], token[cut:])
            for token in sorted(ranks, key=ranks.__getitem__)
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        end = END_OF_TEXT if END_OF_TEXT in self._special else None
        return {
            "tokenizer.json": write_byte_level(ranks, merges, self._pattern, self._special),
            "tokenizer_config.json": write_config(context, end),
        }

    def token(self, text: str) -> int | None:
        """Return a special token."""
        return self._special.get(text)

    def token_bytes(self) -> list[int]:
        """Return the length of each token, none for special ones."""
        return [self._lengths.get(token, 0) for token in range(self.vocab)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        return [self._encoding.encode_ordinary(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._encoding.decode(list(tokens))


def open_coder(where: str) -> Encoding:
    """Open a description, or an encoding by tiktoken's name for it.

    Raises:
        InputError: No tiktoken here, or no description that can be read, or no such encoding.
    """
    try:
        from tiktoken import get_encoding, list_encoding_names
    except ImportError as error:
        raise missing("tiktoken", "tiktoken") from error
    if not where:
        raise InputError(
            "tokenizer 'tiktoken': no encoding is named; write tiktoken:NAME or tiktoken:FILE.json"
        )
    if where.endswith(".json"):
        return _described(Path(where))
    if where not in list_encoding_names():
        close = did_you_mean(where, list_encoding_names())
        raise InputError(f"tokenizer 'tiktoken:{where}': unknown; {close}, or name a .json file")
    try:
        known = get_encoding(where)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise InputError(
            f"tokenizer 'tiktoken:{where}': its ranks cannot be had here, {type(error).__name__}; "
            "fill TIKTOKEN_CACHE_DIR on a machine with a network, or name a .json file"
        ) from error
    return Encoding(known._mergeable_ranks, known._pat_str, known._special_tokens, where)


def _described(path: Path) -> Encoding:
    """Build the encoding of a description and the ranks beside it."""
    described = _read_description(path)
    special = described["special_tokens"]
    ranks = _read_ranks(path.parent / described["ranks"], frozenset(special.values()))
    return Encoding(ranks, described["pattern"], special, str(path))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}; name a file") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON, {error}; mend it") from error
    kinds = {"ranks": str, "pattern": str, "special_tokens": dict}
    found = value if isinstance(value, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if wrong or not all(type(token) is int for token in found["special_tokens"].values()):
        raise InputError(
            f"{path}: {', '.join(wrong) or 'special_tokens'} missing or of another type; it needs "
            "ranks (a file), pattern (text) and special_tokens (text to token)"
        )
    return found


def _read_ranks(path: Path, special: frozenset[int]) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}; name the ranks") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise InputError(
                f"{path}:{number}: no token in base64 and its rank; write the file again"
            ) from error
    # tiktoken's own p50k_base has a special token amid its ranks.
    found = set(ranks.values())
    end = max(found, default=-1) + 1
    known = len(found) + sum(0 <= token < end for token in special - found)
    if len(found) != len(ranks) or min(found, default=0) < 0 or known != end:
        raise InputError(
            f"{path}: {len(ranks)} tokens whose ranks are not 0, 1, 2, ...; write the file again"
        )
    return ranks


TOKENIZER = Tokenizer("tiktoken", "tiktoken", open_coder, _DESCRIPTION_FILE, is_converted=True)
