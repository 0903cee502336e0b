"""The held-out loss against an independent computation, and its clustered standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scalekit import registry
from scalekit.models.base import build_seeded
from scalekit.sweep.spec import RunSpec
from scalekit.train.device import choose_device
from scalekit.train.evaluate import evaluate, summarise


def test_the_held_out_loss_is_what_a_token_at_a_time_gives(planned) -> None:
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    held = evaluate(model, corpus.val, choose_device("cpu", "float32"), bytes_per_token=4.0)
    rows = corpus.val.take(np.arange(32))
    losses = np.empty((32, 16))
    with torch.no_grad():
        for r in range(32):
            for t in range(16):
                logits = model(torch.tensor(rows[r : r + 1, : t + 1]))[0, -1].double()
                losses[r, t] = -torch.log_softmax(logits, 0)[rows[r, t + 1]].item()
    assert held.tokens == 512
    # float32 logits of order one, averaged.
    assert held.loss == pytest.approx(losses.mean(), rel=1e-5)
    spread = losses.mean(axis=1).std(ddof=1) / math.sqrt(32)
    assert held.sem == pytest.approx(spread, rel=1e-4)
    assert held.bits_per_byte == pytest.approx(losses.mean() / math.log(2) / 4, rel=1e-5)


def test_evaluating_leaves_gradients_mode_and_generator_alone(planned) -> None:
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    before = torch.get_rng_state()
    evaluate(model, corpus.val, choose_device("cpu", "float32"), None)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_tokens_of_one_row_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    row_means = rng.normal(size=400)
    held = summarise(row_means, 256, None)
    # The mean of 400 rows that differ by one: a twentieth, however long the rows are.
    assert held.sem == pytest.approx(0.05, rel=0.1)
    assert held.tokens == 400 * 256
    assert held.bits_per_byte is None


def test_a_single_row_has_no_standard_error() -> None:
    assert summarise(np.array([1.0]), 16, 1.0).sem is None
