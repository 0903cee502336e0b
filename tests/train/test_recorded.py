"""Steps replayed from a recording: the plain way's numbers, whatever happens around them.

No GPU is needed. `Tape` stands in for a CUDA graph and is as strict: while it records, every
operation of torch is noted with the memory it read and wrote and no number may be asked for;
replayed, the same operations run on the same memory, and no Python of the model does. torch's
compiler refuses to run below it, so compiled layers are not recorded here.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scalekit import registry
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.models.gpt import GPT
from scalekit.sweep.spec import RunConfig
from scalekit.train.device import Device
from scalekit.train.gradients import gradients_of
from scalekit.train.loop import Learner
from scalekit.train.lora import Lora
from scalekit.train.optimizer import build_optimizer
from scalekit.train.recorded import WARM_STEPS, Recorded
from scalekit.train.spread import Spread, recompute_activations
from scalekit.train.stack import Stack
from scalekit.train.team import SOLO

CPU = Device(torch.device("cpu"), "float32")
STEPS = WARM_STEPS + 4


class Tape(TorchDispatchMode):
    """What a CUDA graph is to kernels, to torch's operations."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = func(*args, **kwargs)
        read = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if _is(t)}
        # What shares memory with what was read is a view of it, or it changed in place.
        own = [t for t in tree_leaves(found) if _is(t)]
        own = [t for t in own if t.untyped_storage().data_ptr() not in read]
        self.lines.append((func, args, kwargs, own))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, own in self.lines:
            again = [t for t in tree_leaves(func(*args, **kwargs)) if _is(t)]
            for mine, new in zip(own, again, strict=bool(own)):
                mine.copy_(new)


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


class Stream:
    def wait_stream(self, other: Any) -> None: ...


@contextmanager
def recording(tape: Tape, stream: Any) -> Iterator[None]:
    Tape.made += 1
    with tape:
        yield


def forbidden(*args: Any) -> Any:
    raise RuntimeError("no state of random numbers while a stream is capturing")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "made", 0)
    monkeypatch.setattr(torch, "get_rng_state", forbidden)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    # The CPU's own kernels compute nothing that torch would see.
    monkeypatch.setattr(GPT, "computed_by", lambda model: "torch")


@pytest.fixture
def make(planned) -> Callable[..., Learner]:
    def build(
        *, records: bool, adapters: bool = False, micro_rows: int = 8, recompute: str = "none",
        dtype: Any = "float32", **train: Any,
    ) -> Learner:  # fmt: skip
        spec = planned(train=train)
        config = RunConfig.model_validate(spec.config)
        seed, device = config.train.seed, Device(torch.device("cpu"), dtype)
        model: LanguageModel = build_seeded(
            registry.find("models", "gpt"), spec.config["model"], seed
        )
        if adapters:
            model = Lora(model, ("q", "up"), rank=2, alpha=2.0, seed=0)
        recompute_activations(model, recompute)
        spread = Spread(SOLO, False, recompute, micro_rows, 8, 16, recorded=records)
        gradients = gradients_of(model, device, spread, lambda rows: None)
        return Learner(model, build_optimizer(model, config.train), device, 0.5, gradients)

    return build


def batch(step: int, *more: int) -> tuple[Tensor, Tensor]:
    rows = torch.randint(64, (*more, 8, 17), generator=torch.Generator().manual_seed(step))
    return rows[..., :-1].contiguous(), rows[..., 1:].contiguous()


def learn(one: Learner, steps: int = STEPS, first: int = 0) -> list[float]:
    found = [one.learn(*batch(i), 0.01 * (i + 1)) for i in range(first, first + steps)]
    # Asked for at the end, as a run asks for many steps' losses together.
    return [float(number) for pair in found for number in pair]


def assert_equal_weights(one: Learner, other: Learner) -> None:
    for mine, yours in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"micro_rows": 3},
        {"recompute": "blocks"},
        {"adapters": True, "micro_rows": 3},
        {"adapters": True},
        {"dtype": "bfloat16"},
        {"optimizer": "muon"},
    ],
    ids=lambda way: " ".join(map(str, way.values())) or "plain",
)
def test_replayed_steps_are_the_plain_ones_bit_for_bit(make, way: dict[str, Any]) -> None:
    recorded, plain = make(records=True, **way), make(records=False, **way)
    assert learn(recorded) == learn(plain)
    assert Tape.made == 1
    assert_equal_weights(recorded, plain)


def test_what_happens_between_steps_does_not_reach_a_recording(make) -> None:
    """Evaluations, and somebody who forgets the gradients."""
    recorded, plain = make(records=True), make(records=False)
    for one in (recorded, plain):
        learn(one)
        with torch.inference_mode():
            one.model.loss(*batch(99))
        one.model.zero_grad(set_to_none=True)
    assert learn(recorded, first=STEPS) == learn(plain, first=STEPS)
    assert Tape.made == 1


