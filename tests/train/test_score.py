"""Scores on tasks against computations of their own, one choice and one token at a time."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from scalekit import registry
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.tasks.base import Item, Line, Task, make_task
from scalekit.tokenizers.bytes import Bytes
from scalekit.train.device import choose_device
from scalekit.train.score import Likelihoods, Tasks, likelihoods, rows_at_once, summarise
from scalekit.train.spread import shard_model
from scalekit.train.team import Team

CPU = choose_device("cpu", "float32")
WINDOW = 16


@pytest.fixture
def model(planned) -> LanguageModel:
    built = build_seeded(registry.find("models", "gpt"), planned().config["model"], seed=0)
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(1.5)  # an untrained head says nearly the same of everything
    return built


def random_task(n_items: int, *, cloze: bool = False, seed: int = 0) -> Task:
    """Items of all lengths, some longer than the model's window."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 64, rng.integers(low, high)).tolist())

    items = [
        Item(
            tokens(1, 20),
            tuple(tokens(1, 5) for _ in range(1 if cloze else rng.integers(2, 6))),
            answer=0,
        )
        for _ in range(n_items)
    ]
    return make_task("random", items, "", "here")


def one_at_a_time(model: LanguageModel, line: Line) -> tuple[float, bool]:
    """The likelihood of a choice token after token, and whether each is the likeliest."""
    nats, greedy = 0.0, True
    with torch.no_grad():
        for place in range(len(line.tokens) - line.n_choice, len(line.tokens)):
            logits = model(torch.tensor([line.tokens[:place]]))[0, -1].double()
            nats += torch.log_softmax(logits, 0)[line.tokens[place]].item()
            greedy &= int(logits.argmax()) == line.tokens[place]
    return nats, greedy


@pytest.mark.parametrize("greedy", [False, True])
def test_likelihoods_are_what_a_token_at_a_time_gives(
    model: LanguageModel, *, greedy: bool
) -> None:
    lines = random_task(60).encode(None, 64, WINDOW)
    said = likelihoods(model, lines, CPU, WINDOW, greedy=greedy)
    expected = [one_at_a_time(model, line) for line in lines]
    # float32 logits of order one, summed over a few tokens.
    assert said.nats == pytest.approx([nats for nats, _ in expected], abs=1e-4)
    if greedy:
        assert said.greedy is not None
        assert said.greedy.tolist() == [top for _, top in expected]
        assert 0 < said.greedy.sum() < len(lines)
    else:
        assert said.greedy is None


@pytest.mark.parametrize("greedy", [False, True])
def test_scoring_a_model_in_parts_leaves_its_next_gradients_alone(
    model: LanguageModel, alone: Team, *, greedy: bool
) -> None:
    rows = torch.randint(64, (3, WINDOW + 1), generator=torch.Generator().manual_seed(0))
    batch = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    LanguageModel.gradients(model, *batch, nullcontext())
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    shard_model(model, alone, CPU, "adamw")
    likelihoods(model, random_task(3).encode(None, 64, WINDOW), CPU, WINDOW, greedy=greedy)
    LanguageModel.gradients(model, *batch, nullcontext())
    for name, p in model.named_parameters():
        assert isinstance(p.grad, DTensor)
        # In float32, and as means over a team, which divide once more.
        torch.testing.assert_close(p.grad.full_tensor(), expected[name], rtol=1e-4, atol=1e-5)


def test_scoring_leaves_gradients_mode_and_generator_alone(model: LanguageModel) -> None:
    lines = random_task(5).encode(None, 64, WINDOW)
    before = torch.get_rng_state()
    likelihoods(model, lines, CPU, WINDOW, greedy=True)
    likelihoods(model, lines, CPU, WINDOW, greedy=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def told(rows: list[list[float]], answers: list[int], texts: list[list[str]]) -> dict:
    """Summarise likelihoods of choices given as text."""
    items = [Item("q", tuple(row), a) for row, a in zip(texts, answers, strict=True)]
    task = make_task("t", items, "", "here")
    lines = task.encode(Bytes(), 256, WINDOW)
    nats = np.array([nats for row in rows for nats in row])
    return summarise(task, lines, Likelihoods(nats, None))


def test_accuracy_is_of_the_likeliest_choice_and_its_norm_of_the_likeliest_per_letter() -> None:
    # The first is right by both, the second only by length: -3 over six letters beats -2 over two.
    said = told(
        [[-1.0, -4.0], [-2.0, -3.0]], answers=[0, 1], texts=[["aa", "bb"], ["cc", "dddddd"]]
    )
    assert said["accuracy"] == 0.5
    assert said["accuracy_norm"] == 1.0
    # Two items, one right: sd sqrt(1/2), over sqrt(2).
    assert said["accuracy_sem"] == pytest.approx(0.5)
    assert said["accuracy_norm_sem"] == 0.0
    shares = [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(1))]
    assert said["probability"] == pytest.approx(np.mean(shares))
    assert said["probability_sem"] == pytest.approx(np.std(shares, ddof=1) / math.sqrt(2))
    assert said["bits"] == pytest.approx(np.mean([1 / 2, 3 / 6]) / math.log(2))
    assert said["loss"] == pytest.approx(np.mean([1 / 2, 3 / 6]))
    assert (said["items"], said["bits_per"]) == (2, "byte")


