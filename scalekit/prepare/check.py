"""Whether a prepared folder still holds what its manifest says, byte for byte."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit import registry
from scalekit.datasets._manifest import MANIFEST, SPLITS, Manifest, count_split, hash_shards
from scalekit.datasets._tokenizer import open_kept
from scalekit.datasets.shards import check_shard_files
from scalekit.errors import InputError
from scalekit.tokenizers.base import parse

if TYPE_CHECKING:
    import numpy as np

_TOKENS_AT_ONCE = 1 << 20


def check_folder(
    folder: Path,
    manifest: Manifest,
    *,
    advance: Callable[[int, int], None] = lambda done, all: None,
) -> None:
    """Read every shard whole; compare its hash, and its tokens with vocabulary and lengths.

    Raises:
        InputError: A shard is missing, torn or changed, or holds a token out of the vocabulary;
            the lengths of tokens are not those of this text; the manifest contradicts itself; the
            tokenizer beside the tokens is another.
    """
    _check_manifest(folder, manifest)
    _check_tokenizer(folder, manifest)
    vocab = manifest.tokenizer["vocab"]
    lengths = _read_lengths(folder, manifest)
    shards = check_shard_files(folder, manifest)
    sizes = [shard.path.stat().st_size for shard in shards]
    done = 0
    for shard, said, size in zip(shards, manifest.shards, sizes, strict=True):
        with shard.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        largest = int(shard.map().max())
        if largest >= vocab:
            raise InputError(
                f"{shard.path}: holds token {largest}, the vocabulary has {vocab}; remove the "
                "folder and prepare it again"
            )
        if found != said["sha256"]:
            raise InputError(
                f"{shard.path}: sha256 {found[:12]}..., the manifest says {said['sha256'][:12]}...;"
                " the file was changed or damaged, remove the folder and prepare it again"
            )
        known = lengths if said.get("token_bytes_add_up", True) else None
        if known is not None and _count_bytes(shard.map(), known) != said["bytes"]:
            path = folder / manifest.tokenizer["token_bytes"]
            raise InputError(
                f"{path}: the tokens of {shard.path.name} do not add up to the {said['bytes']:,} "
                "bytes that the manifest says; the file was changed or damaged, remove the "
                "folder and prepare it again"
            )
        done += size
        advance(done, sum(sizes))


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    """Compare what a manifest says of its splits with what it says of their shards.

    Raises:
        InputError: They differ, or a shard is listed twice.
    """
    shards, path = manifest.shards, folder / MANIFEST
    listed = Counter(shard["file"] for shard in shards)
    wrong = [f"lists {name} twice" for name, count in listed.items() if count > 1]
    for split in SPLITS:
        for name, counted in count_split(split, shards).items():
            if (said := manifest.splits[split].get(name)) != counted:
                wrong.append(f"says {name} {said!r} of {split!r}, its shards have {counted!r}")
    if manifest.fingerprint != hash_shards(manifest.tokenizer["identity"], shards):
        wrong.append("has a fingerprint that is not its shards'")
    if wrong:
        raise InputError(
            f"{path}: {wrong[0]}; it was changed, remove the folder and prepare it again"
        )


def _check_tokenizer(folder: Path, manifest: Manifest) -> None:
    """Open the tokenizer that lies beside the tokens, where its library is there to do it.

    Raises:
        InputError: It is missing, damaged or another.
    """
    name = parse(manifest.tokenizer["identity"])[0]
    if name not in registry.names("tokenizers"):
        return  # somebody's own, who is not here
    package = registry.find("tokenizers", name).package
    if package is None or any(metadata.distributions(name=package)):
        open_kept(folder, manifest)


def _read_lengths(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """Return how many bytes each token (vocab,) stands for; None where that is not known."""
    import numpy as np

    name = manifest.tokenizer.get("token_bytes")
    if name is None:
        return None
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder / name}: cannot be read, {error.strerror}; remove the folder and prepare it "
            "again"
        ) from error
    vocab = manifest.tokenizer["vocab"]
    if len(data) != 4 * vocab:
        raise InputError(
            f"{folder / name}: {len(data):,} bytes, the lengths of {vocab:,} tokens are "
            f"{4 * vocab:,}; remove the folder and prepare it again"
        )
    return np.frombuffer(data, dtype="<u4").astype(np.int64)


def _count_bytes(tokens: np.ndarray, lengths: np.ndarray) -> int:
    """Add up the bytes of tokens (n,), a part at a time: a shard may be larger than the memory."""
    starts = range(0, len(tokens), _TOKENS_AT_ONCE)
    return sum(int(lengths[tokens[i : i + _TOKENS_AT_ONCE]].sum()) for i in starts)
