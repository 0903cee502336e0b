"""What sbatch is called with, beside programs in Slurm's place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scalekit.executors.base import Handle, Job, Settings
from scalekit.executors.slurm import Slurm

PROGRAMS = {
    "sbatch": 'printf "%s\\n" "$@" > {here}/words; echo 7',
    "scontrol": "true",
    "squeue": "true",
}


class Nobody:
    """Nobody watches a submission."""

    def is_wanted(self, job: Job) -> bool:
        return True

    def started(self, jobs: Sequence[Job], handle: Handle) -> None:
        self.name = handle["name"]

    def ended(self, job: Job, code: int) -> None: ...

    def tick(self) -> None: ...


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text.format(here=folder)}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def submit(root: Path, **profile: Any) -> tuple[str, Path]:
    """Submit a run and return the submission's name and folder."""
    folder, watch = root / "sw ee" / "slurm", Nobody()
    job = Job("r0", ("python", "-m", "scalekit", "r0"), root / "r0.log", {"time_s": 5400.0}, 1.0)
    Slurm(Settings(folder=folder, profile=profile)).start([job], watch)
    return watch.name, folder / watch.name


def test_no_variable_of_a_persons_changes_what_the_script_asks_for(
    programs: Path, tmp_path: Path
) -> None:
    """SBATCH_JOB_NAME and its like beat the script's lines, and the command's words beat them."""
    setup = ["#SBATCH --hold", "module load cuda"]
    name, folder = submit(tmp_path, account="me", sbatch=["--mem-per-gpu 40G"], setup=setup)
    *words, script = (programs / "words").read_text().splitlines()
    assert script == str(folder / "job.sh")
    needed = {f"--job-name={name}", "--account=me", "--time=90", "--requeue"}
    assert needed | {"--signal=B:USR2@120", "--nodes=1"} <= set(words)
    assert words[words.index("--mem-per-gpu") + 1] == "40G"
    # A line that is no option to sbatch in the script is none here.
    assert "--hold" not in words
    # Said last, it counts: where the jobs write is spelt for the folder as it is.
    assert [word for word in words if word.startswith("--output")][-1].endswith("/%A_%a.out")
