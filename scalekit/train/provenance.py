"""What produced a run: code, torch, host, device, job. The `attempt` line of a record."""

from __future__ import annotations

import os
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import scalekit
from scalekit.train.device import Device


def describe_attempt(n: int, resumed_from: int, device: Device) -> dict[str, Any]:
    """Return the fields of an attempt line."""
    return {
        "n": n,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "host": socket.gethostname(),
        "device": device.name,
        "threads": torch.get_num_threads(),
        "code": code_state(),
        "torch": str(torch.__version__),
        "resumed_from": resumed_from,
    }


def code_state() -> str:
    """Return the version and, in a git checkout, the commit, marked when files differ from it."""
    version = scalekit.__version__
    root = Path(scalekit.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return version
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    is_changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{version}+{commit}" + (".changed" if is_changed else "")


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
