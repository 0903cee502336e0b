"""What `train.dtype: bfloat16` gives on this machine: speed and held-out loss beside float32.

Run: python benchmarks/dtype.py [--seeds 3] [--threads 2]

Trains the same runs in both formats, one after the other, as `scalekit sweep` does: equal shapes,
tokens, order and first weights, and rows of the table by size. The speed is that of training alone
as the record has it; the loss is compared within a seed, and its spread is over seeds. Processors
without instructions for bfloat16 emulate it, slowly.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
import tempfile
from pathlib import Path

from scalekit.cli import run

SWEEP = """\
scalekit: 1
name: dtype
base:
  model: {{mlp: swiglu, context: 256}}
  data: {{source: stdlib, val_tokens: 65536}}
  train: {{schedule: wsd, lr: 1e-3}}
  log: {{evals: 1}}
zip:
  model.d_model: [64, 128, 320]
  model.n_layers: [4, 5, 8]
  model.n_heads: [4, 4, 5]
  train.batch_tokens: [4096, 4096, 2048]
  train.steps: [200, 100, 50]
grid:
  train.dtype: [float32, bfloat16]
  train.seed: {seeds}
executor: {{kind: local, max_parallel: 1, threads: {threads}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = SWEEP.format(seeds=list(range(args.seeds)), threads=args.threads)
        (folder / "dtype.yaml").write_text(text)
        sweep = ["sweep", str(folder / "dtype.yaml"), "--out", str(folder / "runs")]
        if run([*sweep, "--yes", "--wait", "--allow-unidentified"]):
            sys.exit("the sweep did not end well")
        run(["collect", str(folder / "runs"), "-o", str(folder / "table.csv")])
        rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    print("| params | float32 tokens/s | bfloat16 tokens/s | ratio | loss | bfloat16's minus it |")
    print("|---|---|---|---|---|---|")
    for params in sorted({float(row["params"]) for row in rows}):
        print(_line(params, [row for row in rows if float(row["params"]) == params]))


def _line(params: float, rows: list[dict[str, str]]) -> str:
    speeds, losses = (
        {
            kind: {
                row["train.seed"]: float(row[column]) for row in rows if row["train.dtype"] == kind
            }
            for kind in ("float32", "bfloat16")
        }
        for column in ("tokens_per_second", "loss")
    )
    fast, slow = (statistics.median(speeds[kind].values()) for kind in ("bfloat16", "float32"))
    gaps = [loss - losses["float32"][seed] for seed, loss in losses["bfloat16"].items()]
    spread = f" ± {statistics.stdev(gaps):.4f}" if len(gaps) > 1 else ""
    loss = statistics.mean(losses["float32"].values())
    gap = f"{statistics.mean(gaps):+.4f}{spread}"
    return f"| {params:,.0f} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.2f} | {loss:.4f} | {gap} |"


if __name__ == "__main__":
    main()
