"""What sbatch is called with, beside programs in Slurm's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scalekit.executors._slurm_board import Folder
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
    argv = (sys.executable, str(root / "train.py"), "r0")
    job = Job("r0", argv, root / "r0.log", {"time_s": 5400.0}, 1.0)
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


@pytest.mark.parametrize("python", [None, '"$NODE"/python', f"env NOTHING= {sys.executable}"])
@pytest.mark.usefixtures("programs")
def test_the_interpreter_is_words_of_a_shell_for_the_runs_as_for_their_worker(
    tmp_path: Path, python: str | None
) -> None:
    (tmp_path / "no de").mkdir()
    (tmp_path / "no de" / "python").symlink_to(sys.executable)
    (tmp_path / "train.py").write_text("import sys; print('trained', *sys.argv[1:])")
    profile = {} if python is None else {"python": python}
    _, folder = submit(tmp_path, **profile)
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    environment = {**os.environ, **job, "NODE": str(tmp_path / "no de")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    ended = subprocess.run(
        ["bash", str(folder / "job.sh")],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line.state for line in Folder(folder).lines()] == ["d"]
    assert (tmp_path / "r0.log").read_text() == "trained r0 --threads 1\n"
