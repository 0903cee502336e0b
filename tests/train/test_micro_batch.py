"""How many rows go at once: the most that memory holds, in even parts, by the plan's estimate."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile

from scalekit.counting import Shape, memory_bytes
from scalekit.errors import InputError
from scalekit.models.base import build_seeded
from scalekit.models.gpt import GPT, MODEL
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.device import choose_device
from scalekit.train.gradients import _part
from scalekit.train.micro_batch import choose_rows, memory_for
from scalekit.train.run import train_run
from scalekit.train.spread import shard_model
from scalekit.train.team import SOLO

# torch's own kernel of RMSNorm takes no float32 gain on bfloat16 heads and says so once.
not_fused = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")

SHAPE = Shape(256, 4, 4, 64, 4, 768, 1000, 128)
STATE, A_ROW = memory_bytes(SHAPE, batch_tokens=128)


def rows(memory: float | None, **how: Any) -> int:
    return choose_rows(SHAPE, 12, memory, **how)


def test_parts_are_as_large_as_memory_allows_and_even() -> None:
    assert rows(None) == 12
    assert rows(STATE + 12 * A_ROW) == 12
    # Eleven would fit, and twelve in two parts are six.
    assert rows(STATE + 11.5 * A_ROW) == 6
    assert rows(STATE + 5 * A_ROW) == 4
    # Nothing fits: a row is the least, and the run may still be smaller than its estimate.
    assert rows(0.0) == 1


def test_memory_of_a_large_vocabulary_is_what_torch_takes() -> None:
    shape = Shape(16, 1, 2, 8, 2, 32, 20_000, 64)
    model = build_seeded(MODEL, vars(shape), 0)
    tokens = torch.randint(shape.vocab, (4, 64))
    with profile(profile_memory=True) as seen:
        model.loss(tokens, tokens).backward()
    events: list[Any] = seen.profiler.kineto_results.events()  # pyright: ignore
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    highest = max(accumulate(n_bytes for _, n_bytes in changes))
    # Of the state the gradients alone are new, and they come when the logits go.
    _, activations = memory_bytes(shape, batch_tokens=tokens.numel())
    assert highest == pytest.approx(activations, rel=0.05)


def test_what_is_not_kept_and_what_lies_elsewhere_leaves_room_for_rows() -> None:
    memory = STATE + 3 * A_ROW
    order = [rows(memory), rows(memory, recompute="mlps"), rows(memory, recompute="blocks")]
    assert order == sorted(order)
    assert order[0] < order[1] < order[2]
    assert rows(STATE / 2 + 3 * A_ROW, n_shards=2) == rows(memory)


def test_the_moments_that_adapters_spare_leave_room_for_rows() -> None:
    assert rows(STATE) == 1
    assert rows(STATE, targets=("q", "v"), rank=4) > 1


def test_what_a_process_may_take_is_asked_for_and_never_what_is_free_now() -> None:
    cpu = torch.device("cpu")
    assert memory_for(cpu, {}, 2) is None
    assert memory_for(cpu, {"memory_gb": 8.0, "nodes": 2}, 2) == pytest.approx(2e9, rel=1e-12)


@given(n_rows=st.integers(1, 50), n_parts=st.integers(1, 60))
def test_parts_hold_every_row_once_and_empty_ones_weigh_nothing(n_rows: int, n_parts: int) -> None:
    seen: list[int] = []
    for i in range(n_parts):
        part, weight = _part(n_rows, i, n_parts)
        there = list(range(n_rows))[part]
        assert there, "every part is learnt from, or a sharded model would wait for ever"
        assert weight in (0, len(there))
        seen += there if weight else []
    assert seen == list(range(n_rows))


def faulty(patch: pytest.MonkeyPatch, *, fails: int) -> None:
    """Let the model run out of memory so many times."""
    plain, calls = GPT.loss, []

    def loss(self: GPT, *args: Any, **options: Any) -> torch.Tensor:
        if self.training:
            calls.append(1)
            if len(calls) <= fails:
                raise torch.OutOfMemoryError("planned")
        return plain(self, *args, **options)

    patch.setattr(GPT, "loss", loss)


AUTOGRAD = {"train": {"dtype": "bfloat16", "steps": 4}}


def train(spec: RunSpec, folder: SweepFolder, **needs: Any) -> list[dict[str, Any]]:
    """Train and return the record's lines."""
    spread = RunSpec(spec.id, spec.config, spec.plan, needs)
    assert train_run(spread, folder, device="cpu") == "done"
    return [json.loads(line) for line in folder.record(spec.id).read_text().splitlines()]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["t"] == "step"]


@not_fused
def test_a_run_that_is_out_of_memory_goes_on_with_half_and_says_so(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = planned(**AUTOGRAD)
    half = losses(train(spec, SweepFolder(tmp_path / "half"), micro_batch_tokens=64))
    with monkeypatch.context() as patch:
        faulty(patch, fails=1)
        lines = train(spec, SweepFolder(tmp_path / "full"))
    notes = [line for line in lines if line["t"] == "note"]
    assert notes == [{"t": "note", "what": "out of memory", "micro_batch_tokens": 64}]
    # The step that failed was done again from its beginning: bit for bit the run with half.
    assert losses(lines) == half


@not_fused
def test_a_run_that_is_out_of_memory_again_is_refused_with_what_to_set(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, fails=2)
    with pytest.raises(InputError, match="out of memory with 64 tokens at once; set") as caught:
        train(planned(**AUTOGRAD), SweepFolder(tmp_path))
    assert "micro_batch_tokens to 32 or less" in str(caught.value)


@not_fused
def test_a_run_that_learns_from_a_row_at_once_is_not_told_to_take_less(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, fails=1)
    with pytest.raises(InputError, match=r"with 16 tokens at once; set resources\.recompute: blo"):
        train(planned(**AUTOGRAD), SweepFolder(tmp_path), micro_batch_tokens=16)


@not_fused
@pytest.mark.parametrize("what", ["mlps", "blocks"])
def test_computing_activations_again_changes_no_bit(planned, tmp_path: Path, what: str) -> None:
    spec = planned(**AUTOGRAD)
    kept = losses(train(spec, SweepFolder(tmp_path / "kept")))
    assert losses(train(spec, SweepFolder(tmp_path / "again"), recompute=what)) == kept


@not_fused
def test_activations_that_the_model_does_not_name_are_refused(planned, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"resources\.recompute: 'heads', but this model has b"):
        train(planned(**AUTOGRAD), SweepFolder(tmp_path), recompute="heads")


def test_parts_are_refused_for_an_optimizer_that_needs_whole_matrices(planned) -> None:
    model = build_seeded(MODEL, planned().config["model"], seed=0)
    with pytest.raises(InputError, match=r"resources\.shard: true with train\.optimizer 'muon'"):
        shard_model(model, SOLO, choose_device("cpu", "float32"), "muon")
