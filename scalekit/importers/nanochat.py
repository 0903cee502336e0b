"""What nanochat's training scripts print.

`Step N | Validation bpb: X` comes after N updates and is in bits per byte; the loss of the lines
`step N/M | loss: X` is a running mean in nats per token (an exponential one, with its start
corrected). Older versions print one number of parameters, newer ones a table by group, from which
all counts follow. FLOPs per token are six a matrix parameter and `12 h q t` a layer for attention,
with the head and without the softmax.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from scalekit.importers._history import NUMBER, STEP, WHOLE, History, read_whole
from scalekit.importers._text import log_lines
from scalekit.importers.base import Imported, Importer, Source

FLOPS_KIND = "nanochat"

_EVAL = re.compile(rf"\bStep {STEP} \| Validation bpb: {NUMBER}")
_STEP = re.compile(rf"\bstep {STEP}(?:/{STEP})?(?: +\([\d.]+%\))? +\| loss: {NUMBER} \| lrm: ")
_CORE = re.compile(rf"\bStep {STEP} \| CORE metric: {NUMBER}")
_GROUP = re.compile(rf"^(wte|value_embeds|lm_head|transformer_matrices|scalars|total) *: {WHOLE}$")
_SIZE = re.compile(rf"^Number of parameters: {WHOLE}")
_BATCH = re.compile(rf"^Total batch size {WHOLE} => gradient accumulation steps")
_FLOPS = re.compile(rf"^Estimated FLOPs per token: {NUMBER}")


def _recognise(source: Source) -> bool:
    return bool(_EVAL.search(source.head_text) or _STEP.search(source.head_text))


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    history = History(str(source.path), source.run)
    groups: dict[str, int] = {}
    said: dict[str, float] = {}
    for line, words in log_lines(source):
        place = f"{source.path}:{line}"
        if found := _EVAL.search(words):
            history.add(int(found[1]), place, {"val_bpb": float(found[2])})
        elif found := _STEP.search(words):
            said["end"] = float(found[2] or 0)
            history.add(int(found[1]), place, {"train_loss": float(found[3])})
        elif found := _CORE.search(words):
            history.add(int(found[1]), place, {"core_metric": float(found[2])})
        elif found := _GROUP.match(words.strip()):
            groups[found[1]] = read_whole(found[2])
        else:
            said |= _said(words.strip())
    history.facts |= _params(groups, said)
    columns = history.columns()
    if said.get("end") and "status" not in columns:
        ended = columns["step"][-1] >= said["end"] - ("val_bpb" not in columns)
        columns["status"] = ["done" if ended else "stopped"] * len(columns["step"])
    return _imported(columns, said, history)


def _imported(columns: dict[str, list[Any]], said: dict[str, float], history: History) -> Imported:
    if "batch" in said:
        columns["batch_tokens"] = [said["batch"]] * len(columns["step"])
        columns["tokens"] = [step * said["batch"] for step in columns["step"]]
        if "flops" in said:
            columns["flops"] = [tokens * said["flops"] for tokens in columns["tokens"]]
    summed = "summed from the groups that nanochat prints"
    return Imported(
        columns,
        loss_units={"val_bpb": "bits/byte", "train_loss": "nats/token"},
        flops_kind=FLOPS_KIND,
        about={
            "val_bpb": "nanochat's held-out bits per byte",
            "train_loss": "nanochat's running mean of training losses, smoothed over some 10 steps",
            "params_total": "all parameters, value embeddings included, as nanochat prints them",
            "params_non_embedding_head": f"without token and value embeddings, {summed}",
            "params_non_embedding": f"matrices and scalars alone, {summed}",
            "tokens": "step times the total batch size that the log states",
            "flops": "tokens times nanochat's FLOPs per token, as printed: 6 a matrix parameter, "
            "head included, and attention's products, without softmax",
        },
        notes=history.notes,
        is_history=True,
    )


def _said(words: str) -> dict[str, float]:
    """Read what a line says of the whole run."""
    if found := _SIZE.match(words):
        return {"params": read_whole(found[1])}
    if found := _BATCH.match(words):
        return {"batch": read_whole(found[1])}
    if found := _FLOPS.match(words):
        return {"flops": float(found[1])}
    return {}


def _params(groups: dict[str, int], said: dict[str, float]) -> dict[str, Any]:
    if not {"wte", "lm_head", "total"} <= groups.keys():
        return {"params_total": said["params"]} if "params" in said else {}
    head = groups["total"] - groups["wte"] - groups.get("value_embeds", 0)
    return {
        "params_total": groups["total"],
        "params_non_embedding_head": head,
        "params_non_embedding": head - groups["lm_head"],
    }


IMPORTER = Importer(
    name="nanochat",
    about="what nanochat's training scripts print",
    recognise=_recognise,
    read=_read,
)
