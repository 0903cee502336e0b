"""What equal models trained together give: one batched model, processes side by side, in turn.

Run: python benchmarks/replicas.py [--device cpu] [--sizes 0.2M 1M] [--runs 2 4 8] [--seconds 5]
                                    [--cuda-graph]

Aggregate tokens per second of training steps on random tokens, each model on its own: a model
alone (`alone`: training several in turn takes no less time a token), `train.stack.Stack` of so many
(`stacked`), and so many processes that train a model each, begun at one moment and ended by the
clock (`processes`). All take steps of equal rows; the first steps, which lay out memory, are left
out. The first two go in turns, and of them the table has medians over the turns and the median of
the ratios within a turn; processes are started once, and their ratio is to the median. Data,
evaluation and checkpoints are left out on all sides, and each process has `--threads` threads, so
on a CPU the processes use more cores than the other two.

The last lines are the section `stacks` of a site's profile, by which `resources: [{stack: auto}]`
decides: paste them there if they were measured on the site's GPU with nothing beside.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from train import SIZES, VOCAB, Size

from scalekit import registry
from scalekit.counting import count_params
from scalekit.models.base import build_seeded
from scalekit.sweep.spec import TrainSpec
from scalekit.train.device import Device, choose_device, keep_freed_memory
from scalekit.train.gradients import gradients_of
from scalekit.train.loop import Learner
from scalekit.train.optimizer import build_optimizer
from scalekit.train.spread import Spread
from scalekit.train.stack import Stack
from scalekit.train.team import SOLO

WARM_STEPS = 5
"""More than come before a recording is replayed."""
LR = 1e-3


def learner(size: Size, device: Device, seed: int, *, records: bool = False) -> Learner:
    """Build a model of a size with its optimizer."""
    config = {**vars(size.shape("swiglu")), "qk_norm": True, "rope_theta": 1e4}
    model = build_seeded(registry.find("models", "gpt"), config, seed).to(device.torch)
    train = TrainSpec(lr=LR, dtype=device.dtype)
    spread = Spread(SOLO, False, "none", size.rows, size.rows, size.context, recorded=records)
    gradients = gradients_of(model, device, spread, _note)
    return Learner(model, build_optimizer(model, train), device, train.clip, gradients)


def batch(size: Size, device: Device, n_models: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw inputs and targets, both (R, B, T)."""
    rows = torch.randint(VOCAB, (n_models, size.rows, size.context + 1), device=device.torch)
    return rows[..., :-1].contiguous(), rows[..., 1:].contiguous()


def alone(size: Size, device: Device, *, records: bool) -> Callable[[], object]:
    """Return a step of one model."""
    one = learner(size, device, seed=0, records=records)
    tokens, targets = (part[0] for part in batch(size, device, 1))
    return lambda: one.learn(tokens, targets, LR)


def stacked(size: Size, device: Device, n_models: int, *, records: bool) -> Callable[[], object]:
    """Return a step of several models as one, each with a learning rate of its own."""
    learners = [learner(size, device, seed) for seed in range(n_models)]
    stack = Stack(learners, size.rows, _note, records=records)
    tokens, targets = batch(size, device, n_models)
    lrs = [LR * (1 + row / n_models) for row in range(n_models)]
    return lambda: stack.learn(tokens, targets, lrs)


def _note(rows: int) -> None:
    print(f"out of memory, {rows} rows at once")


def _timed(step: Callable[[], object], device: Device, seconds: float) -> float:
    """Return steps per second."""
    device.synchronise()
    began, n_steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        step()
        device.synchronise()  # or a GPU's queue would hold more steps than it has taken
        n_steps += 1
    return n_steps / passed


def in_turns(
    args: argparse.Namespace, device: Device, *steps: Callable[[], object]
) -> list[list[float]]:
    """Return steps per second of each kind of step, turn by turn."""
    for step in steps:
        for _ in range(WARM_STEPS):
            step()
    seconds = args.seconds / args.turns
    return [[_timed(step, device, seconds) for step in steps] for _ in range(args.turns)]


def side_by_side(args: argparse.Namespace, size: str, n_models: int) -> float:
    """Return the aggregate tokens per second of so many processes."""
    words = [sys.executable, __file__, "--worker", "--sizes", size, "--device", args.device]
    words += ["--dtype", args.dtype, "--seconds", str(args.seconds), "--threads", str(args.threads)]
    words += ["--cuda-graph"] * args.cuda_graph
    processes = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(n_models)
    ]
    pipes = [(p.stdin, p.stdout) for p in processes]
    for _, answers in pipes:
        if answers is None or answers.readline() != "warm\n":
            raise SystemExit(f"a process of {n_models} at {size} died; what it said stands above")
    for orders, _ in pipes:
        assert orders is not None
        orders.write("go\n")
        orders.flush()
    return sum(float(process.communicate()[0]) for process in processes)


def work(args: argparse.Namespace, device: Device) -> None:
    """Be one of the processes: get warm, wait for the word, train, tell the speed."""
    size = SIZES[args.sizes[0]]
    step = alone(size, device, records=args.cuda_graph)
    for _ in range(WARM_STEPS):
        step()
    device.synchronise()
    print("warm", flush=True)
    sys.stdin.readline()
    print(_timed(step, device, args.seconds) * size.rows * size.context)


def measure(args: argparse.Namespace, device: Device) -> list[tuple[float, int, float]]:
    """Print the table; return non-embedding parameters, models and speed-up of each stack."""
    print("| non-embedding | models | alone | stacked | processes | stacked | processes |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for name in args.sizes:
        size = SIZES[name]
        tokens = size.rows * size.context
        params = count_params(size.shape("swiglu"))["non_embedding"]
        for n_models in args.runs:
            records = args.cuda_graph
            one = alone(size, device, records=records)
            several = stacked(size, device, n_models, records=records)
            pairs = in_turns(args, device, one, several)
            one, many = (statistics.median(column) * tokens for column in zip(*pairs, strict=True))
            ratio = n_models * statistics.median(b / a for a, b in pairs)
            apart = side_by_side(args, name, n_models)
            print(
                f"| {name} | {n_models} | {one:,.0f} | {many * n_models:,.0f} | {apart:,.0f} "
                f"| {ratio:.2f} | {apart / one:.2f} |",
                flush=True,
            )
            found.append((params, n_models, ratio))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["0.2M", "1M"])
    parser.add_argument("--runs", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cuda-graph", action="store_true", help="all replay recorded steps")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    device = choose_device(args.device, args.dtype)
    if args.cuda_graph and device.torch.type != "cuda":
        parser.error("--cuda-graph: a CPU records nothing; leave it out")
    if args.worker:
        return work(args, device)
    print(f"{device.name}, {args.dtype}, {args.threads} thread(s), torch {torch.__version__}\n")
    found = measure(args, device)
    print("\nstacks:")
    for params, n_models, ratio in found:
        print(f"  - {{params: {params}, runs: {n_models}, speedup: {ratio:.2f}}}")
    return None


if __name__ == "__main__":
    main()
