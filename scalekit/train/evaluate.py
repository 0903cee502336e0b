"""The held-out loss: one fixed set of rows, its mean, its standard error, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from scalekit.datasets.base import Corpus, Rows, Seen, Share
from scalekit.models.base import LanguageModel
from scalekit.train.device import Device
from scalekit.train.team import SOLO, Team

_TOKENS_AT_ONCE = 8192
_LOGITS_AT_ONCE = 2**27
"""At most: with a large vocabulary they would take more memory than training was planned with."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out loss.

    Attributes:
        loss: Mean nats per token.
        sem: Standard error of the mean over text of this kind (`standard_error`); runs on the same
            rows share the most of it, so that their differences are known better.
        tokens: How many tokens were predicted.
        bits_per_byte: The loss in bits per byte of text, or None where bytes are not defined.
        sources: The same of each source of a mixture, by name.
    """

    loss: float
    sem: float | None
    tokens: int
    bits_per_byte: float | None
    sources: Mapping[str, HeldOut] = field(default_factory=dict)


def evaluate_corpus(
    model: LanguageModel, vocab: int, corpus: Corpus, device: Device, team: Team = SOLO
) -> HeldOut:
    """Measure the loss on every held-out row, and of a mixture on those of each source.

    Each process of a team computes a part of the rows; all return the whole. `vocab` is the
    model's.
    """
    at_once = min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // vocab)
    means, context = _row_means(model, corpus.val, device, team, at_once)
    if corpus.shares:
        return summarise_shares(means, context, corpus.shares)
    return summarise(means, context, corpus.held_out_bytes())


def _row_means(
    model: LanguageModel, val: Rows, device: Device, team: Team, tokens_at_once: int
) -> tuple[np.ndarray, int]:
    """Return the mean loss of every row (R,), and the tokens of a row."""
    assert val.n_rows is not None
    model.eval()
    with without_gradients(model):
        found = _own_row_means(model, val, device, team, tokens_at_once)
    model.train()
    return found


@contextmanager
def without_gradients(model: LanguageModel) -> Iterator[None]:
    """Keep nothing for a backward pass.

    What a model in parts gathers for a forward pass stays gathered until a backward pass. Gathered
    here and met again by the next training step, it gave that step wrong gradients.
    """
    if not model.lies_in_parts:
        with torch.inference_mode():
            yield
        return
    with torch.no_grad():
        yield
    cast(Any, model).reshard()


def _own_row_means(
    model: LanguageModel, val: Rows, device: Device, team: Team, tokens_at_once: int
) -> tuple[np.ndarray, int]:
    assert val.n_rows is not None
    means: list[Tensor] = []
    at_once = 0
    start, context = 0, 0
    # Every process takes equally many rows, since all compute a sharded model together: some
    # rows at the end are evaluated twice, and counted once.
    n_each = -(-val.n_rows // team.size)
    mine = np.minimum(np.arange(n_each) + team.rank * n_each, val.n_rows - 1)
    while start < n_each:
        stop = min(n_each, start + max(1, at_once))
        rows = val.take(mine[start:stop])
        context = rows.shape[1] - 1
        at_once = tokens_at_once // context
        tokens, targets = device.batch(rows)
        with device.autocast():
            losses = model.loss(tokens, targets, reduction="none")
        means.append(losses.double().mean(dim=1))
        start = stop
    # Fetched once: the device goes on while the next rows are made.
    all_means = team.gather(torch.cat(means)).flatten().cpu().numpy()
    return all_means[: val.n_rows], context


def summarise(row_means: np.ndarray, context: int, bytes_per_token: float | None) -> HeldOut:
    """Turn the mean losses (R,) of equally long rows into a `HeldOut`."""
    n_rows = len(row_means)
    loss = float(row_means.mean())
    bits = loss / math.log(2) / bytes_per_token if bytes_per_token else None
    return HeldOut(loss, standard_error(row_means), n_rows * context, bits)


def standard_error(row_means: np.ndarray) -> float | None:
    """Return the standard error of the mean of rows (R,) in their order; None for a single one.

    Tokens of one row are not independent, and neither are neighbouring rows, which often come from
    one document. So covariances count up to root R rows apart, with weights that fall linearly
    (Newey and West 1987, equation 5), and what that gives is divided by what it would give on
    average for independent rows of variance one: for those it has no bias.
    """
    n = len(row_means)
    if n < 2:
        return None
    lags = np.arange(1, math.isqrt(n) + 1)
    weights = 2 * (1 - lags / (len(lags) + 1))
    apart = row_means - row_means.mean()
    products = np.array([apart[lag:] @ apart[:-lag] for lag in lags])
    variance = (apart @ apart + weights @ products) / n
    independent = 1 - (1 + weights @ (1 - lags / n)) / n
    # Below zero by rounding only.
    return float(np.sqrt(np.maximum(variance, 0) / independent / n))


def summarise_shares(row_means: np.ndarray, context: int, shares: Sequence[Share]) -> HeldOut:
    """Turn the mean losses (R,) of the rows of a mixture's sources into a `HeldOut`.

    The mixture's loss is what its training tokens would have: the sources' by weight. Their rows
    are drawn apart, so its variance is theirs by the weights' squares.
    """
    ends = np.cumsum([share.n_val_rows for share in shares])
    assert ends[-1] == len(row_means)
    parts = np.split(row_means, ends[:-1])
    sources = {
        share.name: summarise(part, context, share.bytes_per_token)
        for share, part in zip(shares, parts, strict=True)
    }
    weighted = [(share.weight, sources[share.name]) for share in shares]
    loss = sum(weight * one.loss for weight, one in weighted)
    sems = [(weight, one.sem) for weight, one in weighted if one.sem is not None]
    sem = math.hypot(*(w * s for w, s in sems)) if len(sems) == len(shares) else None
    sizes = [(s.weight, s.bytes_per_token) for s in shares if s.bytes_per_token]
    # By the mixture's own bytes per token, not the mean of the sources' bits per byte.
    n_bytes = sum(w * b for w, b in sizes) if len(sizes) == len(shares) else None
    bits = loss / math.log(2) / n_bytes if n_bytes else None
    return HeldOut(loss, sem, len(row_means) * context, bits, sources)


def report_sources(held: HeldOut, seen: Seen, context: int) -> dict[str, Any]:
    """Return an evaluation's line about each source of a mixture; empty where there is one."""
    if not held.sources:
        return {}
    lines = {
        name: {
            "val_loss": one.loss,
            "val_sem": one.sem,
            "val_tokens": one.tokens,
            "val_bpb": one.bits_per_byte,
            "tokens": seen.sources[name].rows * context,
            "unique_tokens": seen.sources[name].unique * context,
            "epochs": seen.sources[name].epochs,
        }
        for name, one in held.sources.items()
    }
    return {"sources": lines}
