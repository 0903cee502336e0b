"""What is to be prepared: the recipe, and the parts that it falls into.

A part becomes one shard a split. Parts follow from the recipe and the sources alone, so a folder
holds the same bytes however many processes filled it and however often they were killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.datasets._manifest import SPLITS
from scalekit.datasets._tokenizer import open_named
from scalekit.documents.base import Ask, Format, Piece
from scalekit.errors import InputError, UsageError
from scalekit.quantities import count_words
from scalekit.tokenizers.base import Coder

SCHEMA = "scalekit.prepare/1"
NO_END = "none"
MOST_VOCAB = 1 << 32

_Kind = tuple[str, str | None]
"""A part's format and split."""


@dataclass(frozen=True)
class Recipe:
    """How documents become shards.

    Attributes:
        tokenizer: `NAME` or `NAME:WHERE`.
        end_of_text: The special text whose token ends a document; `none` for no such token; None
            for what the tokenizer itself says.
        val_share: Share of the documents that are held out, drawn by the hash of their text.
        part_bytes: About how many bytes of source make a part.
        ask: How documents are found.
    """

    tokenizer: str
    end_of_text: str | None
    val_share: float
    part_bytes: int
    ask: Ask


@dataclass(frozen=True)
class Source:
    """A file, or another thing that holds documents, and its format.

    Attributes:
        is_held_out: Whether all its documents are held out, whatever their hash.
    """

    name: str
    format: str
    is_held_out: bool


@dataclass(frozen=True)
class Part:
    """Pieces of sources that become one shard a split.

    Attributes:
        number: Its place among all parts.
        format: The pieces' format.
        split: The split of all its documents, or None where their hash decides.
    """

    number: int
    format: str
    split: str | None
    pieces: tuple[Piece, ...]

    @property
    def weight(self) -> int:
        """About how many bytes it is."""
        return sum(piece.weight for piece in self.pieces)


def open_tokenizer(text: str) -> Coder:
    """Open the tokenizer written as `NAME` or `NAME:WHERE`.

    Raises:
        UsageError: No such member.
        InputError: It cannot be opened.
    """
    coder = open_named(text)
    if not 0 < coder.vocab <= MOST_VOCAB:
        raise InputError(f"tokenizer {text!r}: {coder.vocab} tokens; a shard holds up to 2^32")
    return coder


def end_token(coder: Coder, recipe: Recipe) -> int | None:
    """Choose the token that ends a document.

    Raises:
        InputError: The text named is no token, or nothing was named and the tokenizer says none.
    """
    if recipe.end_of_text == NO_END:
        return None
    token = coder.end_of_text if recipe.end_of_text is None else coder.token(recipe.end_of_text)
    if token is not None:
        return token
    if recipe.end_of_text is None:
        raise InputError(
            f"tokenizer {recipe.tokenizer!r}: does not say which token ends a document; name it "
            f"with --end-of-text TOKEN, or --end-of-text {NO_END} for none"
        )
    raise InputError(
        f"--end-of-text {recipe.end_of_text!r}: no token of {recipe.tokenizer!r}; name one of its "
        f"special tokens, or {NO_END}"
    )


def find_sources(names: Sequence[str], form: str | None, *, is_held_out: bool) -> list[Source]:
    """Find the files behind names: a folder stands for all files in it whose format is known.

    Raises:
        UsageError: A format that does not exist.
        InputError: Nothing there, or a file whose ending tells no format.
    """
    formats = {name: registry.find("documents", name) for name in registry.names("documents")}
    if form is not None:
        registry.find("documents", form)
    found = []
    for name in names:
        if form is not None and not formats[form].suffixes:
            found.append(Source(name, form, is_held_out))
            continue
        path = Path(name)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        known = [(p, form or _format_of(p, formats)) for p in files]
        if path.is_dir():
            known = [(p, f) for p, f in known if f is not None and not _is_hidden(p, path)]
        if not known:
            raise InputError(f"{name}: no file of a known format in it; say --source-format")
        found += [Source(str(p), _required(p, f), is_held_out) for p, f in known]
    return found


def left_out(names: Sequence[str], form: str | None) -> list[str]:
    """Say of each folder what `find_sources` leaves out of it, hidden files apart."""
    formats = {name: registry.find("documents", name) for name in registry.names("documents")}
    said = []
    for root in (Path(name) for name in names if Path(name).is_dir()):
        if form is not None and not formats[form].suffixes:
            continue  # a dataset, which its own library reads
        inside = sorted(p for p in root.rglob("*") if not _is_hidden(p, root))
        links = [p for p in inside if p.is_symlink() and p.is_dir()]
        other = [p for p in inside if p.is_file() and form is None and not _format_of(p, formats)]
        for what, why, paths in (
            ("file", " whose ending tells no format", other),
            ("linked folder", "", links),
        ):
            if paths:
                counted, first = count_words(len(paths), what), paths[0].relative_to(root)
                said.append(f"{root}: {counted}{why} left out, the first is {first}")
    return said


def _format_of(path: Path, formats: dict[str, Format]) -> str | None:
    fitting = [name for name, one in formats.items() if path.name.endswith(one.suffixes or "\0")]
    return fitting[0] if fitting else None


def _is_hidden(path: Path, root: Path) -> bool:
    return any(word.startswith(".") for word in path.relative_to(root).parts)


def _required(path: Path, form: str | None) -> str:
    if form is None:
        if not path.exists():
            todo = "name one, or say --source-format huggingface where it is a dataset's name"
            raise InputError(f"{path}: no such file or folder; {todo}")
        names = ", ".join(registry.names("documents"))
        raise InputError(f"{path}: its ending tells no format; say --source-format, one of {names}")
    return form


def cut_parts(recipe: Recipe, sources: Sequence[Source]) -> list[Part]:
    """Cut sources into parts; small files are put together as long as they fit into one.

    Raises:
        InputError: A source cannot be read.
        UsageError: The same source twice, so that its documents would count twice.
    """
    seen: set[str] = set()
    for source in sources:
        real = os.path.realpath(source.name)
        if real in seen:
            raise UsageError(f"{source.name}: named twice; name each source once")
        seen.add(real)
    groups: list[tuple[_Kind, list[Piece]]] = []
    room = 0
    for kind, piece in _pieces(recipe, sources):
        if not groups or kind != groups[-1][0] or piece.weight > room:
            groups.append((kind, []))
            room = recipe.part_bytes
        groups[-1][1].append(piece)
        room -= piece.weight
    return [Part(n, *kind, tuple(pieces)) for n, (kind, pieces) in enumerate(groups)]


def _pieces(recipe: Recipe, sources: Sequence[Source]) -> Iterator[tuple[_Kind, Piece]]:
    for source in sources:
        member = registry.find("documents", source.format)
        split = SPLITS[1] if source.is_held_out else None
        for piece in member.cut(source.name, recipe.part_bytes, recipe.ask):
            yield (source.format, split), piece


def describe_plan(
    recipe: Recipe, coder: Coder, sources: Sequence[Source], digests: Sequence[str]
) -> dict[str, Any]:
    """Say what decides a folder's bytes, as JSON holds it.

    The tokenizer stands there by its identity: where its file lies changes nothing.
    """
    asked = {**asdict(recipe), "tokenizer": coder.identity, "end_token": end_token(coder, recipe)}
    said = [
        {"source": s.name, "format": s.format, "held_out": s.is_held_out, "digest": digest}
        for s, digest in zip(sources, digests, strict=True)
    ]
    value = {"schema": SCHEMA, "recipe": asked, "sources": said}
    return json.loads(json.dumps(value))
