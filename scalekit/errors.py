"""Errors that a user can act on, each with its exit code.

A message reads `where: what is wrong, what was found; what to do`, in lower case, without a full
stop. Anything that is not a `ScalekitError` is a bug and may show a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

OK = 0
BUG = 1
USAGE = 2
REFUSED = 3
RUNS_FAILED = 4
NOT_FINISHED = 5
NOT_IDENTIFIED = 6
SYSTEM_TROUBLE = 7
INTERRUPTED = 130


class ScalekitError(Exception):
    """A mistake or a trouble that a user can act on."""

    exit_code = BUG


class UsageError(ScalekitError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = USAGE


class InputError(ScalekitError):
    """The input is refused: a sweep file, a table, a record, a budget."""

    exit_code = REFUSED


class RunsFailedError(ScalekitError):
    """Some runs failed, diverged or were lost."""

    exit_code = RUNS_FAILED


class NotFinishedError(ScalekitError):
    """The sweep is not finished yet."""

    exit_code = NOT_FINISHED


class FitError(ScalekitError):
    """A fit is not identified or failed its gate."""

    exit_code = NOT_IDENTIFIED


class SystemTroubleError(ScalekitError):
    """The scheduler, the file system or the machine is in the way."""

    exit_code = SYSTEM_TROUBLE


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Find the choice that a misspelt word most likely meant.

    >>> nearest("n_layer", ["n_layers", "d_model"])
    'n_layers'
    """
    found = get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, choices: Iterable[str], *, most: int = 12) -> str:
    """Say what to write instead of an unknown word: the nearest choice, or all when they are few.

    >>> did_you_mean("n_layer", ["n_layers", "d_model"])
    "did you mean 'n_layers'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'choose from a, b'
    """
    names = sorted(choices)
    close = nearest(word, names)
    if close is not None:
        return f"did you mean {close!r}?"
    if not names:
        return "there is nothing to choose from"
    shown = ", ".join(names[:most])
    return f"choose from {shown}" + (", ..." if len(names) > most else "")
