"""A task in a file of JSON lines, an item a line; the file's name is the task's.

    {"context": "The sky is", "choices": [" blue", " square"], "answer": 0}
    {"context": "The sky is", "target": " blue"}
    {"context": [17, 4], "choices": [[9], [60]], "answer": 1}

The first is multiple choice, the second cloze, the third either in tokens instead of text. Context
and choice are joined as they stand, so a space between them has to be written. Other keys of an
item are for people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekit.errors import InputError
from scalekit.tasks.base import Item, Piece, Task, TaskSource, make_task

FINGERPRINT_DIGITS = 16
_BOM = b"\xef\xbb\xbf"


def read(where: str) -> Task:
    """Read a task.

    Raises:
        InputError: No such file, or a line of it is no item.
    """
    path = Path(where)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"eval.tasks: {where} cannot be read, {error.strerror}; name a file of JSON lines"
        ) from error
    items = []
    for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), start=1):
        if line.strip():
            items.append(_item(_decoded(line, f"{path}:{number}"), f"{path}:{number}"))
    digest = hashlib.sha256(data).hexdigest()[:FINGERPRINT_DIGITS]
    return make_task(path.stem, items, digest, str(path))


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8, byte {line[error.start]:#04x}; save the file as UTF-8"
        ) from error


def _item(line: str, where: str) -> Item:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON; mend the line") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not an item; write {{'context': ..., 'target': ...}}")
    context = _piece(value, "context", where)
    if "target" in value and "choices" not in value:
        return Item(context, (_piece(value, "target", where),), 0)
    choices = value.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise InputError(
            f"{where}: neither a 'target' nor two 'choices' or more, found {choices!r:.60}; add one"
        )
    answer = value.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise InputError(
            f"{where}: 'answer' must be the right choice's number from 0 to {len(choices) - 1}, "
            f"found {answer!r:.60}; mend it"
        )
    named = {str(i): choice for i, choice in enumerate(choices)}
    return Item(context, tuple(_piece(named, key, where) for key in named), answer)


def _piece(value: Mapping[str, Any], key: str, where: str) -> Piece:
    piece = value.get(key)
    name = f"choice {key}" if key.isdigit() else repr(key)
    if isinstance(piece, str) and piece:
        if not piece.isascii() and any("\ud800" <= letter <= "\udfff" for letter in piece):
            raise InputError(
                f"{where}: {name} holds a lone surrogate, which is no Unicode text; mend it"
            )
        return piece
    if isinstance(piece, list) and piece and all(type(token) is int for token in piece):
        return tuple(piece)
    raise InputError(
        f"{where}: {name} must be text or a list of tokens, found {piece!r:.60}; mend it"
    )


TASK = TaskSource("jsonl", read, read)
