"""What an attempt says of itself: the code, to the commit and to whether files differ from it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import scalekit
from scalekit.train.device import choose_device
from scalekit.train.provenance import code_state, describe_attempt


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which scalekit seems to be imported."""
    package = tmp_path / "scalekit"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(scalekit, "__file__", str(package / "__init__.py"))
    return tmp_path


def test_an_installed_package_is_known_by_its_version(checkout: Path) -> None:
    assert code_state() == scalekit.__version__


def test_a_checkout_is_known_by_its_commit_and_by_files_that_differ(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    assert code_state() == scalekit.__version__  # no commit yet
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "first")
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert code_state() == f"{scalekit.__version__}+{commit}"
    (checkout / "notes.txt").write_text("a file that git does not know is no change of the code")
    assert code_state() == f"{scalekit.__version__}+{commit}"
    (checkout / "scalekit" / "__init__.py").write_text("x = 1\n")
    assert code_state() == f"{scalekit.__version__}+{commit}.changed"


def test_without_git_the_version_stands_alone(checkout: Path, monkeypatch) -> None:
    (checkout / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert code_state() == scalekit.__version__


def test_an_attempt_names_its_job_host_device_threads_and_torch(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1234")
    found = describe_attempt(3, 500, choose_device("cpu", "float32"))
    assert (found["n"], found["resumed_from"], found["job"]) == (3, 500, "1234")
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert all(isinstance(found[key], str) and found[key] for key in ("host", "device", "code"))
    age = datetime.now(UTC) - datetime.fromisoformat(found["time"])
    assert timedelta(0) <= age < timedelta(minutes=10)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert describe_attempt(1, 0, choose_device("cpu", "float32"))["job"] is None
