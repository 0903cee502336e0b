"""Find a member of a family by its file name.

A family is a plural folder; every file in it but `base.py` is a member and its file name is the
public name. Each member file binds one upper-case name (`LAW`, `MODEL`, ...) to what it offers.
Listing imports nothing. A family inside another folder is named with its dots.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from scalekit.errors import InputError, UsageError, did_you_mean

MEMBER = {
    "laws": "LAW",
    "hyperparameters": "RULE",
    "models": "MODEL",
    "datasets": "DATASET",
    "documents": "FORMAT",
    "tokenizers": "TOKENIZER",
    "tasks": "TASK",
    "executors": "EXECUTOR",
    "plots": "PLOT",
    "reports": "REPORT",
    "importers": "IMPORTER",
    "loggers": "LOGGER",
    "commands": "COMMAND",
    "train.optimizers": "OPTIMIZER",
}


@cache
def names(family: str) -> tuple[str, ...]:
    """List the members of a family, sorted by name."""
    folder = Path(__file__).parent.joinpath(*family.split("."))
    stems = (path.stem for path in folder.glob("*.py"))
    return tuple(sorted(s for s in stems if s != "base" and not s.startswith("_")))


def find(family: str, name: str) -> Any:
    """Return what the member `name` of `family` offers.

    A name that ends in `.py` is read as a user's own file with the same contract.

    Raises:
        UsageError: No such member.
        InputError: The user's file is missing or does not bind the family's name.
    """
    if name.endswith(".py"):
        return getattr(_own_file(family, Path(name)), MEMBER[family])
    if name not in names(family):
        one = family.removesuffix("s")
        raise UsageError(f"{one} {name!r}: unknown; {did_you_mean(name, names(family))}")
    return getattr(import_module(f"scalekit.{family}.{name}"), MEMBER[family])


def split_member(family: str, text: str, otherwise: str) -> tuple[str, str]:
    """Split `MEMBER:WHERE`; what does not begin with a member of the family is WHERE alone.

    >>> split_member("tasks", "jsonl:a.jsonl", "jsonl"), split_member("tasks", "C:/a", "jsonl")
    (('jsonl', 'a.jsonl'), ('jsonl', 'C:/a'))
    """
    member, colon, where = text.partition(":")
    return (member, where) if colon and member in names(family) else (otherwise, text)


def _own_file(family: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a Python file that binds {MEMBER[family]}")
    spec = importlib.util.spec_from_file_location(f"scalekit_own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while the file is still being executed.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{path}: {type(error).__name__} while reading it, {error}; mend the file"
        ) from error
    if not hasattr(module, MEMBER[family]):
        raise InputError(
            f"{path}: binds no {MEMBER[family]}; end the file with {MEMBER[family]} = ..."
        )
    return module
