"""Whether a prepared folder still holds what its manifest says, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from scalekit.datasets._manifest import Manifest
from scalekit.datasets.shards import check_shard_files
from scalekit.errors import InputError


def check_folder(
    folder: Path,
    manifest: Manifest,
    *,
    advance: Callable[[int, int], None] = lambda done, all: None,
) -> None:
    """Read every shard whole; compare its hash, and its tokens with the vocabulary.

    Raises:
        InputError: A shard is missing, torn or changed, or holds a token out of the vocabulary.
    """
    vocab = manifest.tokenizer["vocab"]
    shards = check_shard_files(folder, manifest)
    sizes = [shard.path.stat().st_size for shard in shards]
    done = 0
    for shard, said, size in zip(shards, manifest.shards, sizes, strict=True):
        with shard.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        largest = int(shard.map().max())
        if largest >= vocab:
            raise InputError(
                f"{shard.path}: holds token {largest}, the vocabulary has {vocab}; prepare the "
                "folder again"
            )
        if found != said["sha256"]:
            raise InputError(
                f"{shard.path}: sha256 {found[:12]}..., the manifest says {said['sha256'][:12]}...;"
                " the file was changed or damaged, prepare the folder again"
            )
        done += size
        advance(done, sum(sizes))
