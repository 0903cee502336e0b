"""`scalekit data prepare|check`: from documents to shards of tokens, and whether they are whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekit.commands._output import Format, FormatOption, format_table, print_csv, print_json
from scalekit.documents.base import Unit
from scalekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from scalekit.datasets._manifest import Manifest

VAL_SHARE = 0.01
PART_BYTES = "64M"

COMMAND = typer.Typer(
    help="Prepare token shards from documents, and check them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@COMMAND.command()
def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="files, folders of files, or datasets"),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="the folder to fill")],
    tokenizer: Annotated[
        str,
        typer.Option(help="bytes, tiktoken:NAME, tiktoken:FILE.json, huggingface:FILE"),
    ] = "bytes",
    column: Annotated[str, typer.Option(help="the field that holds the text")] = "text",
    documents: Annotated[
        Unit, typer.Option(help="what a document is in plain text: file, blank (lines), line")
    ] = "file",
    val: Annotated[
        list[str] | None,
        typer.Option("--val", metavar="SOURCE", help="hold these out instead of a share"),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help=f"of documents held out; {VAL_SHARE} unless given"),
    ] = None,
    end_of_text: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="what ends a document, or none; the tokenizer's own"),
    ] = None,
    source_format: Annotated[
        str | None,
        typer.Option("--source-format", help="text, jsonl, parquet, huggingface; by file ending"),
    ] = None,
    split: Annotated[str, typer.Option(help="of a Hugging Face dataset")] = "train",
    config: Annotated[str | None, typer.Option(help="of a Hugging Face dataset")] = None,
    part_bytes: Annotated[
        str, typer.Option(help="about how much of the sources makes a shard")
    ] = PART_BYTES,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="processes; one a core")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Turn documents into shards with a manifest; killed and started again it continues."""
    from scalekit.commands._bytes_bar import BytesBar
    from scalekit.documents.base import Ask
    from scalekit.prepare.recipe import Recipe, find_sources, left_out
    from scalekit.prepare.run import prepare as run

    if val and val_share:
        raise UsageError("--val, --val-share: both say what is held out; give one of them")
    share = val_share if val_share is not None else (0.0 if val else VAL_SHARE)
    ask = Ask(column, documents, split, config)
    recipe = Recipe(tokenizer, end_of_text, share, _read_bytes(part_bytes), ask)
    found = find_sources(sources, source_format, is_held_out=False)
    found += find_sources(val or [], source_format, is_held_out=True)
    for sentence in left_out([*sources, *(val or [])], source_format):
        print(f"note: {sentence}", file=sys.stderr)
    with BytesBar() as bar:
        manifest = run(recipe, found, out, workers=workers or _cores(), advance=bar.advance)
    _show(out, manifest, form)


@COMMAND.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder of `data prepare`")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Read every shard of a prepared folder and compare it with the manifest."""
    from scalekit.commands._bytes_bar import BytesBar
    from scalekit.datasets._manifest import MANIFEST, read_manifest
    from scalekit.prepare.check import check_folder

    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: no {MANIFEST} in it; name a folder of `scalekit data prepare`")
    with BytesBar() as bar:
        check_folder(folder, manifest, advance=bar.advance)
    _show(folder, manifest, form)


def _show(folder: Path, manifest: Manifest, form: Format) -> None:
    from scalekit.quantities import count_words

    names = ("documents", "tokens", "bytes", "bytes_per_token")
    rows: list[dict[str, Any]] = [
        {"split": split, "shards": sum(s["split"] == split for s in manifest.shards)}
        | {name: counts[name] for name in names}
        for split, counts in manifest.splits.items()
    ]
    left_out = {name: manifest.recipe.get(name) for name in ("empty_documents", "also_held_out")}
    if left_out["also_held_out"] is None and any(s.get("held_out") for s in manifest.sources):
        print(
            f"note: {folder}: prepared by a version that trained on documents of --val where they "
            "stand in other sources too; prepare it anew in another folder, or they lower the "
            "held-out loss",
            file=sys.stderr,
        )
    if form is Format.JSON:
        said = {"tokenizer": manifest.tokenizer, "fingerprint": manifest.fingerprint, **left_out}
        return print_json("data", {"folder": str(folder), **said, "splits": rows})
    if form is Format.CSV:
        return print_csv(list(rows[0]), rows)
    cells = [
        [
            r["split"],
            *(f"{r[n]:,}" for n in ("shards", *names[:3])),
            f"{r['bytes_per_token']:.4f}",
        ]
        for r in rows
    ]
    header = ["split", "shards", "documents", "tokens", "bytes", "bytes/token"]
    print(format_table(header, cells))
    vocab = manifest.tokenizer["vocab"]
    print(f"tokenizer {manifest.tokenizer['identity']}, {vocab:,} tokens")
    empty, known = left_out.values()
    if empty:
        print(f"{count_words(empty, 'document')} without any text, left out")
    if known:
        print(f"{count_words(known, 'document')} to train on left out, held out by --val")
    print(f"fingerprint {manifest.fingerprint}")
    return None


def _read_bytes(text: str) -> int:
    from scalekit.quantities import read_whole

    try:
        n_bytes = read_whole(text)
    except InputError as error:
        raise UsageError(f"--part-bytes {error}") from error
    if n_bytes < 1:
        raise UsageError(f"--part-bytes {text!r}: less than one byte; write a number such as 64M")
    return n_bytes


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