def test_letters_of_several_bytes_count_once_in_the_norm_as_in_the_harness() -> None:
    # lm-evaluation-harness divides by len(choice): -3 over three letters against -4 over five.
    # By bytes it would be -3 over six, and the other choice.
    said = told([[-3.0, -4.0]], answers=[1], texts=[["\u00e9" * 3, "ddddd"]])
    assert said["accuracy_norm"] == 1.0
    assert said["bits"] == pytest.approx(4 / 5 / math.log(2))


def test_the_space_before_a_choice_is_no_letter_of_it_as_in_the_harness() -> None:
    # -3.6 over two letters beats -1.9 over one; with the spaces, over three and two, it would not.
    said = told([[-1.9, -3.6]], answers=[1], texts=[[" a", " bb"]])
    assert said["accuracy_norm"] == 1.0
    # The bits are of all that was predicted.
    assert said["bits"] == pytest.approx(3.6 / 3 / math.log(2))


def test_choices_that_tie_share_an_item_wherever_the_answer_stands() -> None:
    said = told(
        [[-1.0, -1.0, -2.0], [-2.0, -1.0, -1.0]],
        answers=[0, 0],
        texts=[["a", "b", "c"], ["a", "b", "c"]],
    )
    assert said["accuracy"] == 0.25


def test_an_untrained_model_guesses(planned) -> None:
    """Chance is where it should be, within three standard errors."""
    model = build_seeded(registry.find("models", "gpt"), planned().config["model"], seed=1)
    rng = np.random.default_rng(0)
    items = []
    for item in random_task(400).items:
        choices = tuple((int(token),) for token in rng.permutation(64)[:4])
        items.append(Item(item.context, choices, int(rng.integers(4))))
    task = make_task("t", items, "", "here")
    lines = task.encode(None, 64, WINDOW)
    said = summarise(task, lines, likelihoods(model, lines, CPU, WINDOW, greedy=False))
    assert said["accuracy"] == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 400))


def test_a_cloze_item_is_right_when_each_token_is_the_likeliest(model: LanguageModel) -> None:
    task = random_task(80, cloze=True)
    lines = task.encode(None, 64, WINDOW)
    said = summarise(task, lines, likelihoods(model, lines, CPU, WINDOW, greedy=True))
    expected = [one_at_a_time(model, line) for line in lines]
    assert said["accuracy"] == np.mean([top for _, top in expected])
    # float32 logits of order one, summed over a few tokens.
    assert said["probability"] == pytest.approx(np.mean([math.exp(n) for n, _ in expected]), 1e-4)
    assert said["bits_per"] == "token"
    assert "accuracy_norm" not in said


def test_a_gpu_is_given_many_lines_of_a_large_vocabulary_at_once() -> None:
    logits = 64 * 50_304
    assert rows_at_once(torch.device("cpu"), logits) == 1
    # Of float32 half a gigabyte, as much as evaluation takes.
    assert rows_at_once(torch.device("cuda"), logits) == 41


def test_one_item_has_no_standard_error() -> None:
    assert told([[-1.0, -2.0]], [0], [["a", "b"]])["accuracy_sem"] is None


def test_tasks_are_scored_when_it_is_their_turn(model: LanguageModel) -> None:
    task = random_task(3)
    lines = tuple(task.encode(None, 64, WINDOW))
    at_end, always = (Tasks(((task, lines),), WINDOW, every) for every in (False, True))
    assert at_end.report(model, CPU, is_last=False) == {}
    assert set(at_end.report(model, CPU, is_last=True)["tasks"]) == {"random"}
    assert set(always.report(model, CPU, is_last=False)["tasks"]) == {"random"}
    assert Tasks().report(model, CPU, is_last=True) == {}
