"""What submitting costs: ours, a bare sbatch, submitit's array and Hydra's launcher, side by side.

Run: python benchmarks/launch.py [--runs 10000] [--peer-runs 1000] [--hydra PYTHON]

Starts a private Slurm whose partition is down, so that jobs are taken and none runs, and submits
one grid by each way in a fresh process: wall-clock and CPU seconds of that process and those it
waited for, its largest memory, the files it left and how often it called the scheduler. Needs Slurm
(see tests/slurm/cluster.py); PYTHON is an interpreter that has hydra-submitit-launcher.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "slurm"))

from cluster import INSTALL, Cluster, free_port, missing_programs  # noqa: E402

PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "sacctmgr")

GRID = """\
scalekit: 1
name: big
base:
  model: {{n_layers: 2, head_dim: 16, context: 128}}
  data: {{source: synthetic}}
  train: {{batch_tokens: 1024, schedule: wsd}}
isoflop:
  budgets: [2e11, 4e11, 8e11, 1.6e12]
  sizes: {{d_model: [16, 32, 48, 64, 96]}}
  tolerance: 5%
grid: {{train.seed: {{range: [0, {last}], step: 1}}}}
"""
PER_SEED = 20

BARE = """
import json, subprocess, sys
from pathlib import Path
folder, n = Path(sys.argv[1]), int(sys.argv[2])
with open(folder / "manifest.jsonl", "w") as file:
    for i in range(n):
        file.write(json.dumps({"lr": 1e-3, "seed": i, "d_model": 64, "tokens": 1e6}) + "\\n")
(folder / "job.sh").write_text("#!/bin/bash\\n#SBATCH -o /dev/null\\nexec true\\n")
subprocess.run(["sbatch", f"--array=0-{n - 1}", str(folder / "job.sh")], check=True)
"""

SUBMITIT = """
import sys, submitit
folder, n = sys.argv[1], int(sys.argv[2])
executor = submitit.AutoExecutor(folder=folder + "/%j", cluster="slurm")
executor.update_parameters(timeout_min=60)
train = submitit.helpers.CommandFunction([sys.executable, "-m", "scalekit", "train", folder])
executor.map_array(train, [f"{i:010x}" for i in range(n)])
"""

HYDRA = """
import hydra
@hydra.main(version_base=None, config_path=None)
def main(config):
    pass
