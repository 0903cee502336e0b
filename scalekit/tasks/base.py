"""What a source of tasks must offer: items with a context and choices, of which one is right.

A member of `tasks/` binds `TASK`, a `TaskSource`. A task is written `MEMBER:WHERE`, or as a path
alone, which is a file of JSON lines. Importing a member needs no torch, and neither does `plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalekit import registry
from scalekit.errors import InputError

Piece = str | tuple[int, ...]
"""Text, or tokens as they are."""

PLAIN = "jsonl"
"""The member that reads a path alone."""

Encode = Callable[[str], Sequence[int]]


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
    """

    item: int
    tokens: tuple[int, ...]
    n_choice: int
    size: int


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

    def encode(self, tokenizer: str, vocab: int, window: int) -> list[Line]:
        """Return every choice of every item, in order, as a model with that window takes it.

        Raises:
            InputError: No such tokenizer here, a token out of the vocabulary, a choice that alone
                is longer than the window, or nothing before it.
        """
        encode = _encoder(tokenizer, self.name) if self.is_text else None
        lines = []
        for number, item in enumerate(self.items):
            where = f"task {self.name!r}, item {number + 1}"
            for choice in item.choices:
                tokens, n_choice = _joined(item.context, choice, encode)
                _check(tokens, n_choice, vocab, window, where)
                size = len(choice.encode()) if isinstance(choice, str) else len(choice)
                lines.append(Line(number, tokens[-window - 1 :], n_choice, size))
        return lines


@dataclass(frozen=True)
class TaskSource:
    """A member of the family.

    Attributes:
        name: The file name.
        plan: From WHERE to the task where it can be read quickly and without torch, else None;
            raises InputError where it is known already that `open` will.
        open: From WHERE to the task.
    """

    name: str
    plan: Callable[[str], Task | None]
    open: Callable[[str], Task]


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


def _encoder(tokenizer: str, name: str) -> Encode:
    if tokenizer == "bytes":
        return str.encode
    raise InputError(
        f"task {name!r}: is text, and text cannot be made into tokens of {tokenizer!r} here; write "
        "its pieces as lists of tokens"
    )


def _joined(context: Piece, choice: Piece, encode: Encode | None) -> tuple[tuple[int, ...], int]:
    """Return context and choice as tokens, and how many of them are the choice.

    Both are encoded together, so that tokens join as they do in running text; spaces at the end of
    the context count to the choice, where most tokenizers put them. So does lm-evaluation-harness.
    """
    if isinstance(context, str) and isinstance(choice, str):
        assert encode is not None
        kept = context.rstrip()
        whole = tuple(encode(context + choice))
        return whole, len(whole) - len(encode(kept))
    assert not isinstance(context, str)
    assert not isinstance(choice, str)
    return context + choice, len(choice)


def _check(tokens: tuple[int, ...], n_choice: int, vocab: int, window: int, where: str) -> None:
    if n_choice < 1:
        raise InputError(f"{where}: an empty choice; write what may follow")
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
