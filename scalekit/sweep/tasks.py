"""The tasks that a run is scored on, looked at before anything is submitted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from scalekit import registry
from scalekit.errors import ScalekitError
from scalekit.sweep.keys import KEYS
from scalekit.sweep.point import Point, Rule, RunProblemError
from scalekit.sweep.sweep_spec import nest

_DATA = tuple(name for name in KEYS if name.startswith("data."))
_TOKENIZED_BY = ("data.source", "data.path", "data.weights", "data.tokenizer")


def tasks_rule() -> Rule:
    """Return a rule for the names of a run's tasks, which looks at each once.

    A source of tasks is a plug-in found by its name, so nothing of `tasks/` is imported here.
    """
    known: dict[tuple[Any, ...], str] = {}
    coders: dict[tuple[Any, ...], Any] = {}

    def coder(point: Point) -> Any:
        by = tuple(point[key] for key in _TOKENIZED_BY)
        if by not in coders:
            data = nest({key: point[key] for key in _DATA})["data"]
            coders[by] = registry.find("datasets", by[0]).coder(data)
        return coders[by]

    def names(point: Point) -> tuple[str, ...]:
        return tuple(name(text, point) for text in point["eval.tasks"])

    def name(text: str, point: Point) -> str:
        asked = (text, *(point[key] for key in (*_TOKENIZED_BY, "model.vocab", "model.context")))
        if asked not in known:
            known[asked] = _look(text, point, partial(coder, point))
        return known[asked]

    return names


def check_tasks(p: Point) -> None:
    """Refuse tasks that cannot be read here or do not fit the model.

    Raises:
        RunProblemError: One of them, or two of one name.
    """
    if not p["eval.tasks"]:
        return
    names = p["tasks"]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RunProblemError("eval.tasks", f"two tasks are called {twice!r}", "rename a file")


def _look(text: str, point: Point, coder: Callable[[], Any]) -> str:
    """Return a task's name, after reading it where that is possible."""
    member, where = registry.split_member("tasks", text, "jsonl")
    try:
        source = registry.find("tasks", member)
        task = source.plan(where)
        if task is None:
            source.check_unread(where, coder)
            return where
        opened = coder() if task.is_text else None
        task.encode(opened, point["model.vocab"], point["model.context"])
    except ScalekitError as error:
        # Some say the key themselves, for whoever asks without a sweep file.
        what, _, todo = str(error).removeprefix("eval.tasks: ").partition("; ")
        raise RunProblemError("eval.tasks", f"eval.tasks, {what}", todo) from error
    return task.name
