"""What nanoGPT's train.py prints.

It tells `step N: train loss X, val loss Y` at each evaluation and `iter N: loss X` between, both
before the update numbered N, so that N updates were made; losses are means of cross-entropy in
nats per token, to four decimals. `number of parameters` leaves out the position embedding and
counts the embedding, which is tied to the head, once: what is called `non_embedding_head` here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from scalekit.importers._history import NUMBER, STEP, WHOLE, History, read_whole
from scalekit.importers._text import log_lines
from scalekit.importers.base import Imported, Importer, Source

_EVAL = re.compile(rf"(?<![\w/])step {STEP}: train loss {NUMBER}, val loss {NUMBER}")
_ITER = re.compile(rf"(?<![\w/])iter {STEP}: loss {NUMBER}, time ")
_BATCH = re.compile(rf"tokens per iteration will be: {WHOLE}")
_SIZE = re.compile(rf"number of parameters: {NUMBER}M\b")
_PART = re.compile(rf"num (?:non-)?decayed parameter tensors: \d+, with {WHOLE} parameters")
_OVERRIDE = re.compile(r"Overriding: (\w+) = (\S+)$")


def _recognise(source: Source) -> bool:
    return bool(_EVAL.search(source.head_text) or _ITER.search(source.head_text))


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    history = History(str(source.path), source.run)
    parts: list[int] = []
    for line, words in log_lines(source):
        if found := _EVAL.search(words):
            step, train, val = found.groups()
            values = {"train_loss": float(train), "val_loss": float(val)}
            history.add(int(step), f"{source.path}:{line}", values)
        elif found := _ITER.search(words):
            step, loss = found.groups()
            history.add(int(step), f"{source.path}:{line}", {"batch_loss": float(loss)})
        elif found := _PART.search(words):
            parts.append(read_whole(found[1]))
        else:
            history.facts |= _facts(words.strip())
    if len(parts) >= 2:
        # A resumed run prints both again.
        history.facts["params_total"] = parts[0] + parts[1]
    columns = history.columns()
    if "batch_tokens" in history.facts:
        columns["tokens"] = [step * history.facts["batch_tokens"] for step in columns["step"]]
    return Imported(
        columns,
        loss_units=dict.fromkeys(("val_loss", "train_loss", "batch_loss"), "nats/token"),
        about={
            "val_loss": "nanoGPT's mean over held-out batches, to 4 decimals",
            "train_loss": "nanoGPT's mean over training batches, to 4 decimals",
            "batch_loss": "the loss of one micro-batch, to 4 decimals",
            "params_total": "the decayed and the other parameters that nanoGPT prints, summed",
            "params_non_embedding_head": "nanoGPT's own count, rounded to 0.01M",
            "tokens": "step times the tokens per iteration that the log states",
        },
        notes=history.notes,
        is_history=True,
    )


def _facts(words: str) -> dict[str, Any]:
    """Read what a line says of the whole run."""
    if found := _BATCH.search(words):
        return {"batch_tokens": read_whole(found[1])}
    if found := _SIZE.search(words):
        return {"params_non_embedding_head": round(float(found[1]) * 1e6)}
    if found := _OVERRIDE.match(words):
        return {f"config.{found[1]}": found[2]}
    return {}


IMPORTER = Importer(
    name="nanogpt",
    about="what nanoGPT's train.py prints",
    recognise=_recognise,
    read=_read,
)
