"""The README's block for clusters runs as it stands, on a real Slurm; its runs are stand-ins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from submitting import stand_in_python

README = Path(__file__).parents[2] / "README.md"

# The command as it is installed, but for the interpreter that it gives to its jobs.
COMMAND = """#!/bin/bash
exec {python} -c "
import sys
sys.executable = '{stand_in}'
from scalekit.cli import main
main()
" "$@"
"""


def cluster_block() -> str:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.S | re.M)
    found = [block for block in blocks if "scalekit sweep" in block and "-e slurm" in block]
    assert len(found) == 1
    return found[0]


def run_block(block: str) -> str:
    words = ["bash", "-e", "-c", block]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_block_for_clusters_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_python(tmp_path / "python")
    command = tmp_path / "bin" / "scalekit"
    command.parent.mkdir()
    command.write_text(COMMAND.format(python=sys.executable, stand_in=tmp_path / "python"))
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    run_block("scalekit init study")
    said = run_block(cluster_block())
    found = re.search(r"submitted (\d+) runs as job", said)
    assert found is not None, said
    # `--watch` shows where everything stands until nothing runs.
    shown = re.findall(r"^runs/quickstart: (\d+ runs: .*)", said, re.M)
    assert shown[-1] == f"{found[1]} runs: {found[1]} done"
    # The same block again trains nothing.
    assert "submitted" not in run_block(cluster_block())
