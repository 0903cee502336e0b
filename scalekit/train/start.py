"""The weights that a run ends with, kept for others, and runs that start from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scalekit.errors import InputError
from scalekit.models.base import LanguageModel
from scalekit.sweep.spec import RunConfig
from scalekit.sweep.start import weights_file
from scalekit.train.account import spends
from scalekit.train.checkpoint import Checkpoints, read_tensors
from scalekit.train.job import Job, Progress, measure, tell
from scalekit.train.lora import Lora
from scalekit.train.team import Team
from scalekit.train.weights import SCHEMA


def begin(model: LanguageModel, config: RunConfig, own: Checkpoints, team: Team) -> LanguageModel:
    """Give a model the weights that its run starts from, and adapters if those are to learn.

    A run that has a checkpoint of its own has all of it there, and the weights may be gone: a
    checkpoint is of a run by its id, and an id is of the parent too.

    Args:
        model: As its seed made it.
        config: The run's.
        own: The run's checkpoints.
        team: All of it calls this.

    Raises:
        InputError: The weights are missing, damaged, of another run or of another model.
    """
    start = config.start
    if start.run is None:
        return model
    if not team.agree(lambda: bool(own.newest_first())):
        assert start.folder is not None
        _take(model, weights_file(Path(start.folder), start.run), start.run, start.step)
    if start.method == "full":
        return model
    seed = config.train.seed
    return Lora(model, start.targets, rank=start.rank, alpha=start.alpha, seed=seed)


@spends("eval_s")
def write_start(job: Job, progress: Progress) -> None:
    """Write what a run starts from, what of it learns, and what it knows of its data so far."""
    start = job.config.start
    _, measured = measure(job, 0, scores_all=True)
    learns = sum(p.numel() for group in job.model.groups() for p in group.params)
    facts = {"start_run": start.run, "start_step": start.step, "trainable_params": learns}
    tell(job, progress, t="start", step=0, **facts, **measured)


def _take(model: LanguageModel, path: Path, run: str, step: int | None) -> None:
    state = _read(path, run, step)
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: the weights do not fit this run's model, {reason:.200}; start from a run "
            "with the same model"
        ) from error


def _read(path: Path, run: str, step: int | None) -> Mapping[str, Any]:
    """Read the weights of a run at a step."""
    if not path.is_file():
        raise InputError(
            f"{path}: missing, so nothing to start from; train run {run!r} there with "
            "log.keep_weights"
        )
    try:
        state = read_tensors(path, torch.device("cpu"))
    except Exception as error:  # torch raises whatever the damaged bytes make of it
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: damaged, {reason}; train run {run!r} there again with --force"
        ) from error
    told = [state.get(key) for key in ("schema", "run", "step")] if isinstance(state, dict) else []
    if told != [SCHEMA, run, step]:
        is_theirs = told[:2] == [SCHEMA, run]
        todo = (
            "plan this sweep again" if is_theirs else f"train run {run!r} there again with --force"
        )
        raise InputError(
            f"{path}: not the weights of run {run!r} at step {step}, found {told}; {todo}"
        )
    return state
