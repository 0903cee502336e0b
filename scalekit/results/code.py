"""Which code made a result: the version and, in a git checkout, the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import scalekit
from scalekit.signals import unheard_by_children


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
        with unheard_by_children():
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
