"""Tasks of lm-evaluation-harness, by name or from a task file of one's own, where it is installed.

`lm_eval:arc_easy`, or `lm_eval:PATH.yaml`. The harness makes the questions, prompts and examples
included; they are scored here, like any other task, and its `acc` and `acc_norm` are `accuracy` and
`accuracy_norm`. Most of its tasks download their data when they are opened, which needs a network
or the caches of a machine that had one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalekit.errors import InputError
from scalekit.tasks.base import Item, Task, TaskSource, make_task

FINGERPRINT_DIGITS = 16
_KINDS = ("multiple_choice", "loglikelihood")
_SEED, _FEWSHOT_SEED = 0, 1234
"""The harness's own where nobody names one (`simple_evaluate`)."""


def plan(where: str) -> None:
    """Say whether the harness is here; its tasks take long to open, so that is left to the run.

    Raises:
        InputError: It is not installed, or no task is named.
    """
    if not where:
        raise InputError("eval.tasks: no task after lm_eval; write lm_eval:NAME")
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            f"eval.tasks: lm_eval:{where} needs lm-evaluation-harness, which is not installed "
            "here; pip install 'scalekit-laws[lm-eval]', or write the items as JSON lines"
        )


def open_task(where: str) -> Task:
    """Let the harness make a task's questions.

    Raises:
        InputError: It is not installed, has no such task, cannot open its data, or scores it by
            anything but the likelihood of choices after one context.
    """
    plan(where)
    from lm_eval.tasks import TaskManager, get_task_dict  # pyright: ignore[reportMissingImports]

    path = Path(where)
    is_file = path.suffix in (".yaml", ".yml")
    name = path.stem if is_file else where
    try:
        folder = str(path.parent) if is_file else None
        # A file stands for itself; indexing the harness's own thousands takes seconds.
        manager = TaskManager(include_path=folder, include_defaults=not is_file)
        with _harness_draws():
            task = get_task_dict([name], manager).get(name)
            _check_kind(task, where)
            # Or its examples are drawn anew each time, and no two runs answer the same questions.
            task.set_fewshot_seed(_FEWSHOT_SEED)
            task.build_all_requests()
            items = list(_items(task, where))
    except InputError:
        raise
    # Whatever its loaders, templates and the network raise.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"eval.tasks: lm_eval:{where} cannot be opened, {reason:.200}; try it with the "
            "harness's own command"
        ) from error
    digest = hashlib.sha256(repr(items).encode()).hexdigest()[:FINGERPRINT_DIGITS]
    return make_task(name, items, digest, f"lm_eval:{where}")


@contextmanager
def _harness_draws() -> Iterator[None]:
    """Let tasks that shuffle draw the same each time; the process's own draws stay."""
    before = random.getstate()
    random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(before)


def _check_kind(task: Any, where: str) -> None:
    if task is None or isinstance(task, Mapping):
        raise InputError(f"eval.tasks: lm_eval:{where} is a group; name its tasks one by one")
    if task.OUTPUT_TYPE not in _KINDS:
        raise InputError(
            f"eval.tasks: lm_eval:{where} is scored by {task.OUTPUT_TYPE!r}; take one that is "
            f"scored by {' or '.join(_KINDS)}"
        )


def _items(task: Any, where: str) -> Iterator[Item]:
    """Turn the harness's requests into items, one for each of its documents."""
    requests: dict[int, list[Any]] = {}
    for request in task.instances:
        requests.setdefault(request.doc_id, []).append(request)
    for every in requests.values():
        asked = sorted(every, key=lambda request: request.idx)
        doc, (context, first) = asked[0].doc, asked[0].args
        if task.OUTPUT_TYPE == "loglikelihood":
            yield Item(context, (first,), 0)
            continue
        choices = task.doc_to_choice(doc)
        # More requests than choices are without a context, for a metric that is not used here.
        of_choices = asked[: len(choices)]
        if any(request.args[0] != context for request in of_choices):
            raise InputError(
                f"eval.tasks: lm_eval:{where} varies what comes before and not the choices; take "
                "another task"
            )
        texts = [request.args[1] for request in of_choices]
        # Its length is the choice's own, without the space before it.
        lead = texts[0].removesuffix(choices[0])
        if lead.isspace() and all(text.startswith(lead) for text in texts):
            context, texts = context + lead, [text.removeprefix(lead) for text in texts]
        yield Item(context, tuple(texts), _answer(task.doc_to_target(doc), choices, where))


def _answer(target: Any, choices: list[str], where: str) -> int:
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    if isinstance(target, int) and 0 <= target < len(choices):
        return target
    raise InputError(
        f"eval.tasks: lm_eval:{where} has an item without one right choice, found {target!r:.60}; "
        "take another task"
    )


TASK = TaskSource("lm_eval", plan, open_task, is_text=True)
