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


@pytest.fixture
def changed(checkout: Path) -> Path:
    """A checkout with a change that no commit holds."""
    git(checkout, "init", "-q")
    git(checkout, "add", "scalekit")
    git(checkout, "commit", "-q", "-m", "one")
    (checkout / "scalekit" / "__init__.py").write_text("x = 1\n")
    return checkout


def put_before_git(first: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a line of shell run first wherever git is called by name."""
    stand_in = folder / "bin" / "git"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\n{first}\nexec {shutil.which("git")} "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("changed")
def test_a_request_to_stop_that_reaches_git_as_well_hides_no_change(
    tmp_path: Path, monkeypatch
) -> None:
    """A run is told with all that it started: what git then could not say was taken for clean."""
    put_before_git("kill -TERM $$", tmp_path, monkeypatch)
    assert code_state().endswith(".changed")


@pytest.mark.usefixtures("changed")
def test_changes_that_git_does_not_tell_are_unchecked_and_not_taken_for_none(
    tmp_path: Path, monkeypatch
) -> None:
    put_before_git('case "$*" in *status*) exit 128;; esac', tmp_path, monkeypatch)
    unchecked = code_state()
    assert unchecked.endswith(".unchecked")
    monkeypatch.undo()
    clean = unchecked.removesuffix(".unchecked")
    # What is not known is no evidence of a change; another commit is.
    assert not surely_differ(unchecked, clean)
    assert not surely_differ(f"{clean}.changed", unchecked)
    assert surely_differ(f"{clean}.changed", clean)
    assert surely_differ(unchecked, clean[:-1])
