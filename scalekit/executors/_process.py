"""Processes of this machine as handles: named so that a reused process id is never mistaken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekit.executors.base import JobState


def process_handle(pid: int) -> dict[str, Any]:
    """Name a process: host, id, and the moment it started."""
    return {"host": socket.gethostname(), "pid": pid, "born": _born(pid)}


def process_state(handle: Mapping[str, Any]) -> JobState:
    """Say whether the very process that a handle names still runs."""
    if handle.get("host") != socket.gethostname():
        return JobState("unknown", f"on {handle.get('host')}")
    pid, born = handle.get("pid"), handle.get("born")
    if not isinstance(pid, int) or pid <= 1 or born is None or _born(pid) != born:
        return JobState("gone")
    return JobState("running")


def stop_process(handle: Mapping[str, Any], *, group: bool) -> str | None:
    """Ask the process of a handle to stop, with its whole group where `group` is set.

    Returns:
        None, or a sentence that says why it could not be sent.
    """
    state = process_state(handle)
    if state.word == "unknown":
        return f"process {handle.get('pid')} is {state.why}; cancel it there"
    if not state.is_alive:
        return None
    pid = handle["pid"]
    try:
        if group and os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return None
    except PermissionError:
        return f"process {pid} belongs to another user; ask them"
    return None


def _born(pid: int) -> str | None:
    """Return a mark that no other process with this id ever had; None when there is none alive."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _born_by_ps(pid)
    # The name in brackets may hold spaces; fields after it are: state, ..., start in ticks (20th).
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{_boot()}:{fields[19]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return ""


def _born_by_ps(pid: int) -> str | None:
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
