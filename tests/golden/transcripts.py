"""What commands print, as one text; and comparing it with what they printed when someone read it.

`SCALEKIT_GOLDEN=write` (as `make golden` sets it) writes the files instead of comparing them.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from scalekit import cli

FOLDER = Path(__file__).parent
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_FULL_PRECISION = 12
"""From so many digits on a number is shown for machines; the last ones are the library's."""


def transcript(commands: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run commands one after the other; return command lines, stdout, stderr and exit codes.

    Lines of stderr begin with `! `, so that both streams stay apart.
    """
    parts = []
    for command in commands:
        program, *argv = shlex.split(command)
        assert program == "scalekit"
        code = cli.run(argv)
        out, err = capsys.readouterr()
        errors = "".join(f"! {line}\n" for line in err.splitlines())
        parts.append(f"$ {command}\n{out}{errors}[exit {code}]\n")
    return "\n".join(parts)


def check(name: str, found: str, *, digits_may_round: bool = False) -> None:
    """Compare a text with its golden file, whole; a file that is missing is a failure."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("SCALEKIT_GOLDEN") == "write":
        path.write_text(found, encoding="utf-8")
        return
    if not path.exists():
        pytest.fail(f"{path}: no such file; write it with `make golden` and read it")
    wrong = differences(path.read_text(encoding="utf-8"), found, digits_may_round=digits_may_round)
    if wrong:
        lines = "\n".join(wrong)
        pytest.fail(
            f"{path.name} differs; if it should, write it with `make golden`\n{lines}",
            pytrace=False,
        )


def differences(expected: str, found: str, *, digits_may_round: bool) -> list[str]:
    """List the lines that differ, as expected (-) and as found (+), with those around them."""
    before, after = expected.splitlines(), found.splitlines()
    if digits_may_round and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        after = [a if _is_same_but_rounding(a, b) else b for a, b in pairs]
    return list(difflib.unified_diff(before, after, "expected", "found", lineterm="", n=1))


def _is_same_but_rounding(a: str, b: str) -> bool:
    """Whether two lines differ only by one in the last digit that a number shows.

    Another BLAS or another processor sums in another order. That moves a converged optimum by a
    relative 1e-8 or less, which can tip the rounding of a printed digit and change nothing else.
    Where a number gets longer or shorter, so do the spaces beside it.
    """
    words = [" ".join(_NUMBER.sub("#", line).split()) for line in (a, b)]
    numbers = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=False)
    return words[0] == words[1] and all(_is_near(*pair) for pair in numbers)


def _is_near(a: str, b: str) -> bool:
    one, other = Decimal(a), Decimal(b)
    if min(map(_n_digits, (one, other))) >= _FULL_PRECISION:
        return abs(one - other) <= Decimal("1e-9") * abs(one)
    return abs(one - other) <= Decimal(10) ** max(_exponent(one), _exponent(other))


def _n_digits(value: Decimal) -> int:
    return len(value.as_tuple().digits)


def _exponent(value: Decimal) -> Any:
    return value.as_tuple().exponent
