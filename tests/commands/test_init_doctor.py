"""`scalekit init` and `scalekit doctor`."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest

import scalekit
from scalekit.cli import run
from scalekit.commands import doctor


@pytest.fixture(params=["wheel", "checkout"])
def package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An installation with two examples, as a wheel lays them and as a checkout has them."""
    home = tmp_path / "site" / "scalekit"
    examples = home / "examples" if request.param == "wheel" else home.parent / "sweeps"
    (examples / "base").mkdir(parents=True)
    (examples / "quickstart.yaml").write_text("extends: base/small.yaml\n")
    (examples / "base" / "small.yaml").write_text("scalekit: 1\n")
    monkeypatch.setattr(scalekit, "__file__", str(home / "__init__.py"))
    return examples


def test_init_lays_every_example_out_and_says_what_comes_next(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "my study"
    assert run(["init", str(here)]) == 0
    said = capsys.readouterr()
    for name in ("quickstart.yaml", "base/small.yaml"):
        assert (here / "sweeps" / name).read_bytes() == (package / name).read_bytes()
        assert f"wrote  {here / 'sweeps' / name}" in said.out
    # The folder has a space, so the command can only be pasted when it is quoted.
    assert f"next: scalekit sweep '{here}/sweeps/quickstart.yaml' -n" in said.err


@pytest.mark.usefixtures("package")
def test_init_never_overwrites_and_says_what_it_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "study" / "sweeps" / "quickstart.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n")
    assert run(["init", str(tmp_path / "study")]) == 0
    assert mine.read_text() == "mine\n"
    said = capsys.readouterr()
    assert f"kept   {mine}" in said.out
    assert "wrote" in said.out  # the other one
    assert "move yours away" in said.err


@pytest.mark.usefixtures("package")
def test_init_into_a_file_is_refused_with_the_systems_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes"
    file.write_text("not a folder\n")
    assert run(["init", str(file)]) == 7
    assert "Not a directory; choose another folder" in capsys.readouterr().err
    assert file.read_text() == "not a folder\n"


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert run(["doctor", "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.doctor/1"
    return {finding["what"]: finding for finding in value["findings"]}


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that is broken: the probe fails at once, which also keeps the tests short."""
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "raise ImportError('libcudart is not here')")


@pytest.mark.usefixtures("no_torch")
def test_doctor_names_every_place_it_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)
    asked = {"python", "scalekit", "torch", "devices", "cores", "memory", "disk", "folder", "slurm"}
    assert asked <= set(found)
    assert all(f["state"] in ("ok", "doubt") for f in found.values())
    assert all(f["todo"] for f in found.values() if f["state"] == "doubt")


@pytest.mark.usefixtures("no_torch")
def test_doctor_survives_a_torch_that_does_not_import(capsys: pytest.CaptureFixture[str]) -> None:
    devices = findings(capsys)["devices"]
    assert devices["state"] == "doubt"
    assert "libcudart is not here" in devices["found"]


@pytest.mark.usefixtures("no_torch")
def test_doctor_survives_a_torch_that_hangs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "_TORCH_SECONDS", 0.2)
    assert "did not answer" in findings(capsys)["devices"]["found"]


@pytest.mark.usefixtures("no_torch")
def test_doctor_doubts_a_missing_and_an_old_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["nothing-of-this-name>=1.0", "typer>=999.0", "pyyaml>=3", "wandb>=0.18; extra == 'w'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: asked)
    found = findings(capsys)
    assert found["nothing-of-this-name"]["found"] == "not installed"
    assert found["nothing-of-this-name"]["todo"] == "pip install 'nothing-of-this-name>=1.0'"
    assert found["typer"]["state"] == "doubt"
    assert found["pyyaml"]["state"] == "ok"
    assert found["wandb"]["state"] == "ok"  # an extra is a choice, not a doubt


@pytest.mark.usefixtures("no_torch")
def test_doctor_doubts_a_full_disk_and_a_small_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "LEAST_MEMORY_GB", 1e9)
    found = findings(capsys)
    assert found["disk"]["state"] == "doubt"
    assert found["memory"]["state"] == "doubt"


@pytest.mark.usefixtures("no_torch")
def test_doctor_tells_a_slurm_that_answers_from_one_that_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho slurm 23.11.4\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert findings(capsys)["slurm"]["found"].startswith("slurm 23.11.4")
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho no route to controller >&2; exit 1\n")
    slurm = findings(capsys)["slurm"]
    assert (slurm["state"], "no route" in slurm["found"]) == ("doubt", True)


@pytest.mark.usefixtures("no_torch")
def test_doctor_reads_every_profile_and_says_where_one_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mine = tmp_path / "config" / "scalekit" / "profiles"
    for folder in (tmp_path / "profiles", mine):
        folder.mkdir(parents=True)
    (mine / "good.yaml").write_text("partition: gpu\npeak_flops: 989e12\n")
    (tmp_path / "profiles" / "bad.yaml").write_text("partition: gpu\npeak_flop: 989e12\n")
    found = findings(capsys)
    assert found["profile good"]["state"] == "ok"
    bad = found["profile bad"]
    assert bad["state"] == "doubt"
    assert "bad.yaml:2:1: " in bad["found"]
    assert bad["todo"] == "did you mean 'peak_flops'?"


@pytest.mark.usefixtures("no_torch")
def test_doctor_leaves_nothing_in_the_folder_it_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["doctor"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_torch")
def test_doctor_prints_its_findings_as_csv_and_as_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["doctor", "--format", "csv"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert rows[0]["what"] == "python"
    assert run(["doctor"]) == 0
    said = capsys.readouterr()
    assert "-> reinstall torch" in said.out
    assert "in doubt" in said.err


def test_doctor_names_the_devices_of_the_real_torch(capsys: pytest.CaptureFixture[str]) -> None:
    devices = findings(capsys)["devices"]
    has_gpu = (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    )
    # A CPU build of torch beside a GPU is a doubt, and the only other answer there.
    assert ("GPU: " in devices["found"] or devices["state"] == "doubt") == has_gpu


def test_the_command_line_without_a_word_shows_the_help_and_no_empty_error(capsys):
    assert run([]) == 2
    shown = capsys.readouterr()
    assert "Usage: scalekit" in shown.out
    assert "error" not in shown.err
