"""How fast a training step is: ours beside nanoGPT's and transformers', and against the peak.

Run: python benchmarks/train.py --nanogpt DIR [--sizes 0.2M 1M] [--threads 1] [--compile]

DIR is a checkout of karpathy/nanoGPT; its own model, AdamW and clipping run as its train.py runs
them. Ours is `train.loop.Learner` on the default architecture (SwiGLU, QK-norm, RoPE) with tied
embeddings like nanoGPT's. All learn from the same tokens in turn: a step to warm the caches, then
some that are timed, then the next one's turn. Speeds are medians over the turns, ratios medians of
the ratios within a turn; `CPU` is the ratio of processor time, which other work on the machine
disturbs less. FLOPs are exact (`counting.py`, the full attention square), each model by its own
shape; the peak is the fastest square float32 product met in the same run. Fetching data is left out
on all sides. The C library is asked to keep freed memory, as `scalekit train` does; it helps all.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scalekit import registry
from scalekit.counting import Shape, count_flops_per_token, count_params
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.sweep.spec import TrainSpec
from scalekit.train.device import choose_device, keep_freed_memory
from scalekit.train.loop import Learner
from scalekit.train.optimizer import build_optimizer

VOCAB, LR = 256, 1e-3
QUICKSTART_WIDTHS = (12, 16, 24, 32, 48, 64)
Step = Callable[[torch.Tensor, torch.Tensor], Any]


@dataclass(frozen=True)
class Size:
    """A shape of the table in `training.md`: context 256, bytes."""

    d_model: int
    n_layers: int
    n_heads: int
    rows: int
    context: int = 256
    mlp: str = "swiglu"
    tied: bool = True

    def shape(self, mlp: str) -> Shape:
        """Return the whole shape; SwiGLU is as wide as `sweep` makes it by default."""
        d_ff = 8 * -(-self.d_model // 3) if mlp == "swiglu" else 4 * self.d_model
        return Shape(
            self.d_model, self.n_layers, self.n_heads, self.d_model // self.n_heads, self.n_heads,
            d_ff, VOCAB, self.context, mlp, self.tied,
        )  # fmt: skip


SIZES = {
    "0.2M": Size(64, 4, 2, 16),
    "1M": Size(128, 5, 4, 16),
    "3M": Size(256, 4, 4, 8),
    "10M": Size(384, 6, 6, 8),
    "30M": Size(512, 10, 8, 4),
}


@dataclass
class Contender:
    """One way to take a step, with what it took.

    Attributes:
        name: For the table.
        step: From tokens and targets (B, T) to a step taken.
        flops: Exact training FLOPs per token.
        wall: Seconds of wall clock a step, one number a turn.
        cpu: Seconds of processor time a step, of all threads.
    """

    name: str
    step: Step
    flops: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def ours(size: Size, *, kernels: bool = True) -> Contender:
    """Build our own: exactly what `scalekit train` runs, or the same without kernels."""
    shape = size.shape(size.mlp)
    config = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    model = build_seeded(registry.find("models", "gpt"), config, seed=0)
    train = TrainSpec(lr=LR)
    device = choose_device("cpu", "float32")
    learner = Learner(model, build_optimizer(model, train), device, train.clip)
    if not kernels:
        plain = LanguageModel.gradients.__get__(model)
        model.gradients = plain  # pyright: ignore[reportAttributeAccessIssue]
    name = f"scalekit ({model.computed_by() if kernels else 'autograd'})"
    return Contender(name, lambda x, y: learner.learn(x, y, LR), flops_of(shape))


def nanogpt(folder: Path, size: Size, *, compiled: bool) -> Contender:
    """Build nanoGPT's model and take the steps of its train.py."""
    sys.path.insert(0, str(folder))
    module = importlib.import_module("model")
    with contextlib.redirect_stdout(io.StringIO()):
        config = module.GPTConfig(
            block_size=size.context, vocab_size=VOCAB, n_layer=size.n_layers, n_head=size.n_heads,
            n_embd=size.d_model, dropout=0.0, bias=False,
        )  # fmt: skip
        model = module.GPT(config)
        optimizer = model.configure_optimizers(0.1, LR, (0.9, 0.95), "cpu")
    forward = torch.compile(model) if compiled else model
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> None:
        for group in optimizer.param_groups:
            group["lr"] = LR
        _, loss = forward(tokens, targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    name = f"nanoGPT ({'compiled' if compiled else 'eager'})"
    return Contender(name, step, flops_of(size.shape("gelu")))


def llama(size: Size) -> Contender | None:
    """Build transformers' Llama of the same shape with the AdamW that its Trainer takes."""
    try:
        from transformers import (  # pyright: ignore[reportMissingImports]
            LlamaConfig,
            LlamaForCausalLM,
        )
    except ImportError:
        return None
    shape = size.shape("swiglu")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
            max_position_embeddings=shape.context, tie_word_embeddings=size.tied, use_cache=False,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), LR, (0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> None:
        logits = model(input_ids=tokens).logits
        torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contender("transformers Llama", step, flops_of(shape))


def flops_of(shape: Shape) -> float:
    return count_flops_per_token(shape)["exact"]


def matmul_peak(seconds: float = 1.0) -> float:
    """Return the fastest FLOP/s of square float32 products seen in about that time."""
    best = 0.0
    for n in (256, 512, 1024):
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        end = time.perf_counter() + seconds / 3
        while time.perf_counter() < end:
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def race(contenders: list[Contender], size: Size, seconds: float) -> None:
    """Let all learn from the same tokens in turn for about so long."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, size.rows, size.context)
    tokens, targets = torch.randint(VOCAB, shape, generator=generator)
    slowest = 0.0
    for contender in contenders:
        contender.step(tokens, targets)  # compiles, allocates
        started = time.perf_counter()
        contender.step(tokens, targets)
        slowest = max(slowest, time.perf_counter() - started)
    n_steps = max(1, min(10, round(0.2 / slowest)))
    turns, end = 0, time.perf_counter() + seconds
    while turns < 5 or time.perf_counter() < end:
        for contender in contenders:
            contender.step(tokens, targets)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(n_steps):
                contender.step(tokens, targets)
            contender.wall.append((time.perf_counter() - wall) / n_steps)
            contender.cpu.append((time.process_time() - cpu) / n_steps)
        turns += 1


def report(contenders: list[Contender], size: Size, peak: float) -> Iterator[str]:
    """Yield a line for each; ratios are to the faster of nanoGPT's two."""
    best = min(
        (c for c in contenders if c.name.startswith("nanoGPT")),
        key=lambda c: statistics.median(c.wall),
        default=contenders[0],
    )
    for c in contenders:
        speed = size.rows * size.context / statistics.median(c.wall)
        wall = statistics.median(b / t for b, t in zip(best.wall, c.wall, strict=True))
        cpu = statistics.median(b / t for b, t in zip(best.cpu, c.cpu, strict=True))
        yield (
            f"  {c.name:28} {speed:9,.0f} tokens/s   {speed * c.flops / peak:5.0%} of the peak"
            f"   {wall:5.2f} x   CPU {cpu:5.2f} x   {len(c.wall)} turns"
        )


def sizes_table(asked: argparse.Namespace) -> None:
    for name in asked.sizes:
        size = SIZES[name]
        contenders = [ours(size)]
        if asked.nanogpt:
            contenders.append(nanogpt(asked.nanogpt, size, compiled=False))
        if asked.nanogpt and asked.compile:
            contenders.append(nanogpt(asked.nanogpt, size, compiled=True))
        contenders += filter(None, [llama(size)])
        peak = matmul_peak()
        race(contenders, size, asked.seconds)
        peak = max(peak, matmul_peak())
        params = count_params(size.shape("swiglu"))["non_embedding"]
        print(
            f"{name}: {params / 1e6:.2f}M non-embedding, {size.rows} rows of {size.context}, "
            f"{torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s"
        )
        print("\n".join(report(contenders, size, peak)), flush=True)


def quickstart_table(asked: argparse.Namespace) -> None:
    """The shapes of sweeps/quickstart.yaml: two layers, 8 rows of 128."""
    for width in QUICKSTART_WIDTHS:
        size = Size(width, 2, 2, 8, 128, "relu2", tied=False)
        contenders = [ours(size), ours(size, kernels=False)]
        if asked.nanogpt:
            contenders.append(nanogpt(asked.nanogpt, size, compiled=False))
        race(contenders, size, asked.seconds)
        first = contenders[0]
        print(f"width {width}: {1e3 * statistics.median(first.wall):.2f} ms a step", end="")
        for other in contenders[1:]:
            wall = statistics.median(b / t for b, t in zip(other.wall, first.wall, strict=True))
            cpu = statistics.median(b / t for b, t in zip(other.cpu, first.cpu, strict=True))
            print(f"   {wall:.2f} x (CPU {cpu:.2f} x) as fast as {other.name}", end="")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=15, help="for the turns of one size")
    parser.add_argument("--compile", action="store_true", help="nanoGPT by torch.compile as well")
    parser.add_argument("--quickstart", action="store_true", help="the quickstart's widths only")
    asked = parser.parse_args()
    keep_freed_memory()
    print(f"{choose_device('cpu', 'float32').name}, torch {torch.__version__}")
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed; its Llama is left out")
    for threads in asked.threads:
        torch.set_num_threads(threads)
        torch.compiler.reset()
        (quickstart_table if asked.quickstart else sizes_table)(asked)


if __name__ == "__main__":
    main()
