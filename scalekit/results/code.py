"""Which code made a result: the version and, in a git checkout, the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import scalekit
from scalekit.signals import unheard_by_children

CHANGED = ".changed"
"""The mark of a commit whose files were changed since."""

UNCHECKED = ".unchecked"
"""The mark of a commit of which git did not say whether they were, as on a slow file system."""


def code_state() -> str:
    """Return the version and, in a git checkout, the commit, marked unless its files are as it."""
    version = scalekit.__version__
    root = Path(scalekit.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return version
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    mark = UNCHECKED if changes is None else CHANGED if changes else ""
    return f"{version}+{commit}{mark}"


def surely_differ(one: str, other: str) -> bool:
    """Say whether two states are told apart; of an unchecked one only the commit is known.

    >>> surely_differ("1.0+abc", "1.0+abc.changed"), surely_differ("1.0+abc.unchecked", "1.0+abc")
    (True, False)
    """
    if UNCHECKED in one or UNCHECKED in other:
        return _commit(one) != _commit(other)
    return one != other


def _commit(state: str) -> str:
    return state.removesuffix(UNCHECKED).removesuffix(CHANGED)


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
