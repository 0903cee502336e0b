"""The tasks that a run is scored on, looked at before anything is submitted."""

from __future__ import annotations

from typing import Any

from scalekit import registry
from scalekit.errors import ScalekitError
from scalekit.sweep.point import Point, Rule, RunProblemError

_READ = ("eval.tasks", "data.tokenizer", "model.vocab", "model.context")


def tasks_rule() -> Rule:
    """Return a rule for the names of a run's tasks, which looks at each once.

    A source of tasks is a plug-in found by its name, so nothing of `tasks/` is imported here.
    """
    known: dict[tuple[Any, ...], tuple[str, ...]] = {}

    def names(point: Point) -> tuple[str, ...]:
        asked = tuple(point[key] for key in _READ)
        if asked not in known:
            known[asked] = tuple(_look(text, *asked[1:]) for text in asked[0])
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


def _look(text: str, tokenizer: str, vocab: int, window: int) -> str:
    """Return a task's name, after reading it where that is possible."""
    member, where = registry.split_member("tasks", text, "jsonl")
    try:
        task = registry.find("tasks", member).plan(where)
        if task is None:
            return where
        task.encode(tokenizer, vocab, window)
    except ScalekitError as error:
        what, _, todo = str(error).partition("; ")
        raise RunProblemError("eval.tasks", f"eval.tasks, {what}", todo) from error
    return task.name
