"""`scalekit sweep`: what it shows, what it refuses with which code, and what it leaves alone."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import scalekit.commands.wait
import scalekit.launch.submit
from scalekit.cli import run
from scalekit.executors.local import Local
from scalekit.launch.submit import Outcome
from scalekit.results.record import SCHEMA, RecordWriter
from scalekit.results.states import RunState
from scalekit.results.store import SweepFolder
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep

GOOD = """\
scalekit: 1
name: demo
base:
  model: {n_layers: 2, head_dim: 16, context: 128}
  data: {source: synthetic}
  train: {batch_tokens: 1024}
isoflop:
  budgets: [2e11, 4e11, 8e11, 1.6e12]
  sizes: {d_model: [16, 32, 48, 64, 96]}
  tolerance: 5%
derive: {train.lr: 3e-3 * (N / 1e6) ** -0.25}
"""

RAY = """\
scalekit: 1
name: ray
base:
  model: {n_layers: 2, head_dim: 16}
  data: {source: synthetic}
  train: {tokens_per_param: 20, batch_tokens: 1024}
grid: {model.d_model: [32, 48, 64, 96]}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "ray.yaml").write_text(RAY)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes, to see that nothing moved."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what is shown ------------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(here)
    assert run(["sweep", "a.yaml", "-n"]) == 0
    out = capsys.readouterr().out
    assert "demo: 20 runs, 1.5e13 FLOPs (exact)" in out
    assert "tokens per parameter" in out
    assert re.search(r"estimate: \S+ with \d+ at a time .* assumed", out)
    assert out.count("\n") < 40  # of 20 runs some are left out, and it is said how to see them
    assert "... 11 more; --format csv or json lists all" in out
    assert "note: every run has seed 0" in out
    assert "runs/demo: 20 to start, executor local" in out
    assert tree(here) == before


