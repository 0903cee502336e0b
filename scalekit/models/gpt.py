"""A decoder-only transformer: pre-norm RMSNorm, RoPE, SDPA, gated or plain MLP, no biases.

Legend: B rows, T tokens a row, D d_model, H query heads, G key-value heads, d head_dim, F d_ff,
V vocabulary. Counted by `counting.count_params`, to the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scalekit.counting import Shape, count_maps
from scalekit.errors import InputError
from scalekit.models._adapters import Maps
from scalekit.models._cpu import build as kernels
from scalekit.models._cpu.step import CpuStep
from scalekit.models._llama import llama_layout
from scalekit.models._parametrization import Rules, rules_for
from scalekit.models._parts import NORM_EPS, activate, rotate, rotation_angles, rotation_table
from scalekit.models._stacked import StackedGPT
from scalekit.models.base import LanguageModel, Layout, LinearMap, Model, ParamGroup


class Attention(Maps):
    """Causal self-attention with one fused input projection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        s = shape
        self.qkv = nn.Parameter(torch.empty((s.n_heads + 2 * s.n_kv_heads) * s.head_dim, s.d_model))
        self.out = nn.Parameter(torch.empty(s.d_model, s.n_heads * s.head_dim))
        self.q_gain = nn.Parameter(torch.ones(s.head_dim)) if s.qk_norm else None
        self.k_gain = nn.Parameter(torch.ones(s.head_dim)) if s.qk_norm else None

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Mix tokens: (B, T, D) to (B, T, D)."""
        s = self.shape
        heads = self.map("qkv", x).unflatten(-1, (-1, s.head_dim))  # (B, T, H + 2G, d)
        q, k, v = heads.split((s.n_heads, s.n_kv_heads, s.n_kv_heads), dim=2)
        if self.q_gain is not None and self.k_gain is not None:
            q = F.rms_norm(q, (s.head_dim,), self.q_gain.type_as(q), NORM_EPS)
            k = F.rms_norm(k, (s.head_dim,), self.k_gain.type_as(k), NORM_EPS)
        q, k = rotate(q, table), rotate(k, table)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            is_causal=True,
            enable_gqa=s.n_kv_heads != s.n_heads,
        )
        return self.map("out", mixed.transpose(1, 2).flatten(2))


class FeedForward(Maps):
    """The MLP; for swiglu gate and up are one fused projection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mlp = shape.mlp
        fan_out = shape.d_ff * (2 if shape.mlp == "swiglu" else 1)
        self.up = nn.Parameter(torch.empty(fan_out, shape.d_model))
        self.down = nn.Parameter(torch.empty(shape.d_model, shape.d_ff))

    def forward(self, x: Tensor) -> Tensor:
        """Map each token: (B, T, D) to (B, T, D)."""
        return self.map("down", activate(self.map("up", x), self.mlp))