main()
"""


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        files: Files and links that it left.
        disk_mb: What they take on the disk.
        calls: How often it called a program of Slurm, by name.
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    files: int
    disk_mb: float
    calls: dict[str, int]


class Bench:
    """A cluster that runs nothing, and programs before Slurm's own that note each call."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        # Finished and cancelled jobs make room at once for those of the next way.
        self.cluster = Cluster(scratch / "slurm", free_port(50), settings={"MinJobAge": "2"})
        self.cluster.start()
        self.cluster.call("scontrol", "update", "partitionname=main", "state=down")
        (scratch / "bin").mkdir()
        for program in PROGRAMS:
            path = scratch / "bin" / program
            real = shutil.which(program)
            notes = f'echo {program} >> {scratch}/calls\n{real} "$@"; code=$?\n'
            path.write_text(
                f"#!/bin/bash\n{notes}echo {program} >> {scratch}/answers\nexit $code\n"
            )
            path.chmod(0o755)

    def measure(self, argv: list[str], folder: Path, *, until: str | None = None) -> Cost:
        """Run a command; where it would wait for its jobs, end it `until` a program answered."""
        for name in ("calls", "answers"):
            (self.scratch / name).unlink(missing_ok=True)
        path = f"{self.scratch / 'bin'}{os.pathsep}{self.cluster.environment['PATH']}"
        environment = {**os.environ, **self.cluster.environment, "PATH": path}
        environment["PYTHONPATH"] = str(ROOT)
        log = os.open(self.scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        started = time.perf_counter()
        pid = os.posix_spawn(
            argv[0],
            argv,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
        )
        os.close(log)
        answers = self.scratch / "answers"
        while until and not (answers.exists() and until in answers.read_text()):
            time.sleep(0.01)
        wall = time.perf_counter() - started
        if until:
            os.kill(pid, 15)
        _, status, usage = os.wait4(pid, 0)
        if until is None:
            wall = time.perf_counter() - started
            assert status == 0, (self.scratch / "log").read_text()
        return Cost(
            wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, *self._left(folder)
        )

    def _left(self, folder: Path) -> tuple[int, float, dict[str, int]]:
        files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
        disk = sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 1e6
        calls = (self.scratch / "calls").read_text().split() if files else []
        return len(files), disk, {name: calls.count(name) for name in sorted(set(calls))}

    def clear(self) -> None:
        """Empty the queue, and wait until the controller has forgotten the jobs."""
        self.cluster.clear()
        time.sleep(3.0)


def row(name: str, n_runs: int, cost: Cost) -> str:
    calls = ", ".join(f"{n} {program}" for program, n in cost.calls.items()) or "none"
    cells = (
        *(name, f"{n_runs:,}", f"{cost.wall_s:.2f}", f"{cost.cpu_s:.2f}"),
        *(f"{cost.memory_mb:.0f}", f"{cost.files:,}", f"{cost.disk_mb:.1f}", calls),
    )
    return f"| {' | '.join(cells)} |"


def ours(bench: Bench, n_runs: int, n_times: int) -> list[str]:
    """Measure the sweep command, and `status` of what it submitted; the best of some times."""
    text = GRID.format(last=n_runs // PER_SEED - 1)
    (bench.scratch / "big.yaml").write_text(text)
    costs, looks = [], []
    for i in range(n_times):
        folder = bench.scratch / f"ours-{n_runs}-{i}"
        scalekit = [sys.executable, "-m", "scalekit"]
        sweep = [
            "sweep",
            str(bench.scratch / "big.yaml"),
            "-e",
            "slurm",
            "-y",
            "--out",
            str(folder),
        ]
        costs.append(bench.measure([*scalekit, *sweep], folder))
        looks.append(bench.measure([*scalekit, "status", str(folder)], folder))
        bench.clear()
    best, look = (min(found, key=lambda cost: cost.wall_s) for found in (costs, looks))
    return [row("scalekit sweep", n_runs, best), row("scalekit status", n_runs, look)]


def script(bench: Bench, name: str, text: str, n_runs: int, n_times: int) -> str:
    """Measure a script that submits; the best of some times."""
    costs = []
    for i in range(n_times):
        folder = bench.scratch / f"{name.split(maxsplit=1)[0]}-{n_runs}-{i}"
        folder.mkdir()
        argv = [sys.executable, "-c", text, str(folder), str(n_runs)]
        costs.append(bench.measure(argv, folder))
        bench.clear()
    return row(name, n_runs, min(costs, key=lambda cost: cost.wall_s))


def hydra(bench: Bench, python: str, n_runs: int) -> str:
    """Measure Hydra's multirun until its sbatch has answered; it would wait for the jobs."""
    folder = bench.scratch / f"hydra-{n_runs}"
    folder.mkdir()
    (folder / "app.py").write_text(HYDRA)
    launcher = ["hydra/launcher=submitit_slurm", f"hydra.sweep.dir={folder}/out"]
    grid = ["+lr=1e-3", f"+seed=range({n_runs})", "+d_model=64", "+tokens=1e6"]
    argv = [python, str(folder / "app.py"), "-m", *launcher, *grid]
    cost = bench.measure(argv, folder, until="sbatch")
    bench.clear()
    return row("hydra-submitit-launcher", n_runs, cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--peer-runs", type=int, default=1_000, help="for Hydra, which is slow")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--hydra", help="an interpreter that has hydra-submitit-launcher")
    asked = parser.parse_args()
    if missing_programs(accounting=False):
        sys.exit(f"no Slurm here; install it: {INSTALL}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        try:
            print("| | runs | wall s | CPU s | memory MB | files | disk MB | calls |")
            print("|---|---|---|---|---|---|---|---|")
            for line in ours(bench, asked.runs, asked.times):
                print(line, flush=True)
            for name, text in [("bare sbatch --array", BARE), ("submitit map_array", SUBMITIT)]:
                print(script(bench, name, text, asked.runs, asked.times), flush=True)
            if asked.hydra:
                print(hydra(bench, asked.hydra, asked.peer_runs), flush=True)
        finally:
            bench.cluster.stop()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
