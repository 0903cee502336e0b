"""How long the login node takes: a plan of 10,000 runs, a mistake answered, the help.

Run: python benchmarks/plan.py [--repeats 5]

Each is a fresh process of the command line. The best wall time of the repeats is printed with its
CPU time: on a machine with other work the CPU time is the one to compare. Promised are two seconds
for the plan and half a second for the mistake.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """\
scalekit: 1
name: big
base:
  model: {n_layers: 2, head_dim: 16, context: 128}
  data: {source: synthetic}
  train: {batch_tokens: 1024}
isoflop:
  budgets: [2e11, 4e11, 8e11, 1.6e12]
  sizes: {d_model: [16, 32, 48, 64, 96]}
  tolerance: 5%
derive: {train.lr: 3e-3 * (N / 1e6) ** -0.25}
grid:
  train.seed: {range: [0, 24], step: 1}
  train.weight_decay: {linspace: [0, 0.4], num: 20}
"""

COMMANDS = {
    "plan of 10,000 runs": (["sweep", "big.yaml", "--dry-run"], 0),
    "a mistake in a file": (["validate", "bad.yaml"], 3),
    "help": (["--help"], 0),
}


def seconds(argv: list[str], folder: Path, expected: int) -> tuple[float, float]:
    """Run a command and return its wall and CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "scalekit", *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == expected, done.stderr.decode()
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "big.yaml").write_text(SWEEP)
        (folder / "bad.yaml").write_text(SWEEP.replace("n_layers", "n_layer"))
        for what, (argv, expected) in COMMANDS.items():
            wall, cpu = min(seconds(argv, folder, expected) for _ in range(repeats))
            print(f"{what:22} {wall:6.2f} s wall  {cpu:6.2f} s CPU")


if __name__ == "__main__":
    main()
