"""Several GPTs of one shape as one batched model: every map is one batched product over them all.

No number of one model meets a number of another, so the gradient of the sum of all losses holds
each model's own. What differs from one model alone is rounding: sums are taken in another order.

Legend: R models, B rows, T tokens a row, D d_model, H query heads, G key-value heads, d head_dim,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scalekit.counting import Shape
from scalekit.models._parametrization import Rules
from scalekit.models._parts import NORM_EPS, activate, rotate

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class StackedGPT:
    """The way through models that share all of this.

    Attributes:
        shape: The shape of each.
        rules: Its parametrization.
        rotation: From `rotation_table`.
    """

    shape: Shape
    rules: Rules
    rotation: Tensor

    def losses(self, params: Params, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in nats of every token, (R, B, T).

        Args:
            params: By name in a model, the parameters of all: (R, ...) of the parameter's shape.
            tokens: Inputs (R, B, T), rows of its own for each model.
            targets: The token after each (R, B, T).
        """
        x = _embed(tokens, params["embedding"])  # (R, B, T, D)
        for i in range(self.shape.n_layers):
            x = self._block(x, params, f"blocks.{i}.")
        x = _norm(x, params["gain"])
        if self.rules.logits != 1.0:
            x = x * self.rules.logits
        logits = _linear(x, params["embedding" if self.shape.tied else "head"])  # (R, B, T, V)
        flat = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        return flat.view(targets.shape)

    def _block(self, x: Tensor, params: Params, at: str) -> Tensor:
        said = self._attention(_norm(x, params[f"{at}attention_gain"]), params, f"{at}attention.")
        x = x + self._scaled(said)
        up = _linear(_norm(x, params[f"{at}mlp_gain"]), params[f"{at}mlp.up"])
        return x + self._scaled(_linear(activate(up, self.shape.mlp), params[f"{at}mlp.down"]))

    def _scaled(self, said: Tensor) -> Tensor:
        return said if self.rules.branch == 1.0 else said * self.rules.branch

    def _attention(self, x: Tensor, params: Params, at: str) -> Tensor:
        s = self.shape
        heads = _linear(x, params[f"{at}qkv"]).unflatten(-1, (-1, s.head_dim))
        q, k, v = heads.split((s.n_heads, s.n_kv_heads, s.n_kv_heads), dim=3)  # (R, B, T, H, d)
        if s.qk_norm:
            q, k = _norm(q, params[f"{at}q_gain"]), _norm(k, params[f"{at}k_gain"])
        # Attention knows no weights: to it the models are so many rows more, (R B, T, heads, d).
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(
            rotate(q, self.rotation).transpose(1, 2),
            rotate(k, self.rotation).transpose(1, 2),
            v.transpose(1, 2),
            is_causal=True,
            enable_gqa=s.n_kv_heads != s.n_heads,
        )
        mixed = mixed.transpose(1, 2).flatten(2).unflatten(0, (len(x), -1))  # (R, B, T, H d)
        return _linear(mixed, params[f"{at}out"])


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Map (R, B, T, in) by weights (R, out, in) to (R, B, T, out)."""
    return torch.bmm(x.flatten(1, 2), weight.transpose(1, 2)).unflatten(1, x.shape[1:3])


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    """Normalise the last dimension of (R, ..., n), by gains (R, n)."""
    wide = gain.view(len(gain), *[1] * (x.ndim - 2), -1)
    return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS) * wide.type_as(x)


def _embed(tokens: Tensor, table: Tensor) -> Tensor:
    """Look tokens (R, B, T) up in tables (R, V, D)."""
    n_models, vocab, _ = table.shape
    first = torch.arange(0, n_models * vocab, vocab, device=tokens.device)
    return F.embedding(tokens + first[:, None, None], table.flatten(0, 1))
