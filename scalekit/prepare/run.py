"""Prepare a folder: plan, work through the parts side by side, write the manifest last.

Killed at any point and started again it finishes with the same bytes: what counts as done is what
was put in place whole, and the manifest is written when nothing is left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import metadata
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.datasets._manifest import (
    MANIFEST,
    PLAN,
    SPLITS,
    TOKEN_BYTES,
    Manifest,
    read_manifest,
)
from scalekit.errors import InputError, SystemTroubleError
from scalekit.prepare.recipe import (
    Part,
    Recipe,
    Source,
    cut_parts,
    describe_plan,
    open_tokenizer,
)
from scalekit.prepare.work import REPORTS, Bench, dtype_of, read_report, work
from scalekit.results.store import write_whole
from scalekit.tokenizers.base import parse

Advance = Callable[[int, int], None]
"""Told the bytes done and the bytes there are."""

_AHEAD = 4
"""Parts handed out a process: enough to keep it busy, few enough to stop soon."""


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
    bench = Bench.of(folder, recipe, coder)
    parts = cut_parts(recipe, sources)
    digests = [registry.find("documents", s.format).digest(s.name, recipe.ask) for s in sources]
    plan = describe_plan(recipe, coder, sources, digests)
    with _held(folder):
        finished = _resume(folder, plan)
        if finished is None:
            reports = _work_through(parts, bench, workers, advance)
            finished = _manifest(plan, bench, reports)
            _write_files(folder, bench, finished)
            write_whole(folder / MANIFEST, finished.to_json())
        _clear(folder)
    return finished


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
        InputError: The folder is another plan's, or holds what nobody here put there.
    """
    if (folder / MANIFEST).is_file():
        finished = read_manifest(folder)
        assert finished is not None
        _refuse_other(folder, plan, {"recipe": finished.recipe, "sources": list(finished.sources)})
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
    parts: Sequence[Part], bench: Bench, workers: int, advance: Advance
) -> list[dict[str, Any]]:
    """Work on the parts that are not done and return the reports of all, in order."""
    reports: dict[int, dict[str, Any]] = {}
    total = sum(part.weight for part in parts)
    done = 0
    open_parts = []
    for part in parts:
        report = read_report(bench.folder, part)
        if report is None:
            open_parts.append(part)
        else:
            reports[part.number] = report
            done += part.weight
    advance(done, total)
    for part, report in _run(open_parts, bench, min(workers, len(open_parts))):
        reports[part.number] = report
        done += part.weight
        advance(done, total)
    return [reports[part.number] for part in parts]


def _run(
    parts: Sequence[Part], bench: Bench, workers: int
) -> Iterator[tuple[Part, dict[str, Any]]]:
    if workers <= 1:
        yield from ((part, work(part, bench)) for part in parts)
        return
    others = set(active_children())
    # spawn: the tokenizers' threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), _begin_worker, (str(bench.folder), bench.recipe)
    )
    try:
        yield from _fed(pool, parts, workers * _AHEAD)
    except BrokenProcessPool as error:
        raise SystemTroubleError(
            f"{bench.folder}: a process of the preparation died, perhaps for lack of memory; run "
            "the same command again with fewer --workers, it continues"
        ) from error
    except BaseException:
        # Parts in work take a while and would be of no use: what is put in place stays.
        for child in set(active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _fed(
    pool: ProcessPoolExecutor, parts: Iterable[Part], ahead: int
) -> Iterator[tuple[Part, dict[str, Any]]]:
    """Keep a few parts in the pool, so that an error ends the work soon."""
    waiting: dict[Future[dict[str, Any]], Part] = {}
    left = iter(parts)
    while True:
        for part in left:
            waiting[pool.submit(_work_in_worker, part)] = part
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


_bench: Bench | None = None
"""A worker process's own; the pool hands its tasks nothing else."""


def _begin_worker(folder: str, recipe: Recipe) -> None:
    global _bench  # noqa: PLW0603 - an initializer has no other way to leave something behind
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches all processes of a terminal; the parent decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bench = Bench.of(Path(folder), recipe, open_tokenizer(recipe.tokenizer))


def _end_with_parent() -> None:
    """End this worker when its parent is gone: one that was killed cannot send it home."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_in_worker(part: Part) -> dict[str, Any]:
    assert _bench is not None
    return work(part, _bench)


def _manifest(plan: dict[str, Any], bench: Bench, reports: Sequence[dict[str, Any]]) -> Manifest:
    coder = bench.coder
    shards = [shard for report in reports for shard in report["shards"]]
    shards.sort(key=lambda shard: (SPLITS.index(shard["split"]), shard["file"]))
    splits = {}
    for split in SPLITS:
        inside = [shard for shard in shards if shard["split"] == split]
        counts = {n: sum(s[n] for s in inside) for n in ("documents", "tokens", "bytes")}
        if not counts["tokens"]:
            raise InputError(_empty_split(split, shards))
        splits[split] = {**counts, "bytes_per_token": counts["bytes"] / counts["tokens"]}
    package = registry.find("tokenizers", parse(coder.identity)[0]).package
    tokenizer = {
        "identity": coder.identity,
        "vocab": coder.vocab,
        "end_of_text": plan["recipe"]["end_token"],
        "files": sorted(coder.files),
        "token_bytes": TOKEN_BYTES if all(s["token_bytes_add_up"] for s in shards) else None,
        "version": f"{package} {metadata.version(package)}" if package else None,
    }
    said = [coder.identity, *(f"{s['file']} {s['sha256']}" for s in shards)]
    recipe = {**plan["recipe"], "dtype": dtype_of(coder.vocab)}
    recipe["empty_documents"] = sum(report["empty_documents"] for report in reports)
    fingerprint = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    return Manifest(fingerprint, tokenizer, splits, tuple(shards), tuple(plan["sources"]), recipe)


def _empty_split(split: str, shards: Sequence[dict[str, Any]]) -> str:
    n_documents = sum(shard["documents"] for shard in shards)
    if not n_documents:
        return "the sources: no document with any text in them; name others"
    other = "held out" if split == "train" else "for training"
    return (
        f"--val-share: {n_documents} documents, all of them {other}; change the share, cut text "
        "into more documents with --documents blank or line, or name sources to hold out with --val"
    )


def _write_files(folder: Path, bench: Bench, manifest: Manifest) -> None:
    """Keep the tokenizer with its tokens: who reads them or exports a model needs it."""
    for name, data in bench.coder.files.items():
        write_whole(folder / "tokenizer" / name, data)
    if manifest.tokenizer["token_bytes"] is not None:
        assert bench.lengths is not None
        write_whole(folder / TOKEN_BYTES, bench.lengths.astype("<u4").tobytes())


def _clear(folder: Path) -> None:
    """Remove what only an unfinished folder needs; the plan goes last."""
    shutil.rmtree(folder / REPORTS, ignore_errors=True)
    (folder / PLAN).unlink(missing_ok=True)
