"""What a source of tasks must offer: items with a context and choices, of which one is right.

A member of `tasks/` binds `TASK`, a `TaskSource`. A task is written `MEMBER:WHERE`, or as a path
alone, which is a file of JSON lines. Importing a member needs no torch, and neither does `plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalekit import registry
from scalekit.errors import InputError
from scalekit.tokenizers.base import Coder

Piece = str | tuple[int, ...]
"""Text, or tokens as they are."""

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Context and choice as tokens."""

PLAIN = "jsonl"
"""The member that reads a path alone."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        context: What the model is given.
        choices: What may follow; a cloze item has the right answer alone.
        answer: Which choice is right, counted from zero.
    """

    context: Piece
    choices: tuple[Piece, ...]
    answer: int


@dataclass(frozen=True)
class Line:
    """One choice after its context, as tokens.

    Attributes:
        item: Which item, counted from zero.
        tokens: Context and choice; a context too long for the model has lost its beginning.
        n_choice: How many of them, at the end, are the choice.
        size: The choice's length in bytes of text, or in tokens where the item is tokens.
        letters: Its length in characters without the space before it, or in tokens likewise.
    """

    item: int
    tokens: tuple[int, ...]
    n_choice: int
    size: int
    letters: int


@dataclass(frozen=True)
class Task:
    """A set of items that are scored together: all cloze or none, all text or all tokens.

    Attributes:
        name: As in columns and messages.
        fingerprint: A hash of what was read, for the record.
    """

    name: str
    items: tuple[Item, ...]
    fingerprint: str

    @property
    def is_cloze(self) -> bool:
        """Whether there is nothing to choose from."""
        return len(self.items[0].choices) == 1

    @property
    def is_text(self) -> bool:
        """Whether the items need a tokenizer."""
        return isinstance(self.items[0].context, str)

    def encode(self, coder: Coder | None, vocab: int, window: int) -> list[Line]:
        """Return every choice of every item, in order, as a model with that window takes it.

        Args:
            coder: The tokenizer of the model's training data, None where it is not known.
            vocab: The model's.
            window: The model's context.

        Raises:
            InputError: Text without a tokenizer, a token out of the vocabulary, a choice that alone
                is longer than the window, or nothing before it.
        """
        numbers = [number for number, item in enumerate(self.items) for _ in item.choices]
        pieces = [(item.context, choice) for item in self.items for choice in item.choices]
        lines = []
        for number, (_, choice), (context, after) in zip(
            numbers, pieces, self._tokens(pieces, coder), strict=True
        ):
            where = f"task {self.name!r}, item {number + 1}"
            _check(context + after, len(after), vocab, window, where)
            kept = (context + after)[-window - 1 :]
            lines.append(Line(number, kept, len(after), *_lengths(choice)))
        return lines

    def _tokens(self, pieces: Sequence[tuple[Piece, Piece]], coder: Coder | None) -> list[Pair]:
        """Return contexts and choices as tokens."""
        if not self.is_text:
            return [(tuple(context), tuple(choice)) for context, choice in pieces]  # type: ignore[misc]
        if coder is None:
            raise without_tokenizer(self.name)
        return _encoded([(str(context), str(choice)) for context, choice in pieces], coder)


@dataclass(frozen=True)
class TaskSource:
    """A member of the family.

    Attributes:
        name: The file name.
        plan: From WHERE to the task where it can be read quickly and without torch, else None;
            raises InputError where it is known already that `open` will.
        open: From WHERE to the task.
        is_text: Whether its tasks are all text, which is known before one is read.
    """

    name: str
    plan: Callable[[str], Task | None]
    open: Callable[[str], Task]
    is_text: bool = False

    def check_unread(self, where: str, coder: Callable[[], Coder | None]) -> None:
        """Refuse a task that `plan` could not read where it is known already that it must fail.

        Raises:
            InputError: It is text, and the tokenizer of the run's data is not known.
        """
        if self.is_text and coder() is None:
            raise without_tokenizer(where)


def without_tokenizer(name: str) -> InputError:
    """Say that a task of text cannot be scored on data whose tokenizer is not known."""
    return InputError(
        f"task {name!r}: is text, and the run's data do not say which tokenizer made their tokens; "
        "prepare them with `scalekit data prepare`, or write the items as lists of tokens"
    )


def find_source(text: str) -> tuple[TaskSource, str]:
    """Split `MEMBER:WHERE` into the member and WHERE."""
    member, where = registry.split_member("tasks", text, PLAIN)
    return registry.find("tasks", member), where


def make_task(name: str, items: Sequence[Item], fingerprint: str, where: str) -> Task:
    """Make a task of items that can be scored together.

    Raises:
        InputError: None, or some that differ in kind.
    """
    if not items:
        raise InputError(f"{where}: no items; write one a line")
    task = Task(name, tuple(items), fingerprint)
    for number, item in enumerate(items, start=1):
        pieces = (item.context, *item.choices)
        if any(isinstance(piece, str) != task.is_text for piece in pieces):
            raise InputError(f"{where}: item {number} mixes text and tokens; write all as one")
        if (len(item.choices) == 1) != task.is_cloze:
            raise InputError(
                f"{where}: item {number} has {len(item.choices)} choices and the first "
                f"{len(items[0].choices)}; put cloze items into a file of their own"
            )
    return task


def _lengths(choice: Piece) -> tuple[int, int]:
    """Return a choice's bytes and its characters, or its tokens for both."""
    if not isinstance(choice, str):
        return len(choice), len(choice)
    # A choice of nothing but space has a length too.
    return len(choice.encode()), len(choice.lstrip(" ")) or len(choice)


def _encoded(pieces: Sequence[tuple[str, str]], coder: Coder) -> list[Pair]:
    """Return contexts and choices as tokens, cut where lm-evaluation-harness cuts them.

    Both are encoded together, so that tokens join as they do in running text, and what is longer
    than the context alone is the choice. Spaces at the end of the context count to the choice,
    where most tokenizers put them. Where a token reaches over the cut, the context's own tokens
    stand before it, as in the harness (`TemplateLM._encode_pair`), so that scores are its scores.
    """
    contexts = coder.encode([context.rstrip() for context, _ in pieces])
    wholes = coder.encode([context + choice for context, choice in pieces])
    return [
        (tuple(context), tuple(whole[len(context) :]))
        for context, whole in zip(contexts, wholes, strict=True)
    ]


def _check(tokens: tuple[int, ...], n_choice: int, vocab: int, window: int, where: str) -> None:
    if n_choice < 1:
        raise InputError(
            f"{where}: a choice without a token of its own, the tokenizer makes it one with the "
            "end of its context; begin the choice with a space, or cut the text elsewhere"
        )
    if n_choice >= len(tokens):
        raise InputError(f"{where}: nothing before the choice; give it a context")
    if n_choice > window:
        raise InputError(
            f"{where}: a choice of {n_choice} tokens, model.context is {window}; shorten it, or "
            "raise model.context"
        )
    if not 0 <= min(tokens) <= max(tokens) < vocab:
        wrong = min(tokens) if min(tokens) < 0 else max(tokens)
        raise InputError(f"{where}: token {wrong}, but model.vocab is {vocab}; mend the item")
