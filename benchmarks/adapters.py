"""How fast a step of adapters is: ours beside peft's on transformers' Llama.

Run: python benchmarks/adapters.py [--sizes 1M 10M] [--threads 1 2] [--rank 8]

peft is in none of the project's groups: `pip install peft`. Both start from the same weights, as
`scalekit export` lays them out, and from the same adapters, and learn the same tokens in turn by
AdamW of the same settings; the largest relative difference of their losses over the first steps is
printed. Speeds are medians over the turns, as in `benchmarks/train.py`; the last row is our own
step of all weights.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch.nn.functional import cross_entropy
from train import LR, SIZES, VOCAB, Contender, Size, race

from scalekit import registry
from scalekit.counting import Shape, count_adapter_flops_per_token, count_flops_per_token
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.sweep.spec import TrainSpec
from scalekit.train.device import choose_device, keep_freed_memory
from scalekit.train.loop import Learner
from scalekit.train.lora import Lora
from scalekit.train.optimizer import build_optimizer

TARGETS = {
    "q, v": {"q": "q_proj", "v": "v_proj"},
    "all": {
        "q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj",
        "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
    },
}  # fmt: skip
STEPS = 20


def config_of(size: Size) -> dict[str, object]:
    """Return our settings of a size, those that Llama's layout has a place for."""
    shape = size.shape("swiglu")
    config = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    return {**config, "qk_norm": False, "rope_theta": 1e4}


def fresh(size: Size) -> LanguageModel:
    return build_seeded(registry.find("models", "gpt"), config_of(size), seed=0)


def ours(name: str, model: LanguageModel, flops: float) -> Contender:
    train = TrainSpec(lr=LR, weight_decay=0.0)
    device = choose_device("cpu", "float32")
    learner = Learner(model, build_optimizer(model, train), device, train.clip)
    return Contender(name, lambda x, y: learner.learn(x, y, LR)[0].item(), flops)


def peft_twin(size: Size, lora: Lora, targets: dict[str, str], rank: int) -> Contender:
    """Build the same model in transformers with peft's adapters, A as ours begins, B zero."""
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]
    from transformers import (  # pyright: ignore[reportMissingImports]
        LlamaConfig,
        LlamaForCausalLM,
    )

    to_llama = registry.find("models", "gpt").to_llama
    layout = to_llama(config_of(size), fresh(size).state_dict())
    base = LlamaForCausalLM(LlamaConfig(**{**layout.config, "use_cache": False}))
    base.load_state_dict(layout.tensors, strict=False)  # a tied head is the embedding
    names = list(targets.values())
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=16, target_modules=names))
    theirs = dict(model.named_parameters())
    seen: dict[str, int] = {}
    for one, a in zip(lora.maps, lora.adapters[::2], strict=True):
        layer = seen[one.name] = seen.get(one.name, -1) + 1
        wanted = f".layers.{layer}.", f".{targets[one.name]}.lora_A."
        (name,) = (n for n in theirs if all(part in n for part in wanted))
        theirs[name].data.copy_(a.detach())
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, LR, (0.9, 0.95), weight_decay=0.0, fused=True)

    def step(tokens: torch.Tensor, right: torch.Tensor) -> float:
        logits = model(input_ids=tokens).logits
        loss = cross_entropy(logits.view(-1, VOCAB), right.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return Contender("peft on Llama", step, 0.0)


def disagreement(contenders: list[Contender], size: Size) -> float:
    """Return the largest relative difference of the losses of two over the first steps."""
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for _ in range(STEPS):
        rows = torch.randint(VOCAB, (size.rows, size.context + 1), generator=generator)
        tokens, right = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        one, other = (c.step(tokens, right) for c in contenders)
        worst = max(worst, abs(one / other - 1))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["1M", "10M"])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15, help="for the turns of one size")
    asked = parser.parse_args()
    keep_freed_memory()
    print(f"{choose_device('cpu', 'float32').name}, torch {torch.__version__}, rank {asked.rank}")
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name in asked.sizes:
            for told, targets in TARGETS.items():
                compare(SIZES[name], f"{name}, {threads} threads, {told}", targets, asked)


def compare(size: Size, about: str, targets: dict[str, str], asked: argparse.Namespace) -> None:
    shape = size.shape("swiglu")
    flops = count_adapter_flops_per_token(shape, targets, asked.rank)["exact"]
    lora = Lora(fresh(size), list(targets), rank=asked.rank, alpha=16.0, seed=0)
    pair = [ours("scalekit", lora, flops), peft_twin(size, lora, targets, asked.rank)]
    apart = disagreement(pair, size)
    whole = ours("scalekit, all weights", fresh(size), count_flops_per_token(shape)["exact"])
    everyone = [*pair, whole]
    race(everyone, size, asked.seconds)
    print(f"{about}: losses of {STEPS} steps within {apart:.1e}")
    for c in everyone:
        speed = size.rows * size.context / statistics.median(c.wall)
        ratio = statistics.median(b / t for b, t in zip(pair[1].wall, c.wall, strict=True))
        print(f"  {c.name:24} {speed:9,.0f} tokens/s   {ratio:5.2f} x peft", flush=True)


if __name__ == "__main__":
    main()
