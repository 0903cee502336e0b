"""Prepare a folder: plan, work through the parts side by side, write the manifest last.

Killed at any point and started again it finishes with the same bytes: what counts as done is what
was put in place whole, and the manifest is written when nothing is left.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.datasets._manifest import (
    MANIFEST,
    PLAN,
    SPLITS,
    TOKEN_BYTES,
    TOKENIZER,
    Manifest,
    count_split,
    hash_shards,
    read_manifest,
)
from scalekit.datasets.shards import check_shard_files
from scalekit.errors import InputError, SystemTroubleError
from scalekit.prepare.pool import work_side_by_side
from scalekit.prepare.recipe import (
    Part,
    Recipe,
    Source,
    cut_parts,
    describe_plan,
    open_tokenizer,
)
from scalekit.prepare.texts import held_out_by_source, note_held_out
from scalekit.prepare.work import REPORTS, Bench, dtype_of, held_out_path, read_report
from scalekit.results.store import write_whole
from scalekit.tokenizers.base import parse

Advance = Callable[[int, int], None]
"""Told the bytes done and the bytes there are."""


def prepare(
    recipe: Recipe,
    sources: Sequence[Source],
    folder: Path,
    *,
    workers: int,
    advance: Advance = lambda done, total: None,
) -> Manifest:
    """Fill a folder with shards and a manifest, or finish what was begun there.

    A folder that is finished with the same recipe and sources is left as it is.

    Raises:
        InputError: A source cannot be used, or the folder holds something else.
        SystemTroubleError: The disk refuses, or a process died.
    """
    coder = open_tokenizer(recipe.tokenizer)
    parts = cut_parts(recipe, sources)
    digests = [registry.find("documents", s.format).digest(s.name, recipe.ask) for s in sources]
    _refuse_copies(sources, digests)
    plan = describe_plan(recipe, coder, sources, digests)
    with _held(folder):
        finished = _resume(folder, plan)
        if finished is None:
            # What is held out by its source is read once more, before all else.
            first = held_out_by_source(parts)
            more, total = (sum(part.weight for part in some) for some in (first, parts))
            note_held_out(held_out_path(folder), first, recipe, lambda n: advance(n, more + total))
            bench = Bench.of(folder, recipe, coder)
            reports = _work_through(
                parts, bench, workers, lambda n: advance(more + n, more + total)
            )
            try:
                finished = _manifest(plan, bench, reports)
            except InputError:
                _abandon(folder, reports)
                raise
            _write_files(folder, bench, finished)
            write_whole(folder / MANIFEST, finished.to_json())
        _clear(folder)
    return finished


def _refuse_copies(sources: Sequence[Source], digests: Sequence[str]) -> None:
    """Refuse to hold out what is also trained on.

    Raises:
        InputError: A source to hold out has the content of one to train on.
    """
    trained = {d: s.name for s, d in zip(sources, digests, strict=True) if not s.is_held_out}
    for source, digest in zip(sources, digests, strict=True):
        if source.is_held_out and digest in trained:
            raise InputError(
                f"--val {source.name}: is a copy of {trained[digest]}, so the held-out loss would "
                "be of texts that were trained on; name another, or leave --val out for a share"
            )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep others out of a folder while it is being filled."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise SystemTroubleError(
            f"{folder}: cannot be written, {error.strerror}; name another folder with -o"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            is_taken = isinstance(error, BlockingIOError)
            said = "another process is preparing it; wait for it or stop it"
            other = f"cannot be locked, {error.strerror}; put it on a file system with locks"
            raise SystemTroubleError(f"{folder}: {said if is_taken else other}") from error
        yield
    finally:
        os.close(handle)


def _resume(folder: Path, plan: dict[str, Any]) -> Manifest | None:
    """Return the manifest of a finished folder; else make sure that the folder is this plan's.

    Raises:
        InputError: The folder is another plan's, holds what nobody here put there, or was finished
            and has lost a shard since.
    """
    if (folder / MANIFEST).is_file():
        finished = read_manifest(folder)
        assert finished is not None
        _refuse_other(folder, plan, {"recipe": finished.recipe, "sources": list(finished.sources)})
        check_shard_files(folder, finished)
        return finished
    begun = folder / PLAN
    if begun.is_file():
        try:
            _refuse_other(folder, plan, json.loads(begun.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{begun}: no plan that can be read; remove the folder") from error
        for scratch in folder.rglob(".*.tmp"):
            scratch.unlink(missing_ok=True)
        return None
    strange = sorted(p.name for p in folder.iterdir() if not _is_plan_scratch(p.name))
    if strange:
        raise InputError(
            f"{folder}: holds {strange[0]!r}, which was not prepared here; name an empty or a new "
            "folder with -o"
        )
    write_whole(begun, json.dumps(plan, indent=1) + "\n")
    return None


def _is_plan_scratch(name: str) -> bool:
    """Whether a file is what a kill leaves of writing the plan."""
    return name.startswith(f".{PLAN}.") and name.endswith(".tmp")


def _refuse_other(folder: Path, plan: dict[str, Any], there: dict[str, Any]) -> None:
    for key, asked in _flat(plan["recipe"]).items():
        found = _flat(there["recipe"]).get(key)
        if found != asked:
            raise InputError(
                f"{folder}: was begun with {key} {found!r}, asked is {asked!r}; name another "
                "folder with -o, or remove this one"
            )
    if there["sources"] != plan["sources"]:
        known = {line["source"]: line for line in there["sources"]}
        named = [line["source"] for line in plan["sources"]]
        differ = [line["source"] for line in plan["sources"] if known.get(line["source"]) != line]
        lost = [name for name in known if name not in named]
        which = (differ + lost or ["their order"])[0]
        raise InputError(
            f"{folder}: was begun with other sources, {which!r} differs; name another folder with "
            "-o, or remove this one"
        )


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, **recipe["ask"], "ask": None}


def _work_through(
    parts: Sequence[Part], bench: Bench, workers: int, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Work on the parts that are not done and return the reports of all, in order."""
    reports: dict[int, dict[str, Any]] = {}
    done = 0
    open_parts = []
    for part in parts:
        report = read_report(bench, part)
        if report is None:
            open_parts.append(part)
        else:
            reports[part.number] = report
            done += part.weight
    advance(done)
    for part, report in work_side_by_side(open_parts, bench, min(workers, len(open_parts))):
        reports[part.number] = report
        done += part.weight
        advance(done)
    return [reports[part.number] for part in parts]