def test_weights_that_moved_are_recorded_anew(make) -> None:
    recorded, plain = make(records=True), make(records=False)
    for one in (recorded, plain):
        learn(one)
        weight = next(one.model.parameters())
        weight.data = weight.data.clone()
    assert learn(recorded, first=STEPS) == learn(plain, first=STEPS)
    assert Tape.made == 2


def test_another_shape_of_batch_is_recorded_anew(make) -> None:
    recorded, plain = make(records=True), make(records=False)
    few = [part[:8, :9].contiguous() for part in batch(50)]
    for one in (recorded, plain):
        learn(one)
    (loss, _), (expected, _) = (one.learn(*few, 0.01) for one in (recorded, plain))
    assert torch.equal(loss, expected)
    assert Tape.made == 2


@pytest.mark.parametrize("micro_rows", [8, 3])
def test_a_stack_replays_its_steps_and_records_anew_when_a_run_is_gone(
    make, micro_rows: int
) -> None:
    lrs = [0.01, 0.02, 0.03]

    def steps(*, records: bool) -> list[Tensor]:
        learners = [make(records=False, seed=i) for i in range(3)]
        stack = Stack(learners, micro_rows, lambda rows: None, records=records)
        found = [torch.cat(stack.learn(*batch(i, 3), lrs)) for i in range(STEPS)]
        stack = stack.only(learners[1:])
        return found + [torch.cat(stack.learn(*batch(i, 2), lrs[1:])) for i in range(STEPS)]

    replayed, plain = steps(records=True), steps(records=False)
    assert all(map(torch.equal, replayed, plain))
    assert Tape.made == 2


@pytest.mark.parametrize("records", [True, False])
def test_a_stack_that_lost_a_run_keeps_no_memory_of_the_steps_before(
    make, *, records: bool
) -> None:
    """A GPU's memory is full long before Python looks for what only knows itself."""
    learners = [make(records=False, seed=i) for i in range(3)]
    stack = Stack(learners, 8, lambda rows: None, records=records)
    for i in range(WARM_STEPS + 1):
        stack.learn(*batch(i, 3), [0.01] * 3)
    way = stack._gradients
    tape = weakref.ref(way._graph) if isinstance(way, Recorded) else None
    del way
    before = weakref.ref(stack)
    gc.disable()
    try:
        after = stack.only(learners[1:])
        assert tape is None or tape() is None, "before the next step asks for as much"
        stack = after
        assert before() is None
    finally:
        gc.enable()


def test_memory_that_runs_out_before_the_recording_halves_the_rows(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, plain = make(records=True), make(records=False, micro_rows=4)
    loss, full = GPT.loss, []

    def hungry(model: GPT, tokens: Tensor, *rest: Any, **more: Any) -> Tensor:
        if len(tokens) > 4:
            full.append(len(tokens))
            raise torch.OutOfMemoryError("too many rows")
        return loss(model, tokens, *rest, **more)

    monkeypatch.setattr(GPT, "loss", hungry)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert learn(recorded) == learn(plain)
    assert (full, Tape.made) == ([8], 1)


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted"), torch.OutOfMemoryError("out of memory")]
)
def test_a_step_that_cannot_be_recorded_is_named_with_what_to_do(
    make, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    one = make(records=True)
    learn(one, WARM_STEPS)
    monkeypatch.setattr(GPT, "loss", partial(_raise, error))
    with pytest.raises(InputError, match=r"resources.cuda_graph: .*; leave cuda_graph out"):
        learn(one, 1)


def test_the_reason_is_told_for_which_a_recording_broke_not_that_it_did(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken(tape: Tape, stream: Any) -> Iterator[None]:
        try:
            yield
        finally:  # as `capture_end` does after any error
            raise RuntimeError("operation failed due to a previous error during capture")

    one = make(records=True)
    learn(one, WARM_STEPS)
    monkeypatch.setattr(torch.cuda, "graph", broken)
    monkeypatch.setattr(GPT, "loss", partial(_raise, torch.OutOfMemoryError("out of memory")))
    with pytest.raises(InputError, match="cannot be recorded here, out of memory; leave"):
        learn(one, 1)


def test_a_step_that_asks_its_device_for_a_number_is_refused(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = GPT.loss

    def ask(model: GPT, *rest: Any, **more: Any) -> Tensor:
        found = loss(model, *rest, **more)
        return found if found.detach().item() > 0 else found + 1

    one = make(records=True)
    monkeypatch.setattr(GPT, "loss", ask)
    with pytest.raises(InputError, match=r"not permitted when stream is capturing"):
        learn(one)


def _raise(error: Exception, *args: Any, **options: Any) -> Any:
    raise error
