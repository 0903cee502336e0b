"""Scores on tasks: the likelihood of every choice after its context, and what follows from it.

Legend: R lines (one a choice), W tokens a line after padding, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from scalekit import registry
from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import RunConfig
from scalekit.tasks.base import Line, Task, find_source
from scalekit.tokenizers.base import Coder
from scalekit.train.device import Device
from scalekit.train.evaluate import without_gradients

_TOKENS_AT_ONCE = 8192
_LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""With a large vocabulary the first is one line, which fills a processor and leaves a GPU idle."""

_NARROWEST = 16
"""Lines are padded to this many tokens or a doubling of it, so that few shapes are computed."""


@dataclass(frozen=True)
class Likelihoods:
    """What a model says to lines.

    Attributes:
        nats: Logarithm of the choice's probability after its context (R,).
        greedy: Whether every token of it was the likeliest (R,); None where nobody asked.
    """

    nats: np.ndarray
    greedy: np.ndarray | None


@dataclass(frozen=True)
class Tasks:
    """The tasks of a run, encoded for its model.

    Attributes:
        lines: Every choice of every task.
        window: The model's context.
        every: Whether they are scored at every evaluation or at the last alone.
    """

    lines: tuple[tuple[Task, tuple[Line, ...]], ...] = ()
    window: int = 0
    every: bool = False

    def report(self, model: LanguageModel, device: Device, *, is_last: bool) -> dict[str, Any]:
        """Return what the evaluation line says of the tasks: nothing when it is not their turn."""
        if not self.lines or not (is_last or self.every):
            return {}
        scores = {}
        for task, lines in self.lines:
            said = likelihoods(model, lines, device, self.window, greedy=task.is_cloze)
            scores[task.name] = {**summarise(task, lines, said), "fingerprint": task.fingerprint}
        return {"tasks": scores}


def open_tasks(config: RunConfig) -> Tasks:
    """Read the tasks of a run and encode them.

    Raises:
        InputError: One cannot be read, does not fit the model, or has the name of another.
    """
    model, data = config.model, config.data.model_dump()
    assert model.vocab is not None
    coder: Coder | None = None
    opened: dict[str, tuple[Task, tuple[Line, ...]]] = {}
    for text in config.eval.tasks:
        source, where = find_source(text)
        task = source.open(where)
        if task.name in opened:
            raise InputError(f"eval.tasks: two tasks are called {task.name!r}; rename a file")
        if task.is_text and coder is None:
            coder = registry.find("datasets", config.data.source).coder(data)
        lines = task.encode(coder, model.vocab, model.context)
        opened[task.name] = (task, tuple(lines))
    return Tasks(tuple(opened.values()), model.context, config.eval.tasks_at == "every")


def likelihoods(
    model: LanguageModel, lines: Sequence[Line], device: Device, window: int, *, greedy: bool
) -> Likelihoods:
    """Measure the likelihood of each line's choice, the shortest lines first."""
    model.eval()
    nats, likeliest = np.empty(len(lines)), np.empty(len(lines), dtype=bool)
    with without_gradients(model):
        for part, rows, chosen in _batches(lines, window):
            tokens, targets = device.batch(rows)
            with device.autocast():
                if greedy:
                    losses, is_top = _by_logits(model, tokens, targets)
                    likeliest[part] = (is_top | ~chosen).all(axis=1)
                else:
                    losses = model.loss(tokens, targets, reduction="none").double().cpu().numpy()
            nats[part] = -np.where(chosen, losses, 0.0).sum(axis=1)
    model.train()
    return Likelihoods(nats, likeliest if greedy else None)


