"""Parts worked on side by side, in processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from scalekit.errors import SystemTroubleError
from scalekit.prepare.recipe import Part, Recipe, open_tokenizer
from scalekit.prepare.work import Bench, work

_AHEAD = 4
"""Parts handed out a process: enough to keep it busy, few enough to stop soon."""


def work_side_by_side(
    parts: Sequence[Part], bench: Bench, workers: int
) -> Iterator[tuple[Part, dict[str, Any]]]:
    """Work on parts in so many processes, or in this one, and yield each report as it comes.

    Raises:
        InputError: A part cannot be used; the others in work are given up.
        SystemTroubleError: A process died, or the disk refuses.
    """
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
