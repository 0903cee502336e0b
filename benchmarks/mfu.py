"""MFU and time to the first step on one device, by size and way of taking a step, from real runs.

Run: python benchmarks/mfu.py [--sizes 10M 124M] [--dtype bfloat16] [--ways eager blocks graph]

Trains a run a cell by `scalekit sweep`, one after the other, in a process each: GPT-2's and GPT-3's
shapes with SwiGLU, context 1024, a vocabulary of 50,304 on bytes (the head costs what it costs a
language model, the data is small). Everything in the table is what the run's own record says of it:
the median speed of its steps but for the first ones, the MFU of that, seconds from the start of its
process to the end of its first step, compiling included, and peak memory. `blocks` compiles the
layers, `graph` replays a recorded step, `both` records compiled ones. A cell that fails is a row
with its error. Without a GPU it runs on the CPU, which is for trying the script: take --sizes
tiny and few steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from scalekit.cli import run
from scalekit.quantities import write_count
from scalekit.results.record import RunRecord, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep

SHAPES = {
    "tiny": (64, 2, 2),
    "10M": (320, 8, 5),
    "124M": (768, 12, 12),
    "350M": (1024, 24, 16),
    "1.3B": (2048, 24, 16),
}
"""d_model, n_layers and n_heads."""

WARM_STEPS = 5
"""More than come before a recording is replayed."""

WAYS = {
    "eager": "",
    "blocks": ", compile: blocks",
    "graph": ", cuda_graph: true",
    "both": ", compile: blocks, cuda_graph: true",
}

SWEEP = """\
scalekit: 1
name: mfu
base:
  model: {{mlp: swiglu, context: 1024, vocab: 50304, tied: true}}
  data: {{source: stdlib, val_tokens: 65536}}
  train: {{schedule: constant, lr: 1e-4, batch_tokens: {batch}, steps: {steps}, dtype: {dtype}}}
  log: {{evals: 1, every: 1}}
zip:
  model.d_model: {widths}
  model.n_layers: {depths}
  model.n_heads: {heads}
resources: [{{gpus: {gpus}{way}}}]
executor: {{kind: local, max_parallel: 1}}
"""


def measure(asked: argparse.Namespace, way: str, folder: Path) -> Iterator[str]:
    """Yield a row of the table for each size."""
    widths, depths, heads = (list(x) for x in zip(*map(SHAPES.get, asked.sizes), strict=True))
    gpus = int(torch.cuda.is_available())
    text = SWEEP.format(
        batch=asked.batch_tokens, steps=asked.steps, dtype=asked.dtype, way=WAYS[way],
        widths=widths, depths=depths, heads=heads, gpus=gpus,
    )  # fmt: skip
    file = folder / f"{way}.yaml"
    file.write_text(text, encoding="utf-8")
    out = folder / way
    run(["sweep", str(file), "--out", str(out), "--yes", "--wait", "--allow-unidentified"])
    for spec in expand(load_sweep(file)).runs:
        params = f"{spec.plan['params']['non_embedding']:,}"
        record = read_record(SweepFolder(out).record(spec.id))
        yield f"| {params} | {way} | {_cells(record)} |"


def _cells(record: RunRecord) -> str:
    end = record.end or {}
    if end.get("status") != "done":
        return f"{end.get('status', 'no end')}: {end.get('error') or 'see its log'} | | | "
    # The first steps compile, choose kernels and lay out memory.
    speed = statistics.median(s["tokens_per_second"] for s in record.steps[WARM_STEPS:])
    first = record.attempts[0]["startup_s"] + record.steps[0]["wall_s"]
    known = end["mfu"] is not None
    mfu = f"{end['mfu'] * speed / end['tokens_per_second']:.1%}" if known else "unknown"
    memory = f"{end['peak_memory_bytes'] / 1e9:.1f} GB"
    return f"{write_count(speed)} | {mfu} | {first:.1f} | {memory}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="*", choices=SHAPES, default=["10M", "124M", "350M"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=["eager"])
    parser.add_argument("--batch-tokens", type=int, default=131072)
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for way in asked.ways:
            rows += measure(asked, way, Path(folder))
    print(f"\n{name}, {asked.dtype}, {asked.batch_tokens:,} tokens a step", end="")
    print(f", torch {torch.__version__}\n")
    print("| non-embedding | way | tokens/s | MFU | seconds to the end of step 1 | memory |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