def summarise(task: Task, lines: Sequence[Line], said: Likelihoods) -> dict[str, Any]:
    """Turn likelihoods into means over the items of a task, each with its standard error.

    Returns:
        `accuracy`: the likeliest choice is right (choices that tie share it); of cloze items, each
        token of the answer is the likeliest. `accuracy_norm`: the same by likelihood per character
        (per token where items are tokens), the `acc_norm` of lm-evaluation-harness.
        `probability`: of the right answer, among the choices where there are some (Schaeffer et al.
        2024, arXiv:2406.04391). `bits`: of the right answer, per byte or token; `loss`: in nats per
        token. `items`, and what `bits` are per.
    """
    answers = [item.answer for item in task.items]
    nats, size, letters, n_tokens = (
        _by_item(values, lines)
        for values in (
            said.nats,
            [line.size for line in lines],
            [line.letters for line in lines],
            [line.n_choice for line in lines],
        )
    )
    right = np.array([row[a] for row, a in zip(nats, answers, strict=True)])
    right_size = np.array([row[a] for row, a in zip(size, answers, strict=True)])
    right_tokens = np.array([row[a] for row, a in zip(n_tokens, answers, strict=True)])
    found = {"loss": -right / right_tokens, "bits": -right / math.log(2) / right_size}
    if said.greedy is not None:
        found |= {"accuracy": said.greedy.astype(float), "probability": np.exp(right)}
    else:
        per_letter = [row / of for row, of in zip(nats, letters, strict=True)]
        found |= {
            "accuracy": _credits(nats, answers),
            "accuracy_norm": _credits(per_letter, answers),
            "probability": np.array([_share(r, a) for r, a in zip(nats, answers, strict=True)]),
        }
    per = "byte" if task.is_text else "token"
    return {**_means(found), "items": len(task.items), "bits_per": per}


def _means(found: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return the mean of each (n,), and its standard error where there are two items or more."""
    told: dict[str, float | None] = {}
    for name, values in found.items():
        n = len(values)
        told[name] = float(values.mean())
        told[f"{name}_sem"] = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return told


def _by_item(values: Any, lines: Sequence[Line]) -> list[np.ndarray]:
    """Cut what is known of every line into one array an item."""
    items = np.array([line.item for line in lines])
    return np.split(np.asarray(values, dtype=float), np.flatnonzero(np.diff(items)) + 1)


def _credits(rows: Sequence[np.ndarray], answers: Sequence[int]) -> np.ndarray:
    """Return 1 for each item whose answer stands highest, less where others stand as high."""
    tops = [row == row.max() for row in rows]
    return np.array([top[a] / max(top.sum(), 1) for top, a in zip(tops, answers, strict=True)])


def _share(nats: np.ndarray, answer: int) -> float:
    weights = np.exp(nats - nats.max())
    return float(weights[answer] / weights.sum())


def _batches(
    lines: Sequence[Line], window: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lay lines out side by side: which they are, rows (R, W + 1), and where choices are (R, W)."""
    lengths = np.array([len(line.tokens) - 1 for line in lines])
    widths = np.minimum(_NARROWEST * 2 ** np.ceil(np.log2(lengths / _NARROWEST)).clip(0), window)
    for width in np.unique(widths).astype(int):
        of_width = np.flatnonzero(widths == width)
        at_once = max(1, _TOKENS_AT_ONCE // width)
        for first in range(0, len(of_width), at_once):
            part = of_width[first : first + at_once]
            rows = np.zeros((len(part), width + 1), dtype=np.int64)
            chosen = np.zeros((len(part), width), dtype=bool)
            for row, marks, place in zip(rows, chosen, part, strict=True):
                line = lines[place]
                row[: len(line.tokens)] = line.tokens
                # Behind them is padding, which causal attention never lets them see.
                marks[len(line.tokens) - 1 - line.n_choice : len(line.tokens) - 1] = True
            yield part, rows, chosen


def _by_logits(
    model: LanguageModel, tokens: torch.Tensor, targets: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of targets (R, W) and whether each is the likeliest token."""
    losses, tops = [], []
    at_once, rows = 1, len(tokens)
    first = 0
    while first < rows:
        part = slice(first, first + at_once)
        logits = model(tokens[part]).float()  # (r, W, V)
        loss = F.cross_entropy(logits.flatten(0, 1), targets[part].flatten(), reduction="none")
        losses.append(loss.view(targets[part].shape).double())
        tops.append(logits.argmax(dim=-1) == targets[part])
        first += at_once
        at_once = rows_at_once(tokens.device, logits[0].numel())
    return torch.cat(losses).cpu().numpy(), torch.cat(tops).cpu().numpy()


def rows_at_once(device: torch.device, logits: int) -> int:
    """Return how many lines of so many logits each are scored at once."""
    return max(1, _LOGITS_AT_ONCE[device.type] // logits)
