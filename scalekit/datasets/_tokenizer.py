"""The tokenizer that made a source's tokens: by its name, or as a prepared folder keeps it."""

from __future__ import annotations

from pathlib import Path

from scalekit import registry
from scalekit.datasets._manifest import TOKENIZER, Manifest
from scalekit.errors import InputError
from scalekit.tokenizers.base import Coder, parse


def open_named(text: str) -> Coder:
    """Open the tokenizer written as `NAME` or `NAME:WHERE`.

    Raises:
        UsageError: No such member.
        InputError: It cannot be opened.
    """
    name, where = parse(text)
    return registry.find("tokenizers", name).open(where)


def open_kept(folder: Path, manifest: Manifest) -> Coder:
    """Open the tokenizer that lies beside a prepared folder's tokens.

    Raises:
        UsageError: Its kind is not known here.
        InputError: Its library or its files are missing, or it is not the one of the manifest.
    """
    identity = manifest.tokenizer["identity"]
    member = registry.find("tokenizers", parse(identity)[0])
    coder = member.open(str(folder / TOKENIZER / member.file) if member.file else "")
    if coder.identity != identity:
        raise InputError(
            f"data.path: {folder / TOKENIZER} holds {coder.identity!r}, the tokens are of "
            f"{identity!r}; remove the folder and prepare it again"
        )
    return coder