def test_json_is_one_value_with_every_run_and_finding(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "a.yaml", "-n", "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.sweep/1"
    assert len(value["runs"]) == value["n_runs"] == 20
    assert value["start"] == [r["run"] for r in value["runs"]]
    assert value["flops"] == pytest.approx(sum(r["flops"] for r in value["runs"]))
    assert [b["flops"] for b in value["budgets"]] == [2e11, 4e11, 8e11, 1.6e12]
    assert {c["level"] for c in value["checks"]} == {"note"}
    assert value["estimate"]["device_seconds"] > 0
    assert (here / "runs").exists() is False


def test_csv_lists_every_run_with_its_swept_settings(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GOOD + "grid: {train.weight_decay: [0.0, 0.1]}\n"
    (here / "a.yaml").write_text(text)
    assert run(["sweep", "a.yaml", "-n", "--format", "csv"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert len(rows) == 40
    assert {row["train.weight_decay"] for row in rows} == {"0.0", "0.1"}
    assert len({row["run"] for row in rows}) == 40


def test_swept_settings_that_are_resolved_in_others_are_told_by_those(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RAY.replace("tokens_per_param: 20, ", "")
    text += "  train.warmup_tokens: [2048, 4096]\n  train.tokens_per_param: [200, 400]\n"
    text = text.replace("{model.d_model: [32, 48, 64, 96]}", "\n  model.ffn_mult: [2, 4]")
    (here / "a.yaml").write_text(text)
    one_width = ["-s", "base.model.d_model=32"]
    assert run(["sweep", "a.yaml", "-n", *one_width, "--format", "csv"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert len(rows) == 8
    assert {row["model.d_ff"] for row in rows} == {"64", "128"}
    spans = {round(float(r["train.warmup_frac"]) * float(r["tokens"])) for r in rows}
    assert spans == {2048, 4096}
    assert {key for key in rows[0] if rows[0][key] == ""} == {"budget"}
    assert run(["sweep", "a.yaml", "-n", *one_width]) == 0
    (header,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("run  ")]
    assert {"d_ff", "warmup_frac"} <= set(header.split())
    assert len(set(header.split())) == len(header.split())


def test_set_changes_the_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", "a.yaml", "-n", "-s", "isoflop.budgets=[8e11]"]) == 0
    out = capsys.readouterr().out
    assert "demo: 5 runs" in out
    assert "1 budget, a frontier" in out


def test_dropped_rows_stand_with_their_reason_and_the_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (here / "a.yaml").open("a") as file:
        file.write("where: [{keep: D / N <= 100, because: trained too long}]\n")
    assert run(["sweep", "a.yaml", "-n"]) == 0
    out = capsys.readouterr().out
    count = re.search(r"not run: (\d+) rows\n  (\d+) x trained too long; the first: budget", out)
    assert count, out
    assert count.group(1) == count.group(2)
    assert f"demo: {20 - int(count.group(1))} runs" in out


def test_explain_says_where_every_setting_came_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "a.yaml", "-n", "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)["runs"][6]
    argv = ["sweep", "a.yaml", "--explain", first["run"][:6], "-s", "train.seed=3"]
    assert run(["sweep", "a.yaml", "--explain", first["run"][:6], "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["run"] == first["run"]
    settings = {row["key"]: (row["value"], row["origin"]) for row in value["settings"]}
    assert settings["budget"] == (first["budget"], "swept, a.yaml:8:19")
    assert settings["model.d_model"][0] == first["d_model"]
    assert settings["model.d_model"][1].startswith("swept, a.yaml:9:")
    assert settings["model.n_layers"] == (2, "base, a.yaml:4:21")
    assert settings["train.lr"][1].startswith("derived, 3e-3 * (N / 1e6) ** -0.25 (a.yaml:11:")
    assert settings["train.beta1"] == (0.9, "default")
    assert settings["model.n_heads"][1] == "follows from the other settings"
    assert settings["train.steps"] == (first["steps"], "follows from the other settings")
    # Another seed is another id.
    assert run(argv) == 2
    assert "choose from" in capsys.readouterr().err


def loaded(argv: list[str], folder: Path) -> tuple[set[str], str]:
    """The heavy packages that a command left in a fresh process's `sys.modules`; and its output."""
    code = (
        "import sys; from scalekit.cli import run; code = run(sys.argv[1:])\n"
        "heavy = ('torch', 'pandas', 'scipy', 'matplotlib', 'numpy')\n"
        "print('LOADED', *[m for m in heavy if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=folder, capture_output=True, text=True, check=True
    )
    out, _, last = done.stdout.rstrip().rpartition("\n")
    words = last.split()
    assert words[0] == "LOADED"
    return set(words[1:]), out


@pytest.mark.parametrize("source", ["synthetic", "stdlib"])
def test_a_dry_run_loads_nothing_heavy(here: Path, source: str) -> None:
    (here / "a.yaml").write_text(GOOD.replace("synthetic", f"{source}, max_epochs: 1e3"))
    heavy, out = loaded(["sweep", "a.yaml", "-n"], here)
    assert heavy == set()
    assert "demo: 20 runs" in out


def test_ten_thousand_runs_are_planned_and_printed_without_anything_heavy(here: Path) -> None:
    # That this takes under two seconds is measured by benchmarks/plan.py.
    (here / "big.yaml").write_text(
        GOOD.replace("name: demo", "name: big").replace("train: {", "train: {schedule: wsd, ")
        + "grid: {train.seed: {range: [0, 24], step: 1}, train.weight_decay: "
        "{linspace: [0, 0.4], num: 20}}\n"
    )
    heavy, out = loaded(["sweep", "big.yaml", "-n"], here)
    assert heavy == set()
    assert "big: 10,000 runs" in out
    assert "9991 more; --format csv or json lists all" in out.replace(",", "")


@pytest.mark.parametrize("argv", [["size", "--d-model", "64", "--n-layers", "2"], ["init", "x"]])
def test_the_small_commands_load_nothing_heavy(here: Path, argv: list[str]) -> None:
    assert loaded(argv, here)[0] == set()


# --- what is refused ----------------------------------------------------------------------------


def replaced(before: str, after: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert before in text
        return text.replace(before, after)

    return change


@pytest.mark.parametrize(
    ("change", "position", "words"),
    [
        (replaced("n_layers: 2", "n_layer: 2"), "4:11", "did you mean 'n_layers'?"),
        (replaced("name: demo", "nmae: demo"), "2:1", "did you mean 'name'?"),
        (replaced("context: 128", "context: many"), "4:47", "'many'"),
        (replaced("n_layers: 2", "n_layers: 2.5"), "4:21", "'2.5'"),
        (replaced("head_dim: 16", "head_dim: 20"), "9:21", "is not a multiple of"),
        (replaced("[2e11, 4e11, 8e11, 1.6e12]", "[]"), "8:12", "budgets"),
        (replaced("tolerance: 5%", "tolerance: 0.0001%"), "1:1", "no run is left of 20"),
        (
            replaced("source: synthetic", "source: stdlib"),
            "8:",
            "data.max_epochs allows 1",
        ),
        (replaced("source: synthetic", "source: sintetic"), "5:18", "did you mean 'synthetic'?"),
        (replaced("scalekit: 1", "scalekit: 1\nexecutor: {kind: slrum}"), "2:18", "slrum"),
        (replaced("3e-3 *", "3e-3 * width *"), "11:27", "width"),
    ],
    ids=[
        "unknown key",
        "unknown section",
        "wrong type",
        "not whole",
        "indivisible heads",
        "no budgets",
        "empty sweep",
        "dataset too small",
        "unknown dataset",
        "unknown executor",
        "unknown name",
    ],
)
@pytest.mark.parametrize("how", ["-n", "-y"])
def test_a_bad_sweep_is_refused_where_it_is_wrong_and_nothing_is_touched(  # noqa: PLR0917
    here: Path,
    change: Callable[[str], str],
    position: str,
    words: str,
    how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "a.yaml").write_text(change(GOOD))
    before = tree(here)
    assert run(["sweep", "a.yaml", how]) == 3
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert f"a.yaml:{position}" in said.err
    assert words in said.err
    assert "^" in said.err
    assert "Traceback" not in said.err
    assert tree(here) == before


def test_a_file_that_is_not_there_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "b.yaml", "-n"]) == 3
    assert "b.yaml:1:1: cannot be read, No such file or directory" in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["a.yaml", "ray.yaml"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-e", "lokal"], "executor 'lokal': unknown; did you mean 'local'?"),
        (["--retry", "faild"], "--retry 'faild': unknown; did you mean 'failed'?"),
        (["--budget", "plenty"], "neither FLOPs, a time, money nor energy"),
        (["--budget", "fiveUSD"], "not an amount of USD"),
        (["--max-parallel", "0"], "--max-parallel"),
        (["--format", "yaml"], "--format"),
        (["--dryrun"], "--dryrun"),
        (["-s", "train.seed"], "train.seed"),
    ],
)
def test_a_wrong_option_is_usage_and_named(
    here: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(here)
    assert run(["sweep", "a.yaml", "-n", *options]) == 2
    assert words in capsys.readouterr().err
    assert tree(here) == before


# A file in the folder's way, and a file system that refuses: permission bits mean nothing to root,
# for whom access(2) says yes everywhere, so that only mkdir knows of the second.
@pytest.mark.parametrize(
    ("out", "how"),
    [
        ("a.yaml", "-n"),
        ("a.yaml", "-y"),
        ("a.yaml/x", "-n"),
        ("a.yaml/x", "-y"),
        ("/proc/no/such", "-y"),
    ],
)
def test_a_folder_that_cannot_be_written_is_system_trouble(
    here: Path, out: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(here)
    assert run(["sweep", "a.yaml", how, "--out", out]) == 7
    said = capsys.readouterr().err
    assert out in said
    assert "choose another folder with --out" in said
    assert tree(here) == before


def test_a_folder_of_another_sweep_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = here / "runs" / "demo"
    other.mkdir(parents=True)
    (other / "sweep.yaml").write_text("scalekit: 1\nname: other\n")
    (other / "plan.jsonl").write_text(json.dumps({"id": "0123456789"}) + "\n")
    before = tree(here)
    assert run(["sweep", "a.yaml", "-n"]) == 3
    assert "holds the sweep 'other', not 'demo'" in capsys.readouterr().err
    assert tree(here) == before


@pytest.mark.parametrize(("limit", "said"), [("1e12", "1.5e13 FLOPs"), ("10s", "of device time")])
def test_what_costs_more_than_the_budget_is_refused(
    here: Path, limit: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(here)
    assert run(["sweep", "a.yaml", "-y", "--budget", limit]) == 3
    err = capsys.readouterr().err
    assert f"--budget {limit}: the runs to start cost" in err
    assert said in err
    assert tree(here) == before


SITE = "profile: {peak_flops: 1e9, mfu: 0.5, price_per_gpu_hour: 2, gpu_watts: 400}\n"


@pytest.mark.usefixtures("here")
def test_a_budget_may_be_money_or_energy_where_the_profile_knows_them(capsys) -> None:
    Path("gpu.yaml").write_text(GOOD + "resources: [{gpus: 1}]\n" + SITE)
    assert run(["sweep", "gpu.yaml", "-n"]) == 0
    out = capsys.readouterr().out
    found = re.search(r"cost: ([\d.]+) GPU-hours, ([\d.]+) USD, ([\d.]+) kWh", out)
    assert found is not None, out
    _, dollars, kwh = map(float, found.groups())
    for amount, unit in [(dollars, "USD"), (kwh, "kWh")]:
        assert run(["sweep", "gpu.yaml", "-n", "--budget", f"{1.01 * amount}{unit}"]) == 0
        assert run(["sweep", "gpu.yaml", "-n", "--budget", f"{0.99 * amount}{unit}"]) == 3
        assert re.search(rf"the runs to start cost [\d.]+ {unit}; drop", capsys.readouterr().err)
    assert run(["sweep", "a.yaml", "-n", "--budget", "5USD"]) == 3
    assert "runs on cores have neither price nor power" in capsys.readouterr().err
    Path("gpu.yaml").write_text(GOOD + "resources: [{gpus: 1}]\nprofile: {peak_flops: 1e9}\n")
    assert run(["sweep", "gpu.yaml", "-n", "--budget", "5USD"]) == 3
    assert "give price_per_gpu_hour, gpu_watts" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["1.6e13", "16T", "1000h"])
@pytest.mark.usefixtures("here")
def test_what_costs_less_than_the_budget_passes(limit: str) -> None:
    assert run(["sweep", "a.yaml", "-n", "--budget", limit]) == 0


def test_an_unknown_time_cannot_pass_a_limit_of_time(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (here / "a.yaml").open("a") as file:
        file.write("resources: [{gpus: 1}]\n")
    assert run(["sweep", "a.yaml", "-n", "--budget", "30h"]) == 3
    assert "give peak_flops in the profile" in capsys.readouterr().err


def test_a_single_ray_is_shown_and_refused_unless_allowed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "ray.yaml", "-n"]) == 3
    said = capsys.readouterr()
    assert "ray: 4 runs" in said.out
    assert "refusal: every run has D = 20 N, one ray" in said.out
    assert "ray.yaml: every run has D = 20 N" in said.err
    assert said.err.strip().endswith("or add --allow-unidentified")
    assert run(["sweep", "ray.yaml", "-n", "--allow-unidentified"]) == 0
    assert not (here / "runs").exists()


def test_off_a_terminal_nothing_starts_without_yes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(here)
    assert run(["sweep", "a.yaml"]) == 2
    assert "start 20 runs: nobody to ask, this is no terminal; add -y" in capsys.readouterr().err
    assert tree(here) == before


# --- what is started ----------------------------------------------------------------------------


class Submitted:
    """A stand-in for `launch.submit` that notes what it was given and ends every run alike."""

    def __init__(self, status: str = "done", codes: Mapping[str, int] | None = None) -> None:
        self.status, self.codes = status, codes or {}
        self.calls: list[dict[str, Any]] = []

    def __call__(self, expansion: Any, folder: Any, executor: Any, **options: Any) -> Outcome:
        self.calls.append({"folder": folder, "executor": executor, **options})
        states = {spec.id: RunState(self.status) for spec in expansion.runs}
        self.estimates = [spec.plan["estimate"] for spec in expansion.runs]
        return Outcome(tuple(states), states, self.codes)


@pytest.mark.parametrize(
    ("status", "code"), [("done", 0), ("diverged", 4), ("failed", 4), ("stopped", 5)]
)
def test_the_exit_code_says_how_the_runs_ended(
    here: Path,
    status: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    submitted = Submitted(status)
    monkeypatch.setattr(scalekit.launch.submit, "submit", submitted)
    assert run(["sweep", "a.yaml", "-y", "--wait"]) == code
    assert f"runs/demo: 20 {status}" in capsys.readouterr().err
    assert len(submitted.calls) == 1


def test_waiting_for_a_queue_leaves_the_plan_alone_on_stdout(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scalekit.launch.submit, "submit", Submitted())
    monkeypatch.setattr(Local, "in_foreground", False)
    monkeypatch.setattr(scalekit.commands.wait, "wait", lambda _: sys.stdout.writelines("20 done"))
    assert run(["sweep", "a.yaml", "-y", "--wait", "--format", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["n_runs"] == 20
    assert "20 done" in said.err


def test_options_reach_the_executor_and_the_launch(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Submitted()
    monkeypatch.setattr(scalekit.launch.submit, "submit", submitted)
    argv = ["sweep", "a.yaml", "-y", "--max-parallel", "3", "--retry", "failed,diverged"]
    assert run([*argv, "--force", "--out", "elsewhere"]) == 0
    (call,) = submitted.calls
    assert call["folder"].root == Path("elsewhere")
    assert call["executor"].max_parallel == 3
    assert call["kind"] == "local"
    assert call["retry"] == ["failed", "diverged"]
    assert call["force"] is True
    # Longest first needs to know how long.
    assert all(seconds > 0 for seconds in submitted.estimates)


def test_an_interrupt_says_that_the_same_command_continues(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(scalekit.launch.submit, "submit", interrupted)
    assert run(["sweep", "a.yaml", "-y"]) == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 1), ("n\n", 130, 0)])
def test_on_a_terminal_it_asks(
    here: Path, answer: str, code: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Submitted()
    monkeypatch.setattr(scalekit.launch.submit, "submit", submitted)
    terminal = StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert run(["sweep", "a.yaml"]) == code
    assert len(submitted.calls) == calls


def test_runs_that_may_not_fit_the_memory_are_warned_of(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scalekit.commands._limits._machine_gb", lambda: 1e-3)
    assert run(["sweep", "a.yaml", "-n"]) == 0
    assert "warning: " in (out := capsys.readouterr().out)
    assert "GB of memory, this machine has 0.001" in out
    # Ten runs in three stacks of up to four are no twelve.
    stacks = RAY.split("grid:", maxsplit=1)[0] + "grid: {train.seed: {range: [0, 9], step: 1}}\n"
    (here / "b.yaml").write_text(stacks + "resources: [{stack: 4}]\n")
    width, many = ["-s", "base.model.d_model=32"], ["--max-parallel", "8"]
    assert run(["sweep", "b.yaml", "-n", *width, *many]) == 0
    assert "warning: 10 runs at a time may need" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)], ids=["nothing", "a folder"])
def test_a_logger_that_this_machine_lacks_is_told_before_runs_go_on_without_it(
    found: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of the package's name is what it leaves where it ran."""
    monkeypatch.setattr("scalekit.commands._limits.find_spec", lambda name: found)
    assert run(["sweep", "a.yaml", "-n", "-s", "log.live=wandb"]) == 0
    out = capsys.readouterr().out
    assert "log.live wandb: its package is not installed here" in out
    assert "pip install 'scalekit-laws[wandb]'" in out


TINY = """\
scalekit: 1
name: tiny
base:
  model: {n_layers: 1, d_model: 16, head_dim: 8, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {batch_tokens: 128, lr: 1e-2, steps: 12}
  log: {evals: 2}
grid: {train.seed: [0, 1]}
"""


def finish_first(here: Path, n: int = 1, **spent: float) -> None:
    """Let the first runs of tiny.yaml have ended."""
    for done in expand(load_sweep(here / "tiny.yaml")).runs[:n]:
        with RecordWriter(SweepFolder(here / "runs" / "tiny").record(done.id)) as record:
            record.write("run", schema=SCHEMA, id=done.id, config=done.config, plan=done.plan)
            record.write("end", status="done", **spent)


def test_an_estimate_says_whether_it_is_of_the_whole_sweep_or_of_what_is_left(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "tiny.yaml").write_text(TINY)
    said = []
    for n in range(3):
        finish_first(here, n, wall_s=4.0, startup_s=0.0, device_s=4.0)
        assert run(["sweep", "tiny.yaml", "-n", "--max-parallel", "2"]) == 0
        said += [s for s in capfd.readouterr().out.splitlines() if s.startswith("estimate")]
    assert said[0].startswith("estimate: ")
    assert said[1].startswith("estimate of what is left to start: 4s with 1 at a time (4s of")
    # Of a sweep that is done, what the whole of it would take again.
    assert said[2].startswith("estimate: 4s with 2 at a time (8s of")


def test_the_time_that_finished_runs_took_counts_their_start(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "tiny.yaml").write_text(TINY)
    finish_first(here, wall_s=1.0, startup_s=3.0, device_s=4.0)
    assert run(["sweep", "tiny.yaml", "-n", "--format", "json"]) == 0
    estimate = json.loads(capfd.readouterr().out)["estimate"]
    # The two differ by their seed alone, so the other will take as long.
    assert estimate["device_seconds"] == pytest.approx(4.0)


def test_runs_that_share_a_gpu_took_their_share_of_it(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shared = "resources: [{gpus: 1, pack: 4}]\nprofile: {peak_flops: 1e12}\n"
    (here / "tiny.yaml").write_text(TINY + shared)
    finish_first(here, wall_s=7.0, startup_s=1.0, device_s=8.0)
    assert run(["sweep", "tiny.yaml", "-n", "--format", "json"]) == 0
    estimate = json.loads(capfd.readouterr().out)["estimate"]
    assert estimate["device_seconds"] == pytest.approx(2.0)
    assert estimate["cost"]["gpu_hours"] == pytest.approx(2.0 / 3600)


@pytest.mark.slow  # four processes import torch
def test_a_sweep_trains_is_idempotent_and_grows(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "tiny.yaml").write_text(TINY)
    assert run(["sweep", "tiny.yaml", "-y"]) == 0
    assert "runs/tiny: 2 done" in capfd.readouterr().err
    before = tree(here / "runs" / "tiny" / "runs")
    assert len(before) == 2
    # Again: nothing to start, so nothing is asked and no record changes.
    assert run(["sweep", "tiny.yaml"]) == 0
    out = capfd.readouterr().out
    assert "runs/tiny: 0 to start, 2 finished" in out
    assert tree(here / "runs" / "tiny" / "runs") == before
    # A wider sweep starts the new runs only, and its time is measured by now.
    (here / "tiny.yaml").write_text(TINY.replace("[0, 1]", "[0, 1, 2]"))
    assert run(["sweep", "tiny.yaml", "-y", "-e", "inline"]) == 0
    out = capfd.readouterr().out
    assert "measured on 2 finished runs of this sweep" in out
    after = tree(here / "runs" / "tiny" / "runs")
    assert len(after) == 3
    assert all(after[name] == text for name, text in before.items())
