"""The held-out loss: one fixed set of rows, its mean, its standard error, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from scalekit.datasets.base import Rows
from scalekit.models.base import LanguageModel
from scalekit.train.device import Device
from scalekit.train.team import SOLO, Team

_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class HeldOut:
    """A held-out loss.

    Attributes:
        loss: Mean nats per token.
        sem: Standard error of the mean, clustered by row: tokens of one row are not independent.
        tokens: How many tokens were predicted.
        bits_per_byte: The loss in bits per byte of text, or None where bytes are not defined.
    """

    loss: float
    sem: float | None
    tokens: int
    bits_per_byte: float | None


def evaluate(
    model: LanguageModel,
    val: Rows,
    device: Device,
    bytes_per_token: float | None,
    team: Team = SOLO,
) -> HeldOut:
    """Measure the loss on every held-out row, each process of a team on a part of them."""
    assert val.n_rows is not None
    model.eval()
    with _without_gradients(model):
        all_means, context = _row_means(model, val, device, team)
    model.train()
    return summarise(all_means, context, bytes_per_token)


@contextmanager
def _without_gradients(model: LanguageModel) -> Iterator[None]:
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


def _row_means(
    model: LanguageModel, val: Rows, device: Device, team: Team
) -> tuple[np.ndarray, int]:
    """Return the mean loss of every row (R,), and the tokens of a row."""
    assert val.n_rows is not None
    means: list[np.ndarray] = []
    at_once = 0
    start, context = 0, 0
    # All take equally many, since a model in parts is computed by all together: some at the end
    # are looked at twice, and counted once.
    n_each = -(-val.n_rows // team.size)
    mine = np.minimum(np.arange(n_each) + team.rank * n_each, val.n_rows - 1)
    while start < n_each:
        stop = min(n_each, start + max(1, at_once))
        rows = val.take(mine[start:stop])
        context = rows.shape[1] - 1
        at_once = _TOKENS_AT_ONCE // context
        tokens, targets = device.batch(rows)
        with device.autocast():
            losses = model.loss(tokens, targets, reduction="none")
        means.append(losses.double().mean(dim=1).cpu().numpy())
        start = stop
    all_means = team.gather(torch.from_numpy(np.concatenate(means))).flatten().numpy()
    return all_means[: val.n_rows], context


def summarise(row_means: np.ndarray, context: int, bytes_per_token: float | None) -> HeldOut:
    """Turn the mean losses (R,) of equally long rows into a `HeldOut`."""
    n_rows = len(row_means)
    loss = float(row_means.mean())
    sem = float(row_means.std(ddof=1) / math.sqrt(n_rows)) if n_rows > 1 else None
    bits = loss / math.log(2) / bytes_per_token if bytes_per_token else None
    return HeldOut(loss, sem, n_rows * context, bits)
