"""The numbers of several runs of one shape in one place, so that one step is a step of all of them.

Each run keeps its own model and optimizer, as the ordinary trainer makes them; their tensors become
views of a run's row here. So a run is measured, saved and restored as ever, and its checkpoint
does not tell that it had company.

Legend: R runs, B rows, T tokens a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scalekit.errors import InputError
from scalekit.train.loop import Learner
from scalekit.train.micro_batch import learn_within_memory
from scalekit.train.optimizers.adamw import AdamW, Tensors, update
from scalekit.train.recorded import Recorded

# Not in torch's stubs.
_add: Callable[..., None] = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
_copy: Callable[..., None] = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]

_ALIGN = 16
"""Each parameter begins on a multiple of so many numbers: 64 bytes, what fast loads ask for."""


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies in a row, and its group and its number in that."""

    name: str
    shape: torch.Size
    group: int
    number: int
    start: int
    stop: int


class Stack:
    """Runs that learn together.

    Args:
        learners: The runs, of one shape and at whatever steps; they train with AdamW.
        micro_rows: Rows of each that are learnt from at once.
        note: Called with the rows at once when memory ran out and they were halved.
        records: Whether the GPU replays a recording of their gradients.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        micro_rows: int,
        note: Callable[[int], None],
        *,
        records: bool = False,
    ) -> None:
        self.learners, self.micro_rows, self.note = list(learners), micro_rows, note
        self.records = records
        self._places, length = _lay_out(learners[0])
        where = learners[0].device.torch
        self._weights, self._grads, self._first, self._second = (
            torch.zeros(len(learners), length, device=where) for _ in range(4)
        )
        self._steps = torch.zeros(len(learners), device=where)
        for row, learner in enumerate(learners):
            self._move_in(row, learner)
        self._params = {
            place.name: self._of_all(self._weights, place).requires_grad_()
            for place in self._places
        }
        self._grads_of = [self._of_all(self._grads, place) for place in self._places]
        # Cut up once: a thousand views a step would take longer than the step of a small model.
        wholes = (self._weights, self._grads, self._first, self._second)
        self._parts = [self._by_group(whole) for whole in wholes]
        self._step_of = list(self._steps)
        leaves = list(self._params.values())
        self._gradients = (
            Recorded(self._add_up, self._within_memory, leaves) if records else self._within_memory
        )

    def only(self, learners: Sequence[Learner]) -> Stack:
        """Return the stack of some of the runs, as they stand; this one is over."""
        # A recording keeps the memory of a whole step, and it and its stack know each other.
        del self._gradients
        return Stack(learners, self.micro_rows, self.note, records=self.records)

    def learn(self, tokens: Tensor, targets: Tensor, lrs: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Learn from a batch of each run, at a learning rate of its own.

        Args:
            tokens: Inputs (R, B, T).
            targets: The token after each (R, B, T).
            lrs: R of them.

        Returns:
            The mean losses (R,) and the gradients' norms (R,).

        Raises:
            InputError: Memory does not hold half the rows either.
        """
        assert tokens.shape == targets.shape
        assert len(tokens) == len(lrs) == len(self.learners)
        losses = self._gradients(tokens, targets)
        norms = torch.linalg.vector_norm(self._grads, dim=1)
        limit = self.learners[0].clip
        self._grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0)[:, None])
        self._update(lrs)
        return losses, norms

    def _within_memory(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return learn_within_memory(
            partial(self._add_up, tokens, targets),
            self._halve,
            partial(self._too_much, tokens),
            may_halve=self.micro_rows > 1,
        )

    def _halve(self) -> None:
        self.micro_rows = -(-self.micro_rows // 2)
        self.note(self.micro_rows)

    def _too_much(self, tokens: Tensor) -> InputError:
        n_runs, context = len(self.learners), tokens.shape[2]
        return InputError(
            f"out of memory with {self.micro_rows * context:,} tokens of each of {n_runs} runs at "
            f"once; set resources.stack below {n_runs}, or resources.micro_batch_tokens lower"
        )

    def _add_up(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Set the gradients to those of each run's mean loss; return those losses."""
        rows = tokens.shape[1]
        n_parts = math.ceil(rows / self.micro_rows)
        losses = torch.zeros(len(tokens), device=tokens.device)
        leaves = list(self._params.values())
        for i in range(n_parts):
            part = slice(i * rows // n_parts, (i + 1) * rows // n_parts)
            share = (part.stop - part.start) / rows
            first = self.learners[0]
            with first.device.autocast():
                found = first.model.stacked_losses(self._params, tokens[:, part], targets[:, part])
            means = found.mean((1, 2)) * share
            # No run's loss depends on another's weights, so the sum's gradient is each one's own.
            grads = torch.autograd.grad(means.sum(), leaves)
            (_add if i else _copy)(self._grads_of, grads)
            losses += means.detach()
        return losses

    @torch.no_grad()
    def _update(self, lrs: Sequence[float]) -> None:
        """Update each run's row as its own optimizer would, runs of equal settings in one call."""
        self._steps += 1
        alike: dict[tuple[float, ...], list[int]] = {}
        for row, (learner, lr) in enumerate(zip(self.learners, lrs, strict=True)):
            decays = (group["weight_decay"] for group in learner.optimizer.param_groups)
            alike.setdefault((lr, *decays), []).append(row)
        betas = _adamw(self.learners[0]).betas
        for (lr, *_), rows in alike.items():
            for number, group in enumerate(self.learners[rows[0]].optimizer.param_groups):
                update(
                    self._tensors(number, rows),
                    lr=lr * group["lr_scale"],
                    betas=betas,
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                )

    def _tensors(self, group: int, rows: Sequence[int]) -> Tensors:
        """Return a group's part of some rows: one tensor a run, however many parameters it has."""
        weights, grads, first, second = (parts[group] for parts in self._parts)
        return Tensors(
            [weights[row] for row in rows],
            [grads[row] for row in rows],
            [first[row] for row in rows],
            [second[row] for row in rows],
            [self._step_of[row] for row in rows],
        )

    def _by_group(self, whole: Tensor) -> list[list[Tensor]]:
        """Return each group's part of every row."""
        spans: dict[int, tuple[int, int]] = {}
        for place in self._places:
            spans[place.group] = (spans.get(place.group, (place.start, 0))[0], place.stop)
        return [[row[start:stop] for row in whole] for start, stop in spans.values()]

    @torch.no_grad()
    def _move_in(self, row: int, learner: Learner) -> None:
        """Copy a run's numbers into its row, and let its model and optimizer see them there."""
        named = dict(learner.model.named_parameters())
        optimizer = _adamw(learner)
        for place in self._places:
            mine = named[place.name]
            mine.data = self._copied(self._weights, row, place, mine)
            mine.grad = None
            first, second = optimizer.moments[place.group]
            first[place.number] = self._copied(self._first, row, place, first[place.number])
            second[place.number] = self._copied(self._second, row, place, second[place.number])
        self._steps[row] = optimizer.steps
        optimizer.steps = self._steps[row]

    @staticmethod
    def _copied(whole: Tensor, row: int, place: _Place, values: Tensor) -> Tensor:
        view = whole[row, place.start : place.stop].view(place.shape)
        return view.copy_(values)

    @staticmethod
    def _of_all(whole: Tensor, place: _Place) -> Tensor:
        """Return one parameter of all runs, (R, ...)."""
        part = whole[:, place.start : place.stop].detach()
        return part.view(len(whole), *place.shape)


def _lay_out(learner: Learner) -> tuple[list[_Place], int]:
    """Lay out a row, group after group as the optimizer has them; return its length too."""
    names = {id(p): name for name, p in learner.model.named_parameters()}
    places, at = [], 0
    for group, settings in enumerate(learner.optimizer.param_groups):
        for number, p in enumerate(settings["params"]):
            places.append(_Place(names[id(p)], p.shape, group, number, at, at + p.numel()))
            at += -(-p.numel() // _ALIGN) * _ALIGN
    return places, at


def _adamw(learner: Learner) -> AdamW:
    assert isinstance(learner.optimizer, AdamW)
    return learner.optimizer
