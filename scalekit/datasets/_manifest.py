"""The manifest of a prepared folder: which tokenizer, which shards, how many tokens and bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekit.errors import InputError

MANIFEST = "manifest.json"
PLAN = "prepare.json"
"""There while a folder is being prepared, and no longer."""
TOKENIZER = "tokenizer"
"""The folder beside the tokens with the files that open their tokenizer again."""
TOKEN_BYTES = f"{TOKENIZER}/token_bytes.bin"
"""How many bytes of text each token stands for, uint32 (vocab,)."""
SCHEMA = "scalekit.data/1"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Manifest:
    """What `scalekit data prepare` says of a folder.

    Attributes:
        fingerprint: A hash of the tokenizer's identity and of every shard's content.
        tokenizer: `identity`, `vocab`, `end_of_text` (a token or None), `version`, and
            `token_bytes`, a file, where the tokens of every document that is held out add up to
            its bytes; else None.
        splits: By name: `documents`, `empty_documents`, `tokens`, `bytes` of UTF-8 text and
            `bytes_per_token`, in which tokens between documents count.
        shards: In the order of their names: `file`, `split`, `tokens`, `bytes`, `documents`,
            `sha256`.
        sources: What was read: `source`, `format`, `held_out`, `digest`.
        recipe: How it was read.
    """

    fingerprint: str
    tokenizer: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    shards: tuple[Mapping[str, Any], ...]
    sources: tuple[Mapping[str, Any], ...]
    recipe: Mapping[str, Any]

    def to_json(self) -> str:
        """Write it as the text of `manifest.json`."""
        return json.dumps({"schema": SCHEMA, **vars(self)}, indent=1) + "\n"


def count_split(split: str, shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the shards of a split hold together, without bytes per token where it is none."""
    inside = [shard for shard in shards if shard["split"] == split]
    counts = {n: sum(shard[n] for shard in inside) for n in ("documents", "tokens", "bytes")}
    if not counts["tokens"]:
        return counts
    return {**counts, "bytes_per_token": counts["bytes"] / counts["tokens"]}


def hash_shards(identity: str, shards: Iterable[Mapping[str, Any]]) -> str:
    """Return the fingerprint of shards whose tokens are of the tokenizer with that identity."""
    said = [identity, *(f"{shard['file']} {shard['sha256']}" for shard in shards)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None where it has none and is not being prepared either.

    Raises:
        InputError: It is not finished, or its manifest is none that can be read here.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PLAN).is_file():
            raise InputError(
                f"data.path: {folder} is not prepared to its end; run the same `scalekit data "
                "prepare` again, it continues"
            )
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        schema = value.pop("schema")
        if schema != SCHEMA:
            raise InputError(
                f"data.path: {path} has schema {schema!r}, not {SCHEMA!r}; read it with the "
                "version of scalekit that wrote it"
            )
        read = Manifest(**{**value, **{name: tuple(value[name]) for name in ("shards", "sources")}})
        _check_types(read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"data.path: {path} is no manifest that can be read, {type(error).__name__}: {error}; "
            "remove the folder and prepare it again"
        ) from error
    return read


def _check_types(read: Manifest) -> None:
    """Look at what readers rely on, so that a damaged manifest is refused here."""
    relied_on: list[tuple[object, type]] = [
        (read.fingerprint, str),
        (read.tokenizer["identity"], str),
        (read.tokenizer["vocab"], int),
        (read.tokenizer.get("token_bytes") or "", str),
        (read.recipe["ask"], dict),
        *((source["source"], str) for source in read.sources),
        *((read.splits[split]["bytes_per_token"], float) for split in SPLITS),
        *((shard[name], int) for shard in read.shards for name in ("tokens", "bytes", "documents")),
        *((shard[name], str) for shard in read.shards for name in ("file", "split", "sha256")),
    ]
    for value, kind in relied_on:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is no {kind.__name__}")
    if read.tokenizer["vocab"] < 1:
        raise ValueError(f"a vocabulary of {read.tokenizer['vocab']}")
