"""Llama's forward pass from its description alone, for folders that claim to hold one.

Written from the papers (Touvron et al. 2023, arXiv:2302.13971; Su et al. 2021, arXiv:2104.09864)
and from the meaning of `config.json`, in float64; nothing of ours and nothing of theirs is called.
Legend: B rows, T tokens, H heads, G key-value heads, d head_dim.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def logits_of(folder: Path, tokens: Tensor) -> Tensor:
    """Return logits (B, T, V) for tokens (B, T) from an exported folder."""
    config = json.loads((folder / "config.json").read_text())
    weights = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    d, H, G = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    B, T = tokens.shape
    assert config["max_position_embeddings"] >= T

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain

    angles = torch.outer(
        torch.arange(T, dtype=torch.float64),
        theta ** -(torch.arange(0, d, 2, dtype=torch.float64) / d),
    )
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))

    def turn(x: Tensor) -> Tensor:  # (B, T, heads, d), entry i with i + d/2
        left, right = x[..., : d // 2], x[..., d // 2 :]
        return x * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]

    mask = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        own = {
            k.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): v
            for k, v in weights.items()
        }
        y = norm(x, own["input_layernorm"])
        q, k, v = (
            (y @ own[f"self_attn.{name}_proj"].T).view(B, T, n, d)
            for name, n in (("q", H), ("k", G), ("v", G))
        )
        if config["model_type"] == "qwen3":
            q, k = norm(q, own["self_attn.q_norm"]), norm(k, own["self_attn.k_norm"])
        q, k = turn(q), turn(k)
        k, v = k.repeat_interleave(H // G, dim=2), v.repeat_interleave(H // G, dim=2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(d) + mask
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
        x = x + mixed.reshape(B, T, H * d) @ own["self_attn.o_proj"].T
        y = norm(x, own["post_attention_layernorm"])
        gate, up = y @ own["mlp.gate_proj"].T, y @ own["mlp.up_proj"].T
        active = {"silu": gate * torch.sigmoid(gate), "relu": gate.clamp(min=0.0)}
        x = x + (active[config["hidden_act"]] * up) @ own["mlp.down_proj"].T
    x = norm(x, weights["model.norm.weight"])
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return x @ weights[f"{head}.weight"].T
