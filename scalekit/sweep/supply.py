"""What a run's data offers: its vocabulary, how many tokens it has, and which text it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from scalekit import registry
from scalekit.errors import ScalekitError
from scalekit.sweep.keys import HORIZON, KEYS
from scalekit.sweep.point import Point, Rule, RunProblemError
from scalekit.sweep.sweep_spec import BUDGET, nest

_DATA = tuple(name for name in KEYS if name.startswith("data."))
_OF_ALL = tuple(name for name in _DATA if name != "data.unique_tokens")
_Question = Callable[[Any, Mapping[str, Any], Point], Any]
"""What to ask of a dataset, given the settings of its data, for a run."""


def facts_rules() -> dict[str, Rule]:
    """Return rules for the facts of a run's data, and of all of them, which ask each dataset once.

    The vocabulary is that of all, so that `data.unique_tokens` may follow from a run's tokens. A
    dataset is a plug-in found by its name, so nothing of `datasets/` is imported here.
    """
    of_all = _asked_once(_OF_ALL, lambda dataset, data, _: dataset.facts(data))
    of_some = _asked_once(_DATA, lambda dataset, data, _: dataset.facts(data))

    def facts(p: Point) -> Any:
        return of_all(p) if p["data.unique_tokens"] is None else of_some(p)

    return {"facts of all": of_all, "facts": facts}


def n_rows_rule() -> Rule:
    """Return a rule for the rows that a run may take before one repeats, and the held-out ones."""
    keys = (*_DATA, "model.context")
    return _asked_once(keys, lambda dataset, data, p: dataset.n_rows(data, p["model.context"]))


def _asked_once(keys: tuple[str, ...], question: _Question) -> Rule:
    values = itemgetter(*keys)
    known: dict[tuple[Any, ...], Any] = {}

    def answer(point: Point) -> Any:
        row = values(point)
        if row not in known:
            known[row] = _ask(point, keys, question)
        return known[row]

    return answer


def _ask(point: Point, keys: Iterable[str], question: _Question) -> Any:
    settings = {name: point[name] for name in keys if name in _DATA}
    try:
        dataset = registry.find("datasets", settings["data.source"])
        return question(dataset, nest(settings)["data"], point)
    except ScalekitError as error:
        # A dataset says `data.path: what; what to do`.
        said = re.match(r"(data\.[\w.]+): (.*)", str(error), re.DOTALL)
        key, message = said.groups() if said else ("data.source", str(error))
        what, _, todo = message.partition("; ")
        raise RunProblemError(key, f"{key} {what}", todo) from error


def vocab(p: Point) -> int:
    """Return the data's number of symbols."""
    known = p["facts of all"].get("vocab")
    if known is None:
        what = f"model.vocab does not follow from data.source {p['data.source']!r}"
        raise RunProblemError("model.vocab", what, "set model.vocab")
    return known


def check_supply(p: Point) -> None:
    """Refuse data that is not what the run's settings say.

    Raises:
        RunProblemError: Too few symbols, rows or held-out tokens, or another text than was named.
    """
    facts = p["facts"]
    symbols = facts.get("vocab")
    if symbols is not None and p["model.vocab"] < symbols:
        what = f"model.vocab {p['model.vocab']} is smaller than the data's {symbols} symbols"
        raise RunProblemError("model.vocab", what, "leave it out")
    named, found = p["data.fingerprint"], facts.get("fingerprint")
    if named is not None and found is not None and named != found:
        what = f"data.fingerprint is {named!r}, found {found!r}"
        raise RunProblemError("data.fingerprint", what, "name the data it was, or leave it out")
    named, found = p["data.tokenizer"], facts.get("tokenizer")
    # `bytes` is the default, so nobody may have written it.
    if found is not None and named != "bytes" and not found.startswith(named):
        what = f"data.tokenizer is {named!r}, the data was prepared with {found!r}"
        raise RunProblemError("data.tokenizer", what, "leave it out")
    _check_rows(p)


def _check_rows(p: Point) -> None:
    """Refuse data without a row to learn from, or with fewer held-out ones than are asked."""
    asked, context, (train, held_out) = p["data.val_tokens"], p["model.context"], p["n_rows"]
    if train == 0:
        key = "model.context" if p["data.unique_tokens"] is None else "data.unique_tokens"
        what = f"the training tokens are not one row of {context}"
        raise RunProblemError(key, what, "ask for more, or lower model.context")
    if asked < context:
        what = f"data.val_tokens {asked:,} are not one row of {context} tokens"
        raise RunProblemError("data.val_tokens", what, "ask for more, or lower model.context")
    if held_out is not None and asked // context > held_out:
        there = f"the data has {held_out * context:,} in rows of {context}"
        what = f"data.val_tokens {asked:,} are asked, {there}"
        raise RunProblemError("data.val_tokens", what, "ask for fewer")


def check_repetition(p: Point) -> None:
    """Refuse a run that repeats its data, unless it was asked for by name.

    Raises:
        RunProblemError: More epochs than `data.max_epochs`.
    """
    n_rows, _ = p["n_rows"]
    if n_rows is None:
        return
    unique, most = max(1, n_rows * p["model.context"]), p["data.max_epochs"]
    epochs = p["D"] / unique
    if epochs > most:
        what = (
            f"{p['D']:,} training tokens are {epochs:.4g} epochs of the {unique:,} different ones, "
            f"and data.max_epochs allows {most:g}"
        )
        raise RunProblemError(
            "data.max_epochs",
            what,
            "train on fewer, or raise data.max_epochs",
            also=(BUDGET, *HORIZON),
        )
