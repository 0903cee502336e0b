"""The state of the code: version, commit, and whether files differ from it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import scalekit
from scalekit.results.code import code_state, surely_differ


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    front = tmp_path / "scalekit" / "__init__.py"
    front.parent.mkdir()
    front.write_text("")
    monkeypatch.setattr(scalekit, "__file__", str(front))
    return tmp_path


def test_an_installed_package_states_its_version(checkout: Path) -> None:
    assert code_state() == scalekit.__version__


def test_a_checkout_states_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    git(checkout, "init", "-q")
    assert code_state() == scalekit.__version__
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    version, _, commit = code_state().partition("+")
    assert version == scalekit.__version__
    assert len(commit) == 12
    assert int(commit, 16) >= 0
    (checkout / "scalekit" / "__init__.py").write_text("x = 1\n")
    assert code_state() == f"{version}+{commit}.changed"


def test_a_request_to_stop_that_reaches_git_as_well_hides_no_change(
    checkout: Path, tmp_path: Path, monkeypatch
) -> None:
    """A run is told with all that it started: what git then could not say was taken for clean."""
    git(checkout, "init", "-q")
    git(checkout, "add", "scalekit")
    git(checkout, "commit", "-q", "-m", "one")
    (checkout / "scalekit" / "__init__.py").write_text("x = 1\n")
    told = tmp_path / "bin" / "git"
    told.parent.mkdir()
    told.write_text(f'#!/bin/sh\nkill -TERM $$\nexec {shutil.which("git")} "$@"\n')
    told.chmod(0o755)
    monkeypatch.setenv("PATH", f"{told.parent}{os.pathsep}{os.environ['PATH']}")
    assert code_state().endswith(".changed")


def test_changes_that_git_does_not_tell_are_unchecked_and_not_taken_for_none(
    checkout: Path, tmp_path: Path, monkeypatch
) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", "scalekit")
    git(checkout, "commit", "-q", "-m", "one")
    (checkout / "scalekit" / "__init__.py").write_text("x = 1\n")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    real = shutil.which("git")
    slow.write_text(f'#!/bin/sh\ncase "$*" in *status*) exit 128;; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    unchecked = code_state()
    assert unchecked.endswith(".unchecked")
    monkeypatch.undo()
    clean = unchecked.removesuffix(".unchecked")
    # What is not known is no evidence of a change; another commit is.
    assert not surely_differ(unchecked, clean)
    assert not surely_differ(f"{clean}.changed", unchecked)
    assert surely_differ(f"{clean}.changed", clean)
    assert surely_differ(unchecked, clean[:-1])
