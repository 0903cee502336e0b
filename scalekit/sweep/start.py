"""Runs that start from another run's weights: which run that is, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.counting import (
    Shape,
    count_adapter_flops_per_token,
    count_adapters,
    count_maps,
)
from scalekit.errors import ScalekitError
from scalekit.sweep.keys import DEFAULTS, KEYS
from scalekit.sweep.point import SHAPE, Counted, Point, RunProblemError

_OPEN = ("model.context", "model.ffn_mult")
"""Settings of a model that its weights do not depend on, or that others say in other words."""

_ADAPTERS = ("start.rank", "start.alpha", "start.targets")
_GROUPS = {
    "attention": ("q", "k", "v", "out"),
    "mlp": ("gate", "up", "down"),
    "all": ("q", "k", "v", "out", "gate", "up", "down"),
}
_SHOWN = 5


@dataclass(frozen=True)
class Parent:
    """The run that another one starts from: its line of the plan, and the folder of its sweep."""

    folder: Path
    run: str
    config: Mapping[str, Any]
    plan: Mapping[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """The settings of its model that its weights depend on, by dotted key."""
        named = {f"model.{key}": value for key, value in self.config["model"].items()}
        return {key: value for key, value in named.items() if key in KEYS and key not in _OPEN}


def weights_file(folder: Path, run: str) -> Path:
    """Return where a sweep's folder keeps the last weights of a run."""
    return folder / "weights" / f"{run}.pt"


class Parents:
    """Finds the runs that others start from; reads each folder once."""

    def __init__(self) -> None:
        self._known: dict[str, list[Parent]] = {}

    def find(self, folder: str, run: str | None, model: Mapping[str, Any]) -> Parent:
        """Find a run by the start of its id, or the only one whose model is as asked.

        Args:
            folder: Of its sweep.
            run: Its id, or the start of it.
            model: Settings of the model by dotted key; asked of a run without a name alone.

        Raises:
            RunProblemError: No such folder or run, or more than one.
        """
        parents = self._in(folder)
        if run is not None:
            found = [parent for parent in parents if parent.run.startswith(run)]
            asked = f"run {run!r}"
        else:
            found = [p for p in parents if _agrees(p, model)]
            asked = "run with this model"
        if len(found) == 1:
            return found[0]
        ids = [parent.run for parent in found or parents]
        shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        if found:
            what = f"{len(found)} runs in {folder} fit, {shown}"
        else:
            what = f"no {asked} in {folder}, which has {shown}"
        raise RunProblemError("start.run", what, "name one by its id", also=("start.folder",))

    def _in(self, folder: str) -> list[Parent]:
        if folder not in self._known:
            self._known[folder] = _read(Path(folder))
        return self._known[folder]


def begin_from(
    given: Mapping[str, Any], written: Mapping[str, Any], parents: Parents
) -> dict[str, Any]:
    """Return the settings that follow from the run that another one starts from.

    Its model's, unless the sweep sets them itself, and which run it is; `parent` is the run, or
    None.

    Args:
        given: All settings so far, defaults included.
        written: Those that the sweep file sets.
        parents: Finds it.

    Raises:
        RunProblemError: It cannot be found, or only half is said.
    """
    folder = given["start.folder"]
    if folder is None:
        for key in ("start.run", "start.method"):
            if given[key] != DEFAULTS[key]:
                what = f"{key} is {given[key]!r} and nothing says where that run lies"
                raise RunProblemError(key, what, "set start.folder")
        return {"parent": None}
    folder = str(Path(folder).absolute())
    model = {k: v for k, v in written.items() if k.startswith("model.") and v is not None}
    parent = parents.find(folder, given["start.run"], model)
    last = parent.plan["steps"]
    if given["start.step"] not in (None, last):
        what = f"start.step is {given['start.step']}, run {parent.run} ends at step {last}"
        raise RunProblemError("start.step", what, "leave it out: the last weights alone are kept")
    followed = {key: value for key, value in parent.model.items() if key not in model}
    if "model.context" not in model:
        followed["model.context"] = parent.config["model"]["context"]
    named = {"start.folder": folder, "start.run": parent.run, "start.step": last}
    return {**followed, **named, "parent": parent}


