"""`trainer_state.json` of the Hugging Face Trainer.

`loss` there is the mean of the training losses since the previous log, and the last entry's
`train_loss` is the mean over the whole run: neither is the loss at its step. `total_flos` is six
times the tokens times the parameters outside embeddings, so with an untied head it counts the head.
A run's folder holds one file a checkpoint, each with the whole history up to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit.errors import InputError
from scalekit.importers._history import History
from scalekit.importers._json_lines import parse
from scalekit.importers._text import open_text
from scalekit.importers.base import Imported, Importer, Source

FLOPS_KIND = "total_flos"

_FILE = "trainer_state.json"
_FOLDER = "checkpoint-"
_TOKENS = "num_input_tokens_seen"


def _recognise(source: Source) -> bool:
    return source.name == _FILE or (
        source.suffix == ".json" and '"log_history"' in source.head_text
    )


def _run_folder(path: Path) -> Path:
    """Return the run's folder: a checkpoint's folder lies in it."""
    folder = path.parent
    if Source(path).name != _FILE:
        return path
    return folder.parent if folder.name.startswith(_FOLDER) else folder


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    states = [(_state(source), source) for source in sources]
    state, source = max(states, key=lambda found: found[0]["global_step"])
    history = History(str(source.path), source.run)
    if len(sources) > 1:
        history.remarks.append(
            f"{source.path}: read for run {source.run!r}; the {len(sources) - 1} earlier "
            "checkpoints of the run hold a part of it"
        )
    for place, entry in enumerate(state["log_history"], start=1):
        _add(history, f"{source.path}: log_history {place}", entry)
    end, most = state["global_step"], _number(state.get("max_steps"))
    if most is not None and most > 0:
        history.facts["status"] = "done" if end >= most else "stopped"
    ends = {"flops": _number(state.get("total_flos")), "tokens": _number(state.get(_TOKENS))}
    if any(ends.values()):
        history.add(end, str(source.path), {name: n for name, n in ends.items() if n})
    columns = history.columns()
    evals = [name for name in columns if name.startswith("eval_") and name.endswith("loss")]
    return Imported(
        columns,
        # The Trainer reports whatever loss the model returns, so no unit is known.
        loss_units=dict.fromkeys(
            [*evals, *(["train_loss"] if "train_loss" in columns else [])], ""
        ),
        flops_kind=FLOPS_KIND,
        about={
            **dict.fromkeys(evals, "the Trainer's evaluation loss, of the kind the model returns"),
            "train_loss": "the mean of the training losses since the previous log",
            "train_loss_mean": "the mean of the training losses of the whole run",
            "tokens": f"{_TOKENS}, padding included",
            "flops": "total_flos at the run's end: 6 x tokens x parameters outside embeddings, the "
            "head counted where it is untied",
        },
        remarks=history.remarks,
        notes=history.notes,
        is_history=True,
    )


def _state(source: Source) -> dict[str, Any]:
    with open_text(source) as file:
        state = parse(str(source.path), file.read())
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise InputError(f"{source.path}: no log_history in it; name a {_FILE} of the Trainer")
    last = max((e["step"] for e in state["log_history"] if _has_step(e)), default=0)
    if type(state.get("global_step")) is not int or state["global_step"] < last:
        raise InputError(
            f"{source.path}: global_step is {state.get('global_step')!r}, and steps up to {last} "
            "were logged; mend the file"
        )
    return state


def _add(history: History, place: str, entry: Any) -> None:
    if not _has_step(entry):
        raise InputError(f"{place}: no step in it; mend the file")
    values = {name: value for name, value in entry.items() if name != "step"}
    if "train_runtime" in values:  # the summary that ends a run
        summary = {n: values[n] for n in ("train_loss", "train_runtime") if n in values}
        history.facts |= {f"{n}_mean" if n == "train_loss" else n: v for n, v in summary.items()}
        return
    if "loss" in values:
        values["train_loss"] = values.pop("loss")
    if "learning_rate" in values:
        values["lr"] = values.pop("learning_rate")
    if _TOKENS in values:
        values["tokens"] = _number(values.pop(_TOKENS))
    history.add(entry["step"], place, values)


def _has_step(entry: Any) -> bool:
    return isinstance(entry, Mapping) and type(entry.get("step")) is int


def _number(value: Any) -> float | None:
    """Return a number that is known: the Trainer writes 0 for what it did not count."""
    return float(value) if isinstance(value, int | float) and value else None


IMPORTER = Importer(
    name="hf_trainer",
    about="trainer_state.json of the Hugging Face Trainer",
    recognise=_recognise,
    read=_read,
    run_folder=_run_folder,
)
