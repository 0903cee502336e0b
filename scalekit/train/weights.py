"""The last weights of a run that keeps them, and finding the newest of any run."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.results.store import SweepFolder, write_whole
from scalekit.train.checkpoint import Checkpoints, read_tensors, without_bases
from scalekit.train.lora import Lora

SCHEMA = "scalekit.weights/1"

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Weights:
    """A model's state after a step."""

    step: int
    state: Mapping[str, Tensor]


def whole_state(model: LanguageModel) -> dict[str, Tensor]:
    """Return a model's state, adapters added in, put together where it lies in parts.

    Every process of a team calls this.
    """
    state = (model.merge() if isinstance(model, Lora) else model).state_dict()
    return {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in state.items()}


def save_weights(path: Path, run_id: str, step: int, model: Mapping[str, Tensor]) -> None:
    """Write the weights that a run ends with, from `whole_state`.

    Raises:
        SystemTroubleError: The disk refuses.
    """
    buffer = io.BytesIO()
    state = {"schema": SCHEMA, "run": run_id, "step": step, "model": without_bases(model)}
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_weights(path: Path, run_id: str) -> Weights:
    """Read them back, onto the CPU.

    Raises:
        InputError: The file is damaged, another program's or another run's.
    """
    try:
        state = read_tensors(path, _CPU)
    except Exception as error:  # torch raises whatever the damaged bytes make of it
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: damaged, {reason}; train the run again") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise InputError(f"{path}: not the weights of a run; move it away and train the run again")
    if state.get("run") != run_id:
        raise InputError(
            f"{path}: of run {state.get('run')!r}, not of {run_id!r}; move it away and train the "
            "run again"
        )
    return Weights(state["step"], state["model"])


def newest_weights(folder: SweepFolder, run_id: str, report: Callable[[str], None]) -> Weights:
    """Return what a run ended with, or else what it would evaluate at its newest checkpoint.

    Raises:
        InputError: It has neither.
    """
    path = folder.weights(run_id)
    if path.exists():
        return load_weights(path, run_id)
    state = Checkpoints(folder.checkpoints(run_id), run_id).load(_CPU, report)
    if state is None:
        raise InputError(
            f"{path}: run {run_id} has neither weights nor a checkpoint; a finished run keeps its "
            "weights where the sweep says log.keep_weights: true"
        )
    if "shards" in state:
        raise InputError(
            f"{state['shards']}: the checkpoint lies in parts; let the run end with "
            "log.keep_weights: true"
        )
    return Weights(state["step"], _evaluated(state))


def _evaluated(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights that a run with this checkpoint evaluates: their mean, where it has one.

    Adapters are not merged here, and no name of theirs is one of the model.
    """
    model, mean = state["model"], state.get("average", {}).get("mean", {})
    return dict(zip(model, mean.values(), strict=True)) if len(mean) == len(model) else model