def check_start(p: Point) -> None:
    """Refuse a start that cannot be made: another model, other tokens, no weights.

    Raises:
        RunProblemError: The first thing that does not go together.
    """
    parent: Parent | None = p["parent"]
    if parent is None:
        return
    for key, value in parent.model.items():
        if p[key] != value:
            what = f"{key} is {p[key]!r}, but run {parent.run} that this starts from has {value!r}"
            raise RunProblemError(key, what, "leave it out", also=("start.run", "start.folder"))
    _check_tokenizer(p, parent)
    missing = [name for name in _targets(p) if name not in count_maps(_shape(p))]
    if p["start.method"] == "lora" and missing:
        what = f"start.targets names {missing[0]!r}, which model.mlp {p['model.mlp']!r} has not"
        raise RunProblemError(
            "start.targets", what, f"choose from {', '.join(count_maps(_shape(p)))}"
        )
    if p["start.method"] == "lora" and p["train.optimizer"] == "muon":
        what = "muon moves a model's own matrices, and lora's adapters learn by adamw either way"
        todo = "leave it out, or set start.method full"
        raise RunProblemError("train.optimizer", what, todo, also=("start.method",))
    if not weights_file(parent.folder, parent.run).is_file():
        raise RunProblemError(
            "start.run",
            f"run {parent.run} has no weights in {parent.folder}: it is not finished, or was "
            "trained without log.keep_weights",
            "train it with that first (a finished run again by scalekit sweep --force)",
            also=("start.folder",),
        )


def count_what_learns(p: Point, whole: Counted) -> Counted:
    """Return the counts of a run: all its parameters, and its FLOPs by what of them learns."""
    if p.get("parent") is None or p["start.method"] == "full":
        return whole
    shape = _shape(p)
    # One that the model has not is refused later, by name.
    targets = [name for name in _targets(p) if name in count_maps(shape)]
    flops = count_adapter_flops_per_token(shape, targets, p["start.rank"])
    return Counted(whole.params, flops)


def _check_tokenizer(p: Point, parent: Parent) -> None:
    """Refuse tokens that stand for something else than those that the weights were learnt on.

    Raises:
        RunProblemError: They are of another tokenizer.
    """
    theirs, said = parent.config["data"]["tokenizer"], p["data.tokenizer"]
    mine = p["facts"].get("tokenizer") or said  # prepared data know theirs
    if mine == theirs or (said == theirs and not _is_known(parent.config["data"])):
        return
    what = f"data.tokenizer is {mine!r}, run {parent.run} has {theirs!r}"
    raise RunProblemError("data.tokenizer", what, "take the same", also=("start.run",))


def _is_known(data: Mapping[str, Any]) -> bool:
    """Whether data are of the tokenizer that they name, or have the default's name only."""
    try:
        return registry.find("datasets", data["source"]).coder(data) is not None
    except ScalekitError:  # they have gone since
        return False


def resolved_start(p: Point) -> dict[str, Any]:
    """Return the settings of a start in one form: equal runs become equal."""
    if p["parent"] is None or p["start.method"] == "full":
        return {key: DEFAULTS[key] for key in _ADAPTERS}
    return {"start.targets": _targets(p)}


def plan_start(p: Point) -> dict[str, Any]:
    """Return what the plan says of a start: nothing for a run that starts anew."""
    parent: Parent | None = p["parent"]
    if parent is None:
        return {}
    learns = p["counted"].params["total"]
    if p["start.method"] == "lora":
        learns = count_adapters(_shape(p), _targets(p), p["start.rank"])
    said = {"run": parent.run, "step": parent.plan["steps"], "tokens": parent.plan["tokens"]}
    return {"start": said, "trainable_params": learns}


def _targets(p: Point) -> tuple[str, ...]:
    """Return the maps that have adapters, in the order of a layer; groups spelled out."""
    asked = {name for word in p["start.targets"] for name in _GROUPS.get(word, (word,))}
    known = count_maps(_shape(p))
    grouped = any(word in _GROUPS for word in p["start.targets"])
    return tuple(n for n in _GROUPS["all"] if n in asked and (n in known or not grouped))


def _shape(p: Point) -> Shape:
    return Shape(*[p[f"model.{field}"] for field in SHAPE])


def _agrees(parent: Parent, model: Mapping[str, Any]) -> bool:
    return all(parent.model[key] == value for key, value in model.items() if key in parent.model)


def _read(folder: Path) -> list[Parent]:
    path = folder / "plan.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Parent(folder, line["id"], line["config"], line["plan"]) for line in lines]
    except OSError as error:
        what = f"start.folder is {str(folder)!r}, where {path.name} cannot be read"
        raise RunProblemError(
            "start.folder", f"{what}, {error.strerror}", "name the folder of a sweep"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"start.folder is {str(folder)!r}, whose {path.name} is no plan of this version"
        raise RunProblemError(
            "start.folder", what, "run that sweep's command again, it rewrites it"
        ) from error
