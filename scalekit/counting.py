"""Parameters and FLOPs of a decoder-only transformer, by every named convention, from its shape.

Pure arithmetic: no torch, no numpy. Training is counted as three times the forward pass and a
multiply-add as two FLOPs, as the whole field does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PARAMS_KINDS = ("total", "non_embedding_head", "non_embedding")
"""How parameters may be counted.

- `total`: every trained number, a tied embedding once (Hoffmann et al. 2022).
- `non_embedding_head`: without the input embedding, with the output head, whether or not it is
  tied (Porian et al. 2024, arXiv:2406.19146).
- `non_embedding`: without both (Kaplan et al. 2020, arXiv:2001.08361, who also leave out the
  norms: a part in d_model).
"""

FLOPS_KINDS = (
    "exact",
    "exact_no_head",
    "exact_with_embedding",
    "6N_total",
    "6N_non_embedding_head",
    "6N_non_embedding",
    "deepseek",
)
"""How training FLOPs may be counted.

- `exact`: every matrix product and the full attention square, with the output head, without the
  embedding look-up (Hoffmann et al. 2022, appendix F, less its embedding term).
- `exact_no_head`: the same without the head. Table A4 of Hoffmann et al. follows from this one.
- `exact_with_embedding`: appendix F to the letter, the look-up counted as a matrix product.
- `6N_*`: six FLOPs a token and parameter, by the count named.
- `deepseek`: non-embedding FLOPs with attention and without the softmax, which is `72 n_layers
  d_model^2 + 12 n_layers d_model context` for multi-head attention and an MLP of 4 d_model
  (DeepSeek LLM, arXiv:2401.02954, equation 2); other shapes are counted matrix by matrix.
"""

MLPS = ("swiglu", "relu2", "gelu")


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer's shape: all that counting and building need."""

    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    n_kv_heads: int
    d_ff: int
    vocab: int
    context: int
    mlp: str = "swiglu"
    tied: bool = False
    qk_norm: bool = True


def count_params(shape: Shape) -> dict[str, int]:
    """Count parameters by every name of `PARAMS_KINDS`.

    The norms' gains are counted: two a layer and one at the end, of width d_model, and with
    `qk_norm` two a layer of width head_dim. There are no biases.
    """
    s = shape
    attention = s.d_model * s.head_dim * (2 * s.n_heads + 2 * s.n_kv_heads)
    mlp = s.d_model * s.d_ff * (3 if s.mlp == "swiglu" else 2)
    norms = 2 * s.d_model + (2 * s.head_dim if s.qk_norm else 0)
    body = s.n_layers * (attention + mlp + norms) + s.d_model
    table = s.vocab * s.d_model
    return {
        "total": body + table * (1 if s.tied else 2),
        "non_embedding_head": body + table,
        "non_embedding": body,
    }


def count_flops_per_token(shape: Shape) -> dict[str, float]:
    """Count training FLOPs per token by every name of `FLOPS_KINDS`, at full context."""
    return _count_flops(shape, passes=3.0)


def count_adapter_flops_per_token(
    shape: Shape, targets: Iterable[str], rank: int
) -> dict[str, float]:
    """Count the same where nothing but adapters learns.

    The forward pass and the gradients of activations stay, the gradients of the weights do not: two
    of a weight's three products, all of attention's, which has no weights, and six FLOPs for every
    number of an adapter.

    Source: Schulman et al. 2025, "LoRA Without Regret", who count a weight and its adapter so.
    """
    learns = 6.0 * count_adapters(shape, targets, rank)
    return {kind: n + learns for kind, n in _count_flops(shape, passes=2.0).items()}


def _count_flops(s: Shape, *, passes: float) -> dict[str, float]:
    """Count with so many products of each weight: forward, its input's gradient, its own."""
    width = s.n_heads * s.head_dim
    projections = 2 * s.d_model * s.head_dim * (2 * s.n_heads + 2 * s.n_kv_heads)
    # Appendix F per sequence: 2 s^2 kh logits, 3 h s^2 softmax, 2 s^2 kh reduction.
    attention = 3.0 * s.n_layers * 4 * s.context * width
    softmax = 3.0 * s.n_layers * 3 * s.n_heads * s.context
    mlp = 2 * s.d_model * s.d_ff * (3 if s.mlp == "swiglu" else 2)
    maps = passes * s.n_layers * (projections + mlp)
    head = passes * 2 * s.d_model * s.vocab
    body = maps + attention + softmax
    params = count_params(s)
    return {
        "exact": body + head,
        "exact_no_head": body,
        "exact_with_embedding": body + 2 * head,
        **{f"6N_{kind}": 2.0 * passes * n for kind, n in params.items()},
        "deepseek": maps + attention,
    }


def count_maps(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return the linear maps of a layer by name, each as what it gives and what it takes.

    Queries, keys, values and what attention gives; gate (of a swiglu alone), up and down of the
    MLP.
    """
    s = shape
    queries, keys = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    maps = {"q": (queries, s.d_model), "k": (keys, s.d_model), "v": (keys, s.d_model)}
    maps["out"] = (s.d_model, queries)
    if s.mlp == "swiglu":
        maps["gate"] = (s.d_ff, s.d_model)
    return maps | {"up": (s.d_ff, s.d_model), "down": (s.d_model, s.d_ff)}


def count_adapters(shape: Shape, targets: Iterable[str], rank: int) -> int:
    """Count the numbers of adapters on the maps named: rank times what each takes and gives.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    maps = count_maps(shape)
    return shape.n_layers * sum(rank * sum(maps[name]) for name in targets)


def count_state(shape: Shape, targets: Iterable[str] = (), rank: int = 0) -> tuple[int, int]:
    """Count the numbers of a run's state: those that learn, and those that stay as they were.

    Where adapters learn, all weights stay, and those of the maps that have adapters are there
    twice: alone, and with the adapters added.

    Args:
        shape: The model.
        targets: The maps that have adapters; none where every weight learns.
        rank: Of each adapter.
    """
    total, targets = count_params(shape)["total"], tuple(targets)
    if not targets:
        return total, 0
    maps = count_maps(shape)
    adapted = shape.n_layers * sum(n_out * n_in for n_out, n_in in map(maps.__getitem__, targets))
    return count_adapters(shape, targets, rank), total + adapted


def memory_bytes(
    shape: Shape, *, batch_tokens: float, targets: Iterable[str] = (), rank: int = 0
) -> tuple[float, float]:
    """Estimate the memory of training: the state, and the activations of tokens held at once.

    The state is weights in float32 and, of what learns, gradients and AdamW's two moments.
    Activations are what the backward pass reads again in float32, with fused attention (no square
    of scores is kept) and without recomputation: an estimate, to tell what fits from what does not,
    not to fill a card.

    Args:
        shape: The model.
        batch_tokens: Tokens whose activations are alive together (one micro-batch).
        targets: As `count_state`.
        rank: As `count_state`.
    """
    s = shape
    learns, stays = count_state(s, targets, rank)
    state = 16.0 * learns + 4.0 * stays
    queries, keys = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    # Two norms with their inputs; q, k and v, and q and k once more before qk_norm; attention's
    # output.
    attention = 2 * queries + 2 * keys + (queries + keys if s.qk_norm else 0)
    mlp = s.d_ff * (4 if s.mlp == "swiglu" else 2)
    layer = 4 * s.d_model + attention + mlp
    # For the logits, as the backward pass begins: their log-softmax, its gradient and theirs.
    return state, 4.0 * batch_tokens * (s.n_layers * layer + 2 * s.d_model + 3 * s.vocab)
