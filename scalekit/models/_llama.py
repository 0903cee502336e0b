"""Weights of our decoder under the names and in the order of Hugging Face's Llama and Qwen3.

Both are pre-norm decoders with RMSNorm, rotary positions and a gated MLP, as ours is. They differ
from ours in which entries of a head turn together: entry i with i + d/2, ours 2i with 2i + 1; so
the rows of queries and keys change places, and no logit does. Qwen3 is Llama with a norm on queries
and keys. Legend: D d_model, H heads, d head_dim, F d_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scalekit.errors import InputError
from scalekit.models._parametrization import rules_for
from scalekit.models.base import Layout

_ACTIVATIONS = {"swiglu": "silu", "relu2": "relu"}
"""What stands before the gate. The square of relu(x) is relu(x) x, so there both maps are one."""


def check_exportable(model: Mapping[str, Any]) -> None:
    """Refuse a resolved model config that neither Llama nor Qwen3 can say.

    Raises:
        InputError: The MLP is none that their gated one can compute.
    """
    if model["mlp"] not in _ACTIVATIONS:
        raise InputError(
            f"model.mlp: {model['mlp']!r} has no place in Llama's layout, whose MLP multiplies an "
            f"activation by a linear map; train with {' or '.join(_ACTIVATIONS)} to export"
        )


def llama_layout(
    model: Mapping[str, Any], state: Mapping[str, Tensor], *, norm_eps: float
) -> Layout:
    """Lay the state of a `gpt` out as Llama, or with a norm on queries and keys as Qwen3.

    A parametrization's factors go into the weights behind which they stand: that of the logits into
    the head, which is then written out where it was tied, and that of the branches into the
    matrices by which attention and MLP write to the stream.

    Args:
        model: The resolved model config.
        state: Its state dict.
        norm_eps: The epsilon of its norms.

    Raises:
        InputError: The architecture has no place there.
    """
    check_exportable(model)
    rules = rules_for(model)
    factor = rules.logits
    tied = model["tied"] and factor == 1.0
    tensors = {"model.embed_tokens.weight": state["embedding"], "model.norm.weight": state["gain"]}
    for layer in range(model["n_layers"]):
        tensors |= _layer(model, state, layer, rules.branch)
    if not tied:
        head = state["embedding"] if model["tied"] else state["head"]
        tensors["lm_head.weight"] = head * factor
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    return Layout(_config(model, norm_eps, tied=tied), whole)


def _layer(
    model: Mapping[str, Any], state: Mapping[str, Tensor], layer: int, branch: float
) -> dict[str, Tensor]:
    ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
    d, n_heads, n_kv_heads = model["head_dim"], model["n_heads"], model["n_kv_heads"]
    sizes = [n * d for n in (n_heads, n_kv_heads, n_kv_heads)]
    q, k, v = state[f"{ours}attention.qkv"].split(sizes)  # (H d, D)
    up = state[f"{ours}mlp.up"]
    gate, up = up.chunk(2) if model["mlp"] == "swiglu" else (up, up)  # (F, D)
    named = {
        "input_layernorm": state[f"{ours}attention_gain"],
        "self_attn.q_proj": halves(q, d),
        "self_attn.k_proj": halves(k, d),
        "self_attn.v_proj": v,
        "self_attn.o_proj": state[f"{ours}attention.out"] * branch,
        "post_attention_layernorm": state[f"{ours}mlp_gain"],
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": state[f"{ours}mlp.down"] * branch,
    }
    if model["qk_norm"]:
        named["self_attn.q_norm"] = halves(state[f"{ours}attention.q_gain"], d)
        named["self_attn.k_norm"] = halves(state[f"{ours}attention.k_gain"], d)
    return {f"{theirs}{name}.weight": tensor for name, tensor in named.items()}


def halves(x: Tensor, head_dim: int) -> Tensor:
    """Put the even entries of each head's rows before the odd ones: (H d, ...) to (H d, ...).

    >>> import torch
    >>> halves(torch.arange(8), 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    assert x.shape[0] % head_dim == 0
    pairs = x.unflatten(0, (-1, head_dim // 2, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def _config(model: Mapping[str, Any], norm_eps: float, *, tied: bool) -> dict[str, Any]:
    name, kind = "Llama", "llama"
    if model["qk_norm"]:
        name, kind = "Qwen3", "qwen3"
    elif model["d_model"] % model["n_heads"]:
        # The same computation; transformers 5 refuses a Llama whose heads do not share the stream
        # out, whatever their width.
        name, kind = "Mistral", "mistral"
    return {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": kind,
        "vocab_size": model["vocab"],
        "hidden_size": model["d_model"],
        "intermediate_size": model["d_ff"],
        "num_hidden_layers": model["n_layers"],
        "num_attention_heads": model["n_heads"],
        "num_key_value_heads": model["n_kv_heads"],
        "head_dim": model["head_dim"],
        "max_position_embeddings": model["context"],
        "hidden_act": _ACTIVATIONS[model["mlp"]],
        "rms_norm_eps": norm_eps,
        "rope_theta": model["rope_theta"],
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        # Theirs have tokens for these unless told that there are none.
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
        **({"sliding_window": None} if kind == "mistral" else {}),
    }
