"""The held-out loss against an independent computation, and its clustered standard error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from scalekit import registry
from scalekit.datasets.base import Seen, Share
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.sweep.spec import RunSpec
from scalekit.train.device import choose_device
from scalekit.train.evaluate import (
    evaluate_corpus,
    report_sources,
    standard_error,
    summarise,
    summarise_shares,
)

VOCAB = 64


def test_the_held_out_loss_is_what_a_token_at_a_time_gives(planned) -> None:
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    held = evaluate_corpus(model, VOCAB, corpus, choose_device("cpu", "float32"))
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
    assert held.sem == pytest.approx(standard_error(losses.mean(axis=1)), rel=1e-4)
    assert held.bits_per_byte is None, "it has no bytes"


def test_losses_are_fetched_from_the_device_once(planned, monkeypatch) -> None:
    """Each time it is asked for a number a GPU is waited for, and then idle."""
    fetched: list[int] = []
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: fetched.append(t.numel()) or plain(t))
    monkeypatch.setattr("scalekit.train.evaluate._TOKENS_AT_ONCE", 64)
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    evaluate_corpus(model, VOCAB, corpus, choose_device("cpu", "float32"))
    assert fetched == [32]


def test_logits_of_a_large_vocabulary_are_not_all_made_at_once(planned, monkeypatch) -> None:
    made: list[int] = []
    plain = LanguageModel.loss

    def loss(model: LanguageModel, tokens: torch.Tensor, *rest: Any, **more: Any) -> Any:
        made.append(tokens.numel() * VOCAB)
        return plain(model, tokens, *rest, **more)

    monkeypatch.setattr("scalekit.models.gpt.GPT.loss", loss)
    monkeypatch.setattr("scalekit.train.evaluate._LOGITS_AT_ONCE", 100 * VOCAB)
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    evaluate_corpus(model, VOCAB, corpus, choose_device("cpu", "float32"))
    assert max(made) == 6 * 16 * VOCAB


def test_evaluating_leaves_gradients_mode_and_generator_alone(planned) -> None:
    spec: RunSpec = planned()
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], seed=0)
    corpus = registry.find("datasets", "synthetic").open(spec.config["data"], 16, 0)
    before = torch.get_rng_state()
    evaluate_corpus(model, VOCAB, corpus, choose_device("cpu", "float32"))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_tokens_of_one_row_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    row_means = rng.normal(size=400)
    held = summarise(row_means, 256, None)
    # The mean of 400 rows that differ by one: a twentieth, however long the rows are. Twenty lags
    # of 400 rows know it to a fifth.
    assert held.sem == pytest.approx(0.05, rel=0.4)
    assert held.tokens == 400 * 256
    assert held.bits_per_byte is None


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_the_variance_of_independent_rows_has_no_bias(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [standard_error(rng.normal(size=n)) for _ in range(4000)]
    mean = np.mean([f**2 for f in found if f is not None])
    # With two rows a squared error scatters by 1.4 of itself: three of its 4,000th parts' root.
    assert mean == pytest.approx(1 / n, rel=0.07)


@pytest.mark.parametrize(("n", "least"), [(256, 0.80), (1024, 0.84), (4096, 0.87)])
def test_rows_of_long_documents_do_not_count_as_independent(n: int, least: float) -> None:
    rng = np.random.default_rng(n)
    inside = naive = 0
    for _ in range(400):
        # Documents of ten rows on average, whose losses differ as much as rows within them.
        document = np.cumsum(rng.random(n) < 0.1)
        rows = rng.normal(size=n)[document] + rng.normal(size=n)
        inside += abs(rows.mean()) < 1.96 * (standard_error(rows) or 0)
        naive += abs(rows.mean()) < 1.96 * rows.std(ddof=1) / math.sqrt(n)
    # Of 0.95; the reach of few rows is short. 400 repetitions know a share to 0.018.
    assert least < inside / 400 < 0.98
    assert naive / 400 < 0.6


def test_a_loss_that_is_no_number_has_no_error_that_is_one() -> None:
    assert math.isnan(standard_error(np.array([1.0, np.nan, 2.0, 3.0])) or 0)
    assert standard_error(np.full(9, 2.5)) == 0


def test_a_single_row_has_no_standard_error() -> None:
    assert summarise(np.array([1.0]), 16, 1.0).sem is None


def shares(*weights: float, n_rows: int = 200) -> list[Share]:
    return [Share(f"s{n}", w, n_rows, 4.0 - 2 * n) for n, w in enumerate(weights)]


def test_a_mixture_has_the_losses_of_its_sources_by_weight() -> None:
    rng = np.random.default_rng(0)
    web, code = rng.normal(3.0, 0.5, 200), rng.normal(1.0, 0.2, 200)
    held = summarise_shares(np.concatenate([web, code]), 16, shares(0.75, 0.25))
    alone = {"s0": summarise(web, 16, 4.0), "s1": summarise(code, 16, 2.0)}
    assert held.sources == alone
    assert held.loss == pytest.approx(0.75 * web.mean() + 0.25 * code.mean(), rel=1e-12)
    assert held.tokens == 400 * 16
    # A token of this mixture is 3.5 bytes.
    assert held.bits_per_byte == pytest.approx(held.loss / math.log(2) / 3.5, rel=1e-12)


def test_the_error_of_a_mixture_is_that_of_repeated_sampling() -> None:
    rng = np.random.default_rng(1)
    rows = [np.concatenate([rng.normal(3, 0.5, 50), rng.normal(1, 0.2, 50)]) for _ in range(2000)]
    held = [summarise_shares(r, 16, shares(0.75, 0.25, n_rows=50)) for r in rows]
    # 2,000 repetitions know a standard deviation to 1.6 %: three of those.
    assert np.mean([h.sem for h in held if h.sem]) == pytest.approx(
        np.std([h.loss for h in held], ddof=1), rel=0.05
    )


def test_a_mixture_of_one_source_is_that_source() -> None:
    rows = np.random.default_rng(2).normal(size=200)
    held = summarise_shares(rows, 16, shares(1.0))
    alone = summarise(rows, 16, 4.0)
    assert (held.loss, held.bits_per_byte) == pytest.approx((alone.loss, alone.bits_per_byte))
    assert held.sem == pytest.approx(alone.sem)


def test_bytes_that_one_source_does_not_know_the_mixture_does_not_know_either() -> None:
    parts = [*shares(0.5), Share("s1", 0.5, 200, None)]
    held = summarise_shares(np.ones(400), 16, parts)
    assert held.bits_per_byte is None
    assert held.sources["s0"].bits_per_byte is not None


def test_a_line_says_of_each_source_what_was_measured_and_what_was_seen() -> None:
    held = summarise_shares(np.arange(400.0), 16, shares(0.5, 0.5))
    seen = Seen(30, 25, 0.1, {"s0": Seen(15, 10, 1.5), "s1": Seen(15, 15, 0.5)})
    line = report_sources(held, seen, 16)["sources"]["s0"]
    assert (line["tokens"], line["unique_tokens"], line["epochs"]) == (240, 160, 1.5)
    assert line["val_loss"] == held.sources["s0"].loss
    assert report_sources(summarise(np.ones(4), 16, None), seen, 16) == {}
