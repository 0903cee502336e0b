"""Profiles: written from what a real Slurm says of itself, and what may stand in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from submitting import Sweep

from scalekit.cli import run
from scalekit.errors import InputError
from scalekit.sweep.sections import ProfileFile

Fake = Callable[[int], Sweep]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("cluster")
def test_a_profile_is_written_from_what_slurm_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--write-profile", "dev"]) == 0
    out, err = capsys.readouterr()
    text = (here / "profiles" / "dev.yaml").read_text()
    assert out == text
    assert "executor: {profile: dev}" in err
    profile = ProfileFile.model_validate(yaml.safe_load(text))
    assert (profile.partition, profile.executor) == ("main", {"kind": "slurm"})
    assert (profile.gpus_per_node, profile.cpus_per_gpu) == (4, 2)
    assert profile.max_array_size == 10001
    assert "#   short: 4 nodes of 4 x gpu, 8 cores, 17 GB, limit 1:00\n" in text
    # A second time nothing is overwritten.
    assert run(["doctor", "--write-profile", "dev"]) == 2
    assert (here / "profiles" / "dev.yaml").read_text() == text


@pytest.mark.usefixtures("cluster")
def test_a_partition_that_is_not_there_is_named_with_the_nearest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--write-profile", "dev", "--partition", "shrt"]) == 7
    assert "partition 'shrt': not on this cluster; did you mean 'short'?" in capsys.readouterr().err
    assert not (here / "profiles").exists()
    assert run(["doctor", "--write-profile", "../dev"]) == 2
    assert run(["doctor", "--partition", "main"]) == 2


def test_with_accounting_the_account_is_known(accounted: Cluster, here: Path) -> None:
    assert run(["doctor", "--write-profile", "dev", "--partition", "low"]) == 0
    profile = yaml.safe_load((here / "profiles" / "dev.yaml").read_text())
    mine = accounted.call("sacctmgr", "-n", "-P", "show", "assoc", "format=Account").split()
    assert profile["account"] in mine
    assert profile["partition"] == "low"


def test_without_slurm_no_profile_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert run(["doctor", "--write-profile", "dev"]) == 7
    assert "sinfo: not found" in capsys.readouterr().err
    assert not (here / "profiles").exists()


@pytest.mark.usefixtures("cluster")
def test_further_options_reach_sbatch_and_a_line_break_does_not(fake_sweep: Fake) -> None:
    sweep = fake_sweep(1)
    for key, value in {"account": "a\n#SBATCH -w x", "sbatch": ["--nice=3\nrm"]}.items():
        with pytest.raises(InputError, match=f"profile.{key}: a line break in"):
            sweep.start(profile={key: value})
    assert not sweep.folder.plan_file.exists()
    sweep.start(profile={"sbatch": ["--nice=7", "exclusive"]})
    lines = sweep.submissions()[-1].script.read_text().splitlines()
    assert {"#SBATCH --nice=7", "#SBATCH --exclusive"} <= set(lines)
    sweep.wait_for("done")
