"""A run as a child process: its threads, its log, a process group of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

OOM_SCORE = 500
"""Out of memory, the kernel kills the process of the highest score: its share of the memory in
thousandths, and this. So it is the largest run, and never the worker that started it.
"""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def start_child(
    argv: Sequence[str], log: Path, threads: int, variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a run with so many threads, its output appended to its log.

    The process leads a group of its own: a signal to the starter's group does not reach it.

    Raises:
        OSError: The program or the log cannot be opened.
    """
    with _open_log(log) as file:
        process = subprocess.Popen(
            [*argv, "--threads", str(threads)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), **variables},
            start_new_session=True,
        )
    with suppress(OSError):  # Linux alone has it, and the run may have ended
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    return process


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a run and all that it started; nothing happens if it has ended."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:  # macOS says this of a group of zombies
        process.send_signal(number)


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab", buffering=0)
    try:
        if log.tell():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            log.write(f"\n--- started again {now}\n".encode())
    except OSError as error:
        log.close()
        error.filename = str(path)  # a full disk does not say what for
        raise
    return log