class Block(nn.Module):
    """One layer: attention and MLP, each on a normalised copy of the residual stream."""

    def __init__(self, shape: Shape, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.attention_gain = nn.Parameter(torch.ones(shape.d_model))
        self.attention = Attention(shape)
        self.mlp_gain = nn.Parameter(torch.ones(shape.d_model))
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Add what attention and MLP say to the stream (B, T, D)."""
        width = x.shape[-1:]
        said = self.attention(F.rms_norm(x, width, self.attention_gain, NORM_EPS), table)
        x = x + self._scaled(said)
        return x + self._scaled(self.mlp(F.rms_norm(x, width, self.mlp_gain, NORM_EPS)))

    def _scaled(self, said: Tensor) -> Tensor:
        return said if self.factor == 1.0 else said * self.factor


class GPT(LanguageModel):
    """The whole model."""

    rotation: Tensor

    def __init__(self, shape: Shape, rules: Rules, rope_theta: float) -> None:
        super().__init__()
        self.shape, self.rules, self.rope_theta = shape, rules, rope_theta
        self._cpu: CpuStep | None = None
        self.embedding = nn.Parameter(torch.empty(shape.vocab, shape.d_model))
        self.blocks = nn.ModuleList(Block(shape, rules.branch) for _ in range(shape.n_layers))
        self.gain = nn.Parameter(torch.ones(shape.d_model))
        self.head = None if shape.tied else nn.Parameter(torch.empty(shape.vocab, shape.d_model))
        angles = rotation_angles(shape.context, shape.head_dim, rope_theta)
        self.register_buffer("rotation", rotation_table(angles), persistent=False)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T)."""
        assert tokens.ndim == 2
        assert tokens.shape[1] <= self.shape.context
        x = F.embedding(tokens, self.embedding)
        for block in self.blocks:
            x = block(x, self.rotation)
        x = F.rms_norm(x, x.shape[-1:], self.gain, NORM_EPS)
        if self.rules.logits != 1.0:
            x = x * self.rules.logits
        return F.linear(x, self.embedding if self.head is None else self.head)

    def loss(self, tokens: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy in nats: its mean, or with reduction `none` (B, T) of it."""
        fast = None if torch.is_grad_enabled() else self._fast()
        if fast is None:
            return super().loss(tokens, targets, reduction=reduction)
        losses = fast.losses(tokens, targets)
        return losses if reduction == "none" else losses.mean()

    def gradients(
        self, tokens: Tensor, targets: Tensor, autocast: AbstractContextManager[object]
    ) -> Tensor:
        """Set the gradients of all that learns to those of the mean loss, and return the loss."""
        with autocast:
            fast = self._fast()
        if fast is None:
            return super().gradients(tokens, targets, autocast)
        return fast.gradients(tokens, targets)

    def stacked_losses(
        self, params: Mapping[str, Tensor], tokens: Tensor, targets: Tensor
    ) -> Tensor:
        """Return the losses (R, B, T) of several models of this shape, computed as one."""
        assert tokens.ndim == 3
        assert tokens.shape[2] <= self.shape.context
        stacked = StackedGPT(self.shape, self.rules, self.rotation)
        return stacked.losses(params, tokens, targets)

    def computed_by(self) -> str:
        """Say by what means gradients are computed, for the record: results differ in rounding."""
        table = self.embedding
        if table.device.type != "cpu" or table.dtype != torch.float32 or self.lies_in_parts:
            return "torch"
        try:
            kernels.load()
        except kernels.KernelsUnavailableError as error:
            return f"torch, without kernels: {error}"
        return "kernels"

    def layers(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)

    def recomputable(self) -> Mapping[str, list[nn.Module]]:
        """Return whole blocks, or their MLPs alone."""
        blocks = list(self.blocks)
        return {"blocks": blocks, "mlps": [block.mlp for block in blocks]}  # pyright: ignore[reportReturnType]

    def groups(self) -> list[ParamGroup]:
        """Return hidden matrices, input and output matrices, and gains."""
        named, rules = dict(self.named_parameters()), self.rules
        gains = [p for p in named.values() if p.ndim == 1]
        hidden = [p for name, p in named.items() if p.ndim == 2 and name.startswith("blocks.")]
        ends = [p for name, p in named.items() if p.ndim == 2 and not name.startswith("blocks.")]
        matrices = ParamGroup(
            "hidden",
            hidden,
            rules.hidden_lr,
            decays=True,
            decay_scale=rules.hidden_decay,
            eps_scale=rules.eps,
            fused=self._fused(hidden),
        )
        return [
            matrices,
            ParamGroup("ends", ends, 1.0, decays=True, eps_scale=rules.eps),
            ParamGroup("gains", gains, 1.0, decays=False, eps_scale=rules.eps),
        ]

    def _fused(self, hidden: list[nn.Parameter]) -> list[tuple[int, ...]]:
        """Return the rows of the matrices that each hidden one is a stack of."""
        s = self.shape
        stacks: dict[nn.Parameter, tuple[int, ...]] = {}
        for block in self.blocks:
            assert isinstance(block, Block)
            heads = (s.n_heads, s.n_kv_heads, s.n_kv_heads)
            stacks[block.attention.qkv] = tuple(n * s.head_dim for n in heads)
            if s.mlp == "swiglu":
                stacks[block.mlp.up] = (s.d_ff, s.d_ff)
        return [stacks.get(p, (len(p),)) for p in hidden]

    def linear_maps(self) -> list[LinearMap]:
        """Return the maps of every layer, of which some lie in one parameter."""
        sizes = {name: rows for name, (rows, _) in count_maps(self.shape).items()}
        found = []
        for block in self.blocks:
            assert isinstance(block, Block)
            for module, matrix, names in (
                (block.attention, "qkv", ("q", "k", "v")),
                (block.attention, "out", ("out",)),
                (block.mlp, "up", ("gate", "up")),
                (block.mlp, "down", ("down",)),
            ):
                weight, first = getattr(module, matrix), 0
                for name in (name for name in names if name in sizes):
                    rows = slice(first, first + sizes[name])
                    found.append(LinearMap(name, weight, rows, module.adapters[matrix]))
                    first = rows.stop
                assert first == len(weight)
        return found

    def _fast(self) -> CpuStep | None:
        """Return the CPU's own way through this model, where there is one."""
        if torch.is_autocast_enabled("cpu") or self.computed_by() != "kernels":
            return None
        if self._cpu is None or not self._cpu.still_fits():
            angles = rotation_angles(self.shape.context, self.shape.head_dim, self.rope_theta)
            self._cpu = CpuStep(self, kernels.load(), angles, NORM_EPS)
        return self._cpu

    def __getstate__(self) -> dict[str, Any]:
        """Leave the buffers of the fast path out of copies."""
        return {**self.__dict__, "_cpu": None}

    def _initialise(self) -> None:
        """Draw hidden matrices with variance 1 / fan-in, those that write to the stream smaller."""
        for block in self.blocks:
            assert isinstance(block, Block)
            quiet = (2 * self.rules.quiet_depth) ** -0.5
            _draw(block.attention.qkv)
            _draw(block.attention.out, quiet)
            _draw(block.mlp.up)
            _draw(block.mlp.down, quiet)
        std = self.rules.head_width**-0.5
        nn.init.normal_(self.embedding, std=std if self.head is None else 1.0)
        if self.head is not None:
            nn.init.normal_(self.head, std=std)


def _draw(matrix: nn.Parameter, factor: float = 1.0) -> None:
    nn.init.normal_(matrix, std=factor * matrix.shape[1] ** -0.5)


def build(config: Mapping[str, Any]) -> GPT:
    """Build from a resolved model config.

    Raises:
        InputError: Heads that do not divide, or a head of odd size, which RoPE cannot turn.
    """
    shape = Shape(**{name: config[name] for name in Shape.__dataclass_fields__})
    if shape.n_heads % shape.n_kv_heads:
        raise InputError(
            f"model.n_kv_heads: {shape.n_kv_heads} does not divide n_heads {shape.n_heads}; "
            "choose a divisor"
        )
    if shape.head_dim % 2:
        raise InputError(
            f"model.head_dim: {shape.head_dim} is odd and rotary positions turn pairs; "
            "choose an even size"
        )
    return GPT(shape, rules_for(config), config.get("rope_theta", 10000.0))


def to_llama(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Layout:
    """Return this model in Llama's layout.

    Raises:
        InputError: These settings have no place in it.
    """
    return llama_layout(config, state, norm_eps=NORM_EPS)


MODEL = Model("gpt", build, to_llama)
