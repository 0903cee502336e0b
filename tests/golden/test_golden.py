"""Golden transcripts: what the commands say, whole, as someone has read it.

Written anew by `make golden`; read the difference before you commit it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from transcripts import FOLDER, check, differences, transcript

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))

STUDY = [
    "scalekit simulate --budgets 1e18,1e19,1e20,1e21 --noise 0.005 --seed 1 -o data.csv",
    "scalekit simulate --budgets 1e18,1e19 --sizes 2 --noise 0 --seed 1",
    "scalekit fit data.csv --law chinchilla --approach parametric --approach isoflop "
    "--hold-out largest-budget --predict 1e22 --bootstrap 20 --seed 1 -o fit.json",
    "scalekit predict fit.json --flops 1e22,1e24",
    "scalekit predict fit.json --params 1B --tokens 20B",
    "scalekit predict fit.json --flops 1e22 --yaml",
]

REPORT = [STUDY[0], "scalekit analyze data.csv -o report --bootstrap 0 --type svg"]

SIZE = [
    "scalekit size --d-model 768 --n-layers 12 --head-dim 64 --vocab 50257 --context 1024 "
    "--mlp gelu --tied --tokens 10B",
    "scalekit size --d-model 770 --n-layers 12 --head-dim 64",
]

BAD_FILES = {
    "keys.yaml": """\
scalekit: 1
name: bad-keys
base:
  model: {d_model: 32, n_layer: 2, head_dim: sixteen, context: 64}
  train: {batch_tokens: 1024, lr: 3e-3, steps: -1}
grid:
  train.lr: []
derive: {model.d_ff: 4 * d_modl}
where: [{keep: D / N <= , because: too long}]
resources: [{gpus: two}]
""",
    "twice.yaml": """\
scalekit: 1
name: twice
base:
  train: {lr: 3e-3, steps: 10, lr: 4e-3}
""",
    "heads.yaml": """\
scalekit: 1
name: heads
base:
  model: {d_model: 40, n_layers: 2, head_dim: 16}
  train: {steps: 10}
""",
    "nothing.yaml": """\
scalekit: 1
name: nothing-left
base:
  model: {d_model: 32, n_layers: 2, head_dim: 16}
  train: {tokens: 1M}
grid: {train.lr: [1e-3, 2e-3]}
where: [{keep: D / N > 1000, because: too short}]
""",
    "scarce.yaml": """\
scalekit: 1
name: scarce
base:
  model: {d_model: 32, n_layers: 2, head_dim: 16}
  data: {source: stdlib, unique_tokens: 1M}
  train: {tokens: 3M}
""",
}


@pytest.fixture(autouse=True)
def same_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in a folder of their own, on a machine with two cores and no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("study", STUDY),
        pytest.param("report", REPORT, marks=pytest.mark.slow),  # it draws every figure there is
    ],
)
def test_a_study_of_simulated_runs_says_what_it_said(capsys, name: str, commands) -> None:
    said = transcript(commands, capsys)
    # What is left of the gradient at the optimum is the rounding of this machine's sums.
    said = re.sub(r"scaled gradient \S+e-1[0-9]\b", "scaled gradient TINY", said)
    check(name, said, digits_may_round=True)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_plans_what_it_planned(name: str, tmp_path: Path, capsys) -> None:
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    said = transcript([f"scalekit sweep sweeps/{name}.yaml --dry-run"], capsys)
    # The text of the standard library, and with it a run's id, belongs to the running Python.
    if "source: stdlib" in (tmp_path / "sweeps" / f"{name}.yaml").read_text():
        said = re.sub(r"^[0-9a-f]{10}(?= )", "of-this-py", said, flags=re.MULTILINE)
    check(f"plan-{name}", said)


def test_sizes_are_counted_as_they_were(capsys) -> None:
    check("size", transcript(SIZE, capsys))


def test_bad_files_are_answered_as_they_were(tmp_path: Path, capsys) -> None:
    for name, text in BAD_FILES.items():
        (tmp_path / name).write_text(text)
    commands = [f"scalekit validate {name}" for name in BAD_FILES]
    commands += [f"scalekit sweep {name} --yes --out out" for name in BAD_FILES]
    check("bad-files", transcript(commands, capsys))
    assert {path.name for path in tmp_path.iterdir()} == set(BAD_FILES)


def test_no_golden_file_is_left_over() -> None:
    expected = {"study", "report", "size", "bad-files", *(f"plan-{name}" for name in SWEEPS)}
    assert {path.stem for path in FOLDER.glob("*.txt")} == expected


@pytest.mark.parametrize(
    ("found", "is_seen"),
    [
        ("alpha  0.34732  0.33 to 0.37  sandwich\n", False),
        ("alpha  0.3473   0.33 to 0.37  sandwich\n", False),
        ("alpha  0.34733  0.33 to 0.37  sandwich\n", True),
        ("alpha  0.34731  0.33 to 0.39  sandwich\n", True),
        ("alpha  -0.34731  0.33 to 0.37  sandwich\n", True),
        ("beta  0.34731  0.33 to 0.37  sandwich\n", True),
        ("alpha  0.34731  0.33 to 0.37  bca\n", True),
        ("alpha  0.34731  0.33 to 0.37  sandwich\nmore\n", True),
        ("", True),
    ],
)
def test_only_a_last_digit_that_tips_is_not_a_difference(found: str, is_seen: bool) -> None:
    golden = "alpha  0.34731  0.33 to 0.37  sandwich\n"
    assert bool(differences(golden, found, digits_may_round=True)) == is_seen
    assert differences(golden, found, digits_may_round=False)
    assert not differences(golden, golden, digits_may_round=False)


def test_digits_that_no_person_reads_may_differ_where_the_library_ends() -> None:
    golden = "1,4123456789.123456,2.1234567890123456\n"
    assert not differences(golden, "1,4123456789.123457,2.123456789012\n", digits_may_round=True)
    assert differences(golden, "1,4123456789.123456,2.12345688\n", digits_may_round=True)


def test_a_missing_file_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALEKIT_GOLDEN", raising=False)
    with pytest.raises(pytest.fail.Exception, match=r"no-such\.txt: no such file; write it with"):
        check("no-such", "")