def _manifest(plan: dict[str, Any], bench: Bench, reports: Sequence[dict[str, Any]]) -> Manifest:
    coder = bench.coder
    shards = [shard for report in reports for shard in report["shards"]]
    shards.sort(key=lambda shard: (SPLITS.index(shard["split"]), shard["file"]))
    splits = {}
    for split in SPLITS:
        splits[split] = count_split(split, shards)
        if not splits[split]["tokens"]:
            n_known = sum(report.get("also_held_out", 0) for report in reports)
            by_name = any(source["held_out"] for source in plan["sources"])
            raise InputError(_empty_split(split, shards, n_known, by_name=by_name))
    held_out = [shard for shard in shards if shard["split"] == "val"]
    package = registry.find("tokenizers", parse(bench.recipe.tokenizer)[0]).package
    tokenizer = {
        "identity": coder.identity,
        "vocab": coder.vocab,
        "end_of_text": plan["recipe"]["end_token"],
        "files": sorted(coder.files),
        # Bits per byte are of held-out text: what stands in the other does not matter.
        "token_bytes": TOKEN_BYTES if all(s["token_bytes_add_up"] for s in held_out) else None,
        "version": f"{package} {metadata.version(package)}" if package else None,
    }
    recipe = {**plan["recipe"], "dtype": dtype_of(coder.vocab)}
    for counted in ("empty_documents", "also_held_out"):
        # Parts that an older version of this program had done do not have both.
        recipe[counted] = sum(report.get(counted, 0) for report in reports)
    fingerprint = hash_shards(coder.identity, shards)
    return Manifest(fingerprint, tokenizer, splits, tuple(shards), tuple(plan["sources"]), recipe)


def _empty_split(
    split: str, shards: Sequence[dict[str, Any]], n_known: int, *, by_name: bool
) -> str:
    n_documents = sum(shard["documents"] for shard in shards)
    if not n_documents:
        return "the sources: no document with any text in them; name others"
    if split == "train" and n_known:
        return "--val: has every document of the sources; name others to hold out or to train on"
    if by_name:
        empty = "the sources" if split == "train" else "--val"
        return f"{empty}: no document with any text in them; name others"
    other = "held out" if split == "train" else "for training"
    return (
        f"--val-share: {n_documents} documents, all of them {other}; change the share, cut text "
        "into more documents with --documents blank or line, or name sources to hold out with --val"
    )


def _write_files(folder: Path, bench: Bench, manifest: Manifest) -> None:
    """Keep the tokenizer with its tokens: who reads them or exports a model needs it."""
    for name, data in bench.coder.files.items():
        write_whole(folder / TOKENIZER / name, data)
    if manifest.tokenizer["token_bytes"] is not None:
        assert bench.lengths is not None
        write_whole(folder / TOKEN_BYTES, bench.lengths.astype("<u4").tobytes())


def _abandon(folder: Path, reports: Sequence[dict[str, Any]]) -> None:
    """Remove what was done by a recipe that gives no data, so that another can be tried there."""
    for report in reports:
        for shard in report["shards"]:
            (folder / shard["file"]).unlink(missing_ok=True)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what only an unfinished folder needs; the plan goes last."""
    shutil.rmtree(folder / REPORTS, ignore_errors=True)
    (folder / PLAN).unlink(missing_ok=True)
